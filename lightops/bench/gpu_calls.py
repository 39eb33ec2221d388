"""The fused calls of a network, seen on the CPU, as the kernels that a GPU would run for them."""

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightops.bench import gpu_traffic as traffic
from lightops.bench.gpu_traffic import Kernel, Map
from lightops.swap import swap_


class Call(NamedTuple):
    """One operator call: its name, its arguments by name (tensors as shapes) and the shape of its result."""

    op: str
    arguments: dict[str, Any]
    out: tuple[int, ...]

    def kernels(self, batch: int, size: int) -> list[Kernel]:
        """What runs for `batch` images in elements of `size` bytes, the call having been seen with one image."""
        a = self.arguments
        x, out = (_map(shape, batch) for shape in (a.get("x", a.get("buffer")), self.out))
        match self.op.removesuffix("_out").removesuffix("_"):
            case "bn_relu_conv2d":
                taps = prod(a["kernel"])
                return [traffic.conv(x, out, size, taps=taps, prologue=a["scale"] is not None)]
            case "conv1x1_bn_act":
                return [traffic.conv(x, out, size, residual=a["residual"] is not None, name="1x1")]
            case "dense_block":
                layers, inside = len(a["params"]) // (5 if a["bottleneck"] else 3), "in_channels" in a
                x = x._replace(c=a["in_channels"]) if inside else x
                return traffic.dense_block(x, layers, a["growth"], a["bottleneck"], size, copied=not inside)
            case "depthwise_pointwise":
                return traffic.depthwise_pointwise(x, out, prod(a["kernel"]), size, residual=a["residual"] is not None)
            case "fire":
                bypass = a["bypass"] is not None
                return traffic.fire(x, a["squeeze"], a["expand1"], a["expand3"], size, bypass=bypass)
            case "head":
                features = a["out_features"] if a["fc"] else 0
                kernels = traffic.head(x, features, size, prologue=a["scale"] is not None)
                return kernels[1:] if x.h * x.w == 1 else kernels  # a classifier behind pooled features
            case "inverted_residual":
                taps = prod(a["kernel"])
                return traffic.inverted_residual(x, out, a["hidden"], taps, size, residual=a["residual"])
            case "max_pool2d":
                return traffic.max_pool2d(x, out, size)
            case "stem":
                geometry = zip(x[2:], a["kernel"], a["stride"], a["padding"], strict=True)
                h, w = ((extent + 2 * p - k) // s + 1 for extent, k, s, p in geometry)
                return traffic.stem(x, out._replace(h=h, w=w), out, prod(a["kernel"]), size)
            case "transition":
                return traffic.transition(x, out, size)
        raise ValueError(f"no traffic model of lightops::{self.op}")


def calls_of(model: nn.Module, x: Tensor) -> list[Call]:
    """Swaps `model` and runs it on the one image x, which is on the CPU; the calls of our operators in order.

    The modules call the same operators on either device, but for the classifier behind pooled features, which a GPU
    leaves to stock: it counts as the product that it is. Raises RuntimeError where nothing runs fused.
    """
    swap_(model)
    with torch.no_grad():
        model(x)  # the first call learns the program that later ones run
        with _Recorder() as recorder:
            model(x)
    if not recorder.calls:
        raise RuntimeError("no block runs fused on this CPU (`lightops info` says why)")
    return recorder.calls


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "lightops" and not func._opname.startswith("pack_"):
            named = dict(zip((a.name for a in func._schema.arguments), args, strict=True))
            out = result if isinstance(result, Tensor) else named.get("out", named.get("buffer"))
            arguments = {name: tuple(v.shape) if isinstance(v, Tensor) else v for name, v in named.items()}
            self.calls.append(Call(func._opname, arguments, tuple(out.shape)))
        return result


def _map(shape: tuple[int, ...], batch: int) -> Map:
    return Map(shape[0] * batch, *(*shape[1:], 1, 1)[:3])
