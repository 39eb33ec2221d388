"""Memory around a tensor under test: every layout an op accepts, inside a NaN-filled buffer whose bytes are checked
afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Elements of guard on each side: at least 64 bytes for every dtype, and a multiple of 64 bytes, so that alignment is
# what the layout says.
GUARD = 64

LAYOUTS = ("nchw", "nhwc", "slice", "slice_nchw", "transposed", "expanded", "offset", "stepped", "cropped")


class Guarded:
    """A view `tensor` in a chosen layout, in a buffer that is NaN everywhere else."""

    def __init__(self, values: Tensor, layout: str):
        shape = tuple(values.shape)
        strides, start = _strides(shape, layout)
        extent = (
            1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if values.numel() else 0
        )
        self.buffer = torch.full((2 * GUARD + start + extent,), float("nan"), dtype=values.dtype)
        self.tensor = self.buffer.as_strided(shape, strides, GUARD + start)
        if layout == "expanded":
            self.tensor[:1].copy_(values[:1])
        else:
            self.tensor.copy_(values)
        self.buffer_before = self.buffer.clone()

    def check_unchanged(self, name: str) -> None:
        """Neither the values nor their surroundings were written."""
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[self.buffer.element_size()]
        changed = self.buffer.view(bits) != self.buffer_before.view(bits)
        if changed.any():
            raise AssertionError(f"{name}: {int(changed.sum())} elements of an input or its surroundings were written")


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Fresh memory is filled with NaN: an output element that a kernel does not write shows as NaN, not as luck."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _strides(shape: tuple[int, ...], layout: str) -> tuple[tuple[int, ...], int]:
    """Strides in elements, and the offset behind the guard."""
    _, c, h, w = shape
    pixel = c + 5
    table = {
        "nchw": ((c * h * w, h * w, w, 1), 0),
        "nhwc": ((c * h * w, 1, w * c, c), 0),
        "slice": ((h * w * pixel, 1, w * pixel, pixel), 3),
        "slice_nchw": (((c + 5) * h * w, h * w, w, 1), 3 * h * w),
        "transposed": ((c * h * w, h * w, 1, h), 0),
        "expanded": ((0, 1, w * c, c), 0),
        "offset": ((c * h * w, 1, w * c, c), 1),
        "stepped": ((2 * c * h * w, 2, 2 * w * c, 2 * c), 0),
        "cropped": (((h + 2) * (w + 3) * c, 1, (w + 3) * c, c), 2 * c),
    }
    return table[layout]
