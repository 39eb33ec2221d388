"""A training case: like cases.Case, with several outputs of their own types."""

from __future__ import annotations

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
    want: Tensor
    size: Tensor  # magnitude that the error is bound by, in float32 roundoff
    rounded: bool  # to the type of `view` at the end


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
        self.outputs.append(Output(name, view, whole, want, size, True))
        return view

    def flat(self, name: str, want: Tensor, size: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A poisoned dense output, of float32 unless said otherwise."""
        out = torch.full(want.shape, float("nan"), dtype=dtype or torch.float32)
        self.regions.append((out, True, name))
        self.outputs.append(Output(name, out, out, want, size, dtype is not None))
        return out


def check(case: TrainingCase, output: Output, what: str) -> None:
    got, want, dtype = output.view, output.want, output.view.dtype
    if case.exact:
        wrong = got != want.to(dtype)
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
    got.fill_(SENTINEL)
    assert (output.whole == SENTINEL).all(), f"{what} {output.name}: channels beside the slice were written"


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
        check(case, output, what)
    return True
