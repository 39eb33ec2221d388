"""The training ops of a network's step, seen on the CPU, as the kernels that a GPU would run for them."""

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from lightops.bench import gpu_training_traffic as traffic
from lightops.bench.gpu_traffic import Kernel, Map
from lightops.bench.gpu_training_traffic import Norm
from lightops.swap import swap_

_NAMESPACE = "lightops_training"


class TrainingCall(NamedTuple):
    """One operator call: its name, its arguments by name and its first result (tensors as shapes)."""

    op: str
    arguments: dict[str, Any]
    out: tuple[int, ...]

    def kernels(self, batch: int, size: int) -> list[Kernel]:
        """What runs for `batch` images in elements of `size` bytes, the call having been seen with one image."""
        a = self.arguments
        x, out = _map(a.get("x", a.get("buffer")), batch), _map(self.out, batch)
        norm = Norm(a.get("mean") is not None, bool(a.get("batch")), bool(a.get("act")))
        match self.op:
            case "batch_stats":
                return traffic.batch_stats(x, size)
            case "bn_act":
                return traffic.bn_act(x, size, residual=a["residual"] is not None)
            case "bn_act_backward" | "bn_act_mean_backward":
                return traffic.bn_act_backward(x, prod(_map(a["dy"], batch)), norm, size)
            case "bn_act_mean":
                return traffic.bn_act_mean(x, size)
            case "bn_act_max_pool2d":
                return traffic.bn_act_max_pool2d(x, out, size)
            case "bn_act_max_pool2d_backward":
                return traffic.bn_act_max_pool2d_backward(x, _map(a["dy"], batch), norm, size)
            case "bn_act_conv2d" if a["groups"] > 1:
                return traffic.depthwise(x, out, size, stats=a["stats"])
            case "bn_act_conv2d":
                taps, bias = prod(a["weight"][2:]), a["bias"] is not None
                return traffic.conv(x, out, taps, norm, size, stats=a["stats"], bias=bias)
            case "bn_act_conv2d_backward" if a["groups"] > 1:
                return traffic.depthwise_backward(x, _map(a["dy"], batch), norm, size)
            case "bn_act_conv2d_backward":
                input_, norms, weight, bias = a["needs"]
                return traffic.conv_backward(
                    x, _map(a["dy"], batch), prod(a["weight"][2:]), norm, size, classes=prod(a["stride"]),
                    pool=a["pool"], input_=input_ or (norms and norm.there), weight=weight, bias=bias,
                )  # fmt: skip
            case "dense_block_train" | "dense_block_train_backward" if a["bottleneck"]:
                layers, growth, width = len(a["eps"]) // 2, a["growth"], a["bottleneck"]
                if self.op == "dense_block_train":
                    known = a["mean_x"] is not None
                    return traffic.dense_block(x, layers, growth, width, size, copied=True, known=known)
                return traffic.dense_block_backward(x._replace(c=x.c - layers * growth), layers, growth, width, size)
            case "fire_train":
                return traffic.fire(x, a["ws"][0], a["w1"][0], a["w3"][0], size)
            case "fire_train_backward":
                biased = a["bs"] is not None
                return traffic.fire_backward(x, a["ws"][0], a["w1"][0], a["w3"][0], size, biased=biased)
            case "stem_train":
                taps, bias = prod(a["weight"][2:]), a["bias"] is not None
                return traffic.stem(x, self._stem_map(x), out, taps, size, bias=bias)
            case "stem_train_backward":
                pooled, taps, bias = _map(a["dout"], batch), prod(a["weight"][2:]), a["needs"][2]
                return traffic.stem_backward(
                    x, self._stem_map(x), pooled, taps, size, bias=bias, act=bool(a["act"])
                )  # fmt: skip
        raise ValueError(f"no traffic model of {_NAMESPACE}::{self.op}")

    def _stem_map(self, x: Map) -> Map:
        a = self.arguments
        geometry = zip(x[2:], a["weight"][2:], a["stride"], a["padding"], strict=True)
        h, w = ((extent + 2 * p - k) // s + 1 for extent, k, s, p in geometry)
        return Map(x.n, a["weight"][0], h, w)


class StepSeen(NamedTuple):
    """The calls of a training step, and what of the model torch itself works on."""

    calls: list[TrainingCall]
    parameters: int
    features: int  # in and out of the classifier; 0 where there is no nn.Linear
    classes: int


def step_of(model: nn.Module, x: Tensor) -> StepSeen:
    """Swaps `model` and trains it on the one image x, which is on the CPU: forward and backward, in float32.

    Raises RuntimeError where nothing trains fused.
    """
    swap_(model.train())
    with torch.enable_grad(), _Recorder() as recorder:
        model(x).sum().backward()
    model.zero_grad(set_to_none=True)
    if not recorder.calls:
        raise RuntimeError("no block trains fused on this CPU (`lightops info` says why)")
    linear = next((m for m in model.modules() if isinstance(m, nn.Linear)), None)
    sizes = (linear.in_features, linear.out_features) if linear else (0, 0)
    return StepSeen(recorder.calls, sum(p.numel() for p in model.parameters()), *sizes)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[TrainingCall] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == _NAMESPACE:
            # An operator with default values may be called with fewer arguments.
            named = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
            first = result if isinstance(result, Tensor) else result[0]
            self.calls.append(TrainingCall(func._opname, tree_map(_shape, named), tuple(first.shape)))
        return result


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else value


def _map(shape: tuple[int, ...], batch: int) -> Map:
    return Map(shape[0] * batch, *(*shape[1:], 1, 1, 1)[:3])
