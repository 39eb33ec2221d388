"""Runs one case on the emulator and holds it to its oracle."""

from __future__ import annotations

import torch
from block_cases import dense_block_truth
from case import Case
from cases import CASES
from drawing import SENTINEL, compare
from harness import Emulator, Gpu

REFUSALS = (
    "the halo of one output pixel does not fit shared memory",
    "the channels' scale and shift do not fit shared memory beside the tile",
    "a tile with all its channels does not fit shared memory",
    "the squeeze tile does not fit shared memory",
    "one pool window is larger than the tile",
)


def gpu_of(case: Case) -> Gpu:
    """Chip sizes that make grids too small, just right and large: splits, shares and every tile shape are met."""
    return Gpu(case.draw.pick(1, 2, 3, 1, 4, 1, 6, 2, 32), case.draw.pick(99, 163, 227) * 1024, case.draw.tf32)


def run_case(emulator: Emulator, op: str, seed: int) -> bool:
    """False when the op was refused (nothing may have been written then)."""
    case = CASES[op](seed)
    what = (
        f"{op} seed {seed} ({'exact' if case.draw.exact else 'real'}{', tf32' if case.draw.tf32 else ''}) {case.text}"
    )
    outcome = emulator.run(op, case.fields, case.regions, gpu_of(case))
    assert outcome.faults == [], f"{what}: {outcome.faults[:4]}"
    if outcome.refusal:
        assert outcome.refusal in REFUSALS, f"{what}: {outcome.refusal}"
        written = case.out[:, case.magnitude :] if op == "dense_block" else case.out
        assert torch.isnan(written).all(), f"{what}: refused, and yet wrote"
        return False
    truth = dense_block_truth(case) if op == "dense_block" else (case.out, case.want, case.magnitude)
    compare(case.draw, *truth, what)
    case.out.fill_(SENTINEL)
    if op != "head":
        assert (case.out_whole == SENTINEL).all(), f"{what}: channels beside the output slice were written"
    return True
