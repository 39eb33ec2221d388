"""Numerics block by block: each swapped module alone, on the very input it gets inside the network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from lightops.bench.contestants import swap
from lightops.bench.subjects import Subject
from lightops.bench.verify import LIGHTOPS_FACTOR

# The error target of one block alone (the sum of absolute values it grows with is not at hand here): twice stock's own
# error plus the rounding of a sum of this many terms of the output's size.
_ROUNDINGS = 16


@dataclass(frozen=True)
class BlockCheck:
    """One block: largest absolute errors against float64 of stock (worse layout) and swapped, and the limit."""

    name: str
    op: str
    stock: float
    swapped: float
    limit: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the swapped block is within its limit (NaN is not)."""
        return self.swapped <= self.limit


def check_blocks(
    subject: Subject, batch: int, dtype: torch.dtype, winograd: int, progress: Callable[[str], None] = lambda name: None
) -> tuple[list[BlockCheck], Any]:
    """Checks every swapped block, then the whole network (named ""); returns the checks and the swap report."""
    layout = torch.channels_last
    x = subject.batch(batch).to(dtype).contiguous(memory_format=layout)
    stock = subject.copy().to(dtype=dtype, memory_format=layout)
    swapped = subject.copy().to(dtype=dtype, memory_format=layout)
    report = swap(swapped, winograd)
    exact = subject.copy().to(dtype).double()
    operators = _operators(report)
    names = _replaced(stock, swapped)
    inputs = _captured(stock, names, x)
    checks = []
    for name in names:
        progress(name)
        if name in inputs:
            found = (model.get_submodule(name) for model in (stock, swapped, exact))
            checks.append(_check(name, operators.get(name, ""), *found, inputs[name]))
    progress("the whole network")
    checks.append(_check("", "whole network", stock, swapped, exact, ((x,), {})))
    return checks, report


def _operators(report: Any) -> dict[str, str]:
    """Fused ops by module. A run of children ("features.0..2") counts for the Sequential that owns it."""
    found: dict[str, list[str]] = {}
    for record in report.fused:
        name = record.name if ".." not in record.name else record.name.partition("..")[0].rpartition(".")[0]
        found.setdefault(name, []).append(record.op)
    return {name: ", ".join(dict.fromkeys(ops)) for name, ops in found.items()}


def _replaced(stock: nn.Module, swapped: nn.Module) -> list[str]:
    """Names of the modules that the swap put something else in the place of, in the order of the network."""
    before = dict(stock.named_modules())
    return [name for name, module in swapped.named_modules() if name and type(module) is not type(before.get(name))]


def _captured(model: nn.Module, names: list[str], x: Tensor) -> dict[str, tuple[tuple, dict]]:
    """What each named module is called with the first time, copied: a later module may work in place."""
    captured: dict[str, tuple[tuple, dict]] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
            captured.setdefault(name, tree_map_only(Tensor, torch.clone, (args, kwargs)))

        return keep

    handles = [model.get_submodule(n).register_forward_pre_hook(hook(n), with_kwargs=True) for n in names]
    try:
        with torch.inference_mode():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return captured


def _check(
    name: str, op: str, stock: nn.Module, swapped: nn.Module, exact: nn.Module, call: tuple[tuple, dict]
) -> BlockCheck:
    truth = _run(exact, _cast(call, lambda t: t.double()))
    contiguous = _run(stock, _cast(call, lambda t: t.contiguous()))
    as_given = _run(stock, call)
    ours = _run(swapped, call)
    worst = max(_error(contiguous, truth), _error(as_given, truth))
    size = max(t.abs().max().item() for t in truth)
    limit = LIGHTOPS_FACTOR * worst + _ROUNDINGS * torch.finfo(ours[0].dtype).eps * size
    return BlockCheck(name, op, worst, _error(ours, truth), limit, getattr(swapped, "last_reason", None) or "")


def _run(module: nn.Module, call: tuple[tuple, dict]) -> list[Tensor]:
    args, kwargs = _cast(call, torch.clone)
    with torch.inference_mode():
        return [leaf for leaf in tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]


def _cast(call: tuple[tuple, dict], change: Callable[[Tensor], Tensor]) -> tuple[tuple, dict]:
    return tree_map_only(Tensor, change, call)


def _error(found: list[Tensor], truth: list[Tensor]) -> float:
    worst = 0.0
    for ours, exact in zip(found, truth, strict=True):
        if ours.shape != exact.shape:
            return float("inf")
        difference = (ours.double() - exact).abs()
        worst = float("inf") if difference.isnan().any() else max(worst, difference.max().item())
    return worst
