"""What a case is made of: the fields for the harness, the regions it may touch, the fp64 truth and the bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from drawing import SENTINEL, Draw
from harness import DTYPE_CODES, window_fields


@dataclass
class Case:
    op: str
    draw: Draw
    fields: list[int]
    regions: list[tuple[torch.Tensor, bool, str]]
    out: torch.Tensor  # the view the kernel writes
    out_whole: torch.Tensor  # the buffer around it
    want: torch.Tensor
    magnitude: torch.Tensor
    text: str
    keep: tuple = ()  # tensors only their addresses of which are in `fields`
    schema: tuple = ()  # the same call in the arguments of torch.ops.lightops.<op>, without an output


def f32(t: torch.Tensor | None) -> torch.Tensor | None:
    return None if t is None else t.float().contiguous()


def absolute(t: torch.Tensor | None) -> torch.Tensor | None:
    return None if t is None else t.abs()


def channel(v: torch.Tensor) -> torch.Tensor:
    """A vector of channels beside a map."""
    return v.view(1, -1, 1, 1)


def pairs(kernel, stride, padding, dilation) -> list[list[int]]:
    """Kernel, stride, padding, dilation as the op schemas take them."""
    flat = window_fields(kernel, stride, padding, dilation)
    return [flat[i : i + 2] for i in range(0, 8, 2)]


def finish(op, draw, want, magnitude, text, x_whole, fields_of, inputs, rounding_steps=1.0, schema=()) -> Case:
    """Places the output, poisoned, and lists the regions."""
    out, out_whole = draw.place(torch.full(want.shape, float("nan")), SENTINEL)
    out.fill_(float("nan"))
    regions = [(x_whole, False, "x"), (out_whole, True, "out")]
    regions += [(t, False, label) for label, t in inputs.items() if t is not None]
    fields = [DTYPE_CODES[draw.dtype], *fields_of(out)]
    keep, magnitude = tuple(inputs.values()), magnitude * rounding_steps
    return Case(op, draw, fields, regions, out, out_whole, want, magnitude, text, keep, schema)
