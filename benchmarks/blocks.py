"""Stock blocks cut out of the reference networks, each with the input that it has there."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from lightops.bench.subjects import Subject, load_subject


@dataclass(frozen=True)
class Block:
    """`name` is network.layer, `module` the stock block in eval mode, `x` its float32 NCHW input."""

    name: str
    module: nn.Module
    x: Tensor


@dataclass(frozen=True)
class Part:
    """Where a block lies: modules of one network by path, one of them or a run of them that the network chains.

    `extra` modules without parameters (activation, pooling) stand in for functions that the network calls in between;
    they are put before the path that they are keyed by.
    """

    network: str
    layer: str
    paths: tuple[str, ...]
    extra: dict[str, Callable[[], nn.Module]]
    resolution: int | None = None


def part(
    network: str, layer: str, *paths: str, resolution: int | None = None, **extra: Callable[[], nn.Module]
) -> Part:
    """A part named `layer`; without paths the layer is the path. `resolution` is the network's own by default."""
    return Part(network, layer, paths or (layer,), extra, resolution)


@cache
def _subject(network: str, resolution: int | None) -> Subject:
    return load_subject(network, resolution)


def cut(found: Part, batch: int) -> Block:
    """The block of one part with its input for `batch` pictures."""
    subject = _subject(found.network, found.resolution)
    modules = [subject.model.get_submodule(path) for path in found.paths]
    captured: list[Tensor] = []
    handle = modules[0].register_forward_pre_hook(lambda module, args: captured.append(args[0].detach().clone()))
    try:
        with torch.inference_mode():
            subject.model(subject.batch(batch))
    finally:
        handle.remove()
    # Outside inference mode again: inference tensors have no version, and packing by version would be off.
    x = captured[0].clone()
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    for path, module in zip(found.paths, modules, strict=True):
        if path in found.extra:
            chain[f"before_{path.rpartition('.')[2]}"] = found.extra[path]()
        chain[path.rpartition(".")[2]] = copy.deepcopy(module)
    block = next(iter(chain.values())) if len(chain) == 1 else nn.Sequential(chain)
    return Block(f"{found.network}.{found.layer}", block.eval(), x)


def macs(module: nn.Module, x: Tensor) -> int:
    """Multiply-adds of the convolutions and linear layers of one call."""
    total = 0

    def count(layer: nn.Module, args: tuple, out: Tensor) -> None:
        nonlocal total
        per_output = layer.weight[0].numel()
        total += out.numel() * per_output

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    return total
