"""A training case: like case.Case, with several outputs of their own types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from drawing import BOUND, ROUNDOFF, SENTINEL, Draw
from harness import DTYPE_CODES
from torch import Tensor


@dataclass
class Output:
    name: str
    view: Tensor  # what the kernel writes
    whole: Tensor  # the buffer around it
    want: Tensor | Callable[[], Tensor]  # a function of other outputs is called when the kernels have run
    size: Tensor | Callable[[], Tensor]  # magnitude that the error is bound by, in float32 roundoff
    exact: bool = True  # where the case is
    always: bool = False  # exact whatever the case

    def settle(self) -> None:
        """The kernels have run."""
        self.want, self.size = (v() if callable(v) else v for v in (self.want, self.size))


@dataclass
class TrainingCase:
    op: str
    draw: Draw
    text: str
    fields: list[int] = field(default_factory=list)
    regions: list = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    keep: list = field(default_factory=list)
    schema: tuple = ()
    exact: bool = False  # every output is exact

    def __post_init__(self) -> None:
        self.fields = [DTYPE_CODES[self.draw.dtype]]
        self.exact = self.draw.exact

    def read(self, whole: Tensor | None, label: str) -> None:
        """A buffer that is only read."""
        if whole is not None:
            self.regions.append((whole, False, label))
            self.keep.append(whole)

    def image(self, name: str, want: Tensor, size: Tensor) -> Tensor:
        """A poisoned output [N, C, H, W] of the case's type, at times a slice of a wider buffer."""
        view, whole = self.draw.place(torch.full(want.shape, float("nan")), SENTINEL)
        self.regions.append((whole, True, name))
        self.outputs.append(Output(name, view, whole, want, size))
        return view

    def flat(self, name: str, want: Tensor, size: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """A poisoned dense output."""
        out = torch.full(want.shape, float("nan"), dtype=dtype)
        self.regions.append((out, True, name))
        self.outputs.append(Output(name, out, out, want, size))
        return out

    def statistics(self, y: Tensor) -> list[Tensor]:
        """Poisoned mean and variance of an output y [N, C, H, W], whose truth is taken from what y then holds."""
        made = [torch.full((y.shape[1],), float("nan")) for _ in range(2)]
        for out, name, of in zip(made, ("mean", "var"), (mean_and_size, var_and_size), strict=True):
            self.regions.append((out, True, name))
            self.outputs.append(Output(name, out, out, lambda of=of: of(y)[0], lambda of=of: of(y)[1], False))
        return made


def mean_and_size(y: Tensor) -> tuple[Tensor, Tensor]:
    y = y.double()
    return y.mean((0, 2, 3)), y.abs().mean((0, 2, 3))


def var_and_size(y: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations are not differences of large sums: the rounding of a value and of the mean, each times a deviation."""
    y = y.double()
    var = y.var((0, 2, 3), correction=0)
    return var, 4 * var + 4 * y.abs().amax((0, 2, 3)) * var.sqrt() + 1e-6 * y.square().mean((0, 2, 3))


def check(case: TrainingCase, output: Output, what: str) -> None:
    got, want, dtype = output.view, output.want, output.view.dtype
    assert isinstance(want, Tensor)
    if output.always or (case.exact and output.exact):
        wrong = (got != want.to(dtype)) & ~(got.isnan() & want.isnan())
        assert not wrong.any(), (
            f"{what} {output.name}: {int(wrong.sum())} of {wrong.numel()} differ from the exact result, first at "
            f"{wrong.nonzero()[0].tolist()}: got {got[wrong][0]}, want {want[wrong][0]}"
        )
    else:
        assert torch.isfinite(got).all(), f"{what} {output.name}: not finite"
        limit = BOUND[torch.float32] * ROUNDOFF[torch.float32] * output.size + torch.finfo(dtype).smallest_normal
        if dtype is not torch.float32:
            limit = limit + BOUND[dtype] * ROUNDOFF[dtype] * want.abs()
        worst = ((got.double() - want).abs() / limit).max().item() if got.numel() else 0.0
        assert worst <= 1, f"{what} {output.name}: error is {worst:.2f} times the bound"
    sentinel = SENTINEL if dtype.is_floating_point else -SENTINEL
    got.fill_(sentinel)
    assert (output.whole == sentinel).all(), f"{what} {output.name}: channels beside the slice were written"


def run(emulator, case: TrainingCase, gpu, seed: int, refusals: tuple[str, ...] = ()) -> bool:
    """False when the op was refused (nothing may have been written then)."""
    what = f"{case.op} seed {seed} ({'exact' if case.exact else 'real'}) {case.text}"
    outcome = emulator.run(case.op, case.fields, case.regions, gpu)
    assert outcome.faults == [], f"{what}: {outcome.faults[:4]}"
    if outcome.refusal:
        assert outcome.refusal in refusals, f"{what}: {outcome.refusal}"
        assert all(torch.isnan(o.view).all() for o in case.outputs), f"{what}: refused, and yet wrote"
        return False
    for output in case.outputs:
        output.settle()
    for output in case.outputs:
        check(case, output, what)
    return True
