"""Launch configurations by shape class. A table rather than a formula: a measurement changes one row.

The first of a row is what a launch takes; the autotuner (`_autotune`) chooses among all of them.
"""

from functools import cache
from typing import NamedTuple


class Blocks(NamedTuple):
    """A launch configuration: output pixels, output channels, and input channels of a block's step."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


# The stages of a block stay below this: of the devices that the kernels are compiled for, sm_86, sm_89 and sm_120 give
# a block the least shared memory.
SHARED_BYTES = 99 * 1024

# (kind, pixels, output channels) -> configurations for reductions of more than 32 channels.
#   kind      pointwise: one tap, and the stem, whose taps and channels are one reduction.
#             window: several taps; 4 warps at most, because with 8 Triton has miscompiled such loops (pytorch#173068).
#             depthwise: the depthwise convolution as the left operand; every column tile computes it again, hence wide
#             tiles.
#   pixels    few: below 64 of the whole batch. some: below 8192, so that the largest tile would leave a large GPU idle.
#   channels  narrow: up to 32. middle: up to 64.
TABLE: dict[tuple[str, str, str], tuple[Blocks, ...]] = {
    ("pointwise", "few", "narrow"): (Blocks(32, 32, 64, 4, 3), Blocks(16, 32, 64, 2, 4)),
    ("pointwise", "few", "middle"): (Blocks(32, 64, 64, 4, 3), Blocks(16, 32, 64, 2, 4), Blocks(16, 64, 64, 4, 4)),
    ("pointwise", "few", "wide"): (Blocks(32, 128, 64, 4, 3), Blocks(16, 64, 64, 4, 4), Blocks(16, 32, 64, 2, 4)),
    ("pointwise", "some", "narrow"): (Blocks(64, 32, 64, 4, 3), Blocks(32, 32, 64, 4, 4), Blocks(128, 32, 64, 4, 3)),
    ("pointwise", "some", "middle"): (Blocks(64, 64, 64, 4, 3), Blocks(32, 64, 64, 4, 4), Blocks(128, 64, 64, 4, 3)),
    ("pointwise", "some", "wide"): (Blocks(64, 128, 64, 4, 3), Blocks(64, 64, 64, 4, 4), Blocks(32, 64, 64, 4, 4)),
    ("pointwise", "many", "narrow"): (Blocks(128, 32, 64, 4, 3), Blocks(128, 32, 32, 4, 4), Blocks(64, 32, 64, 4, 3)),
    ("pointwise", "many", "middle"): (Blocks(128, 64, 64, 4, 3), Blocks(128, 64, 32, 4, 4), Blocks(64, 64, 64, 4, 3)),
    ("pointwise", "many", "wide"): (
        Blocks(128, 128, 64, 8, 3),
        Blocks(128, 128, 32, 4, 4),
        Blocks(128, 64, 64, 4, 3),
        Blocks(64, 128, 64, 4, 3),
    ),
    ("window", "few", "narrow"): (Blocks(32, 32, 32, 4, 3), Blocks(16, 32, 64, 2, 3)),
    ("window", "few", "middle"): (Blocks(32, 64, 32, 4, 3), Blocks(16, 32, 64, 2, 3), Blocks(32, 32, 64, 4, 3)),
    ("window", "few", "wide"): (Blocks(32, 64, 32, 4, 3), Blocks(16, 32, 64, 2, 3), Blocks(32, 32, 64, 4, 3)),
    ("window", "some", "narrow"): (Blocks(64, 32, 32, 4, 3), Blocks(32, 32, 64, 4, 3), Blocks(64, 32, 64, 4, 3)),
    ("window", "some", "middle"): (Blocks(64, 64, 32, 4, 3), Blocks(32, 64, 64, 4, 3), Blocks(64, 32, 64, 4, 3)),
    ("window", "some", "wide"): (Blocks(64, 64, 32, 4, 3), Blocks(32, 64, 64, 4, 3), Blocks(64, 128, 32, 4, 3)),
    ("window", "many", "narrow"): (Blocks(128, 32, 32, 4, 3), Blocks(128, 32, 64, 4, 3), Blocks(64, 32, 64, 4, 3)),
    ("window", "many", "middle"): (Blocks(128, 64, 32, 4, 3), Blocks(128, 64, 64, 4, 3), Blocks(64, 64, 64, 4, 3)),
    ("window", "many", "wide"): (Blocks(128, 64, 32, 4, 3), Blocks(128, 128, 32, 4, 3), Blocks(64, 128, 32, 4, 3)),
    ("depthwise", "few", "narrow"): (Blocks(32, 64, 32, 4, 3), Blocks(16, 32, 32, 2, 3)),
    ("depthwise", "few", "middle"): (Blocks(32, 64, 32, 4, 3), Blocks(16, 64, 32, 4, 3)),
    ("depthwise", "few", "wide"): (Blocks(32, 128, 32, 4, 3), Blocks(16, 64, 32, 4, 3)),
    ("depthwise", "some", "narrow"): (Blocks(64, 64, 32, 4, 3), Blocks(32, 32, 32, 4, 3)),
    ("depthwise", "some", "middle"): (Blocks(64, 64, 32, 4, 3), Blocks(32, 64, 32, 4, 3)),
    ("depthwise", "some", "wide"): (Blocks(64, 128, 32, 4, 3), Blocks(32, 128, 32, 4, 3), Blocks(64, 64, 32, 4, 3)),
    ("depthwise", "many", "narrow"): (Blocks(128, 64, 32, 4, 3), Blocks(128, 32, 32, 4, 3), Blocks(64, 32, 32, 4, 3)),
    ("depthwise", "many", "middle"): (Blocks(128, 64, 32, 4, 3), Blocks(64, 64, 32, 4, 3)),
    ("depthwise", "many", "wide"): (Blocks(128, 128, 32, 4, 3), Blocks(64, 128, 32, 4, 3), Blocks(64, 256, 32, 4, 2)),
}


class Problem(NamedTuple):
    """What a launch computes, as far as its configuration may depend on it: the key of a tuned choice.

    `x` and `out` are (images, channels, height, width); `form` is whatever else distinguishes launches of one kernel.
    """

    kind: str
    dtype: str
    element_bytes: int
    device: str
    x: tuple[int, int, int, int]
    out: tuple[int, int, int, int]
    depth: int
    form: str

    @property
    def shape_class(self) -> tuple[str, str, str]:
        n, channels, h, w = self.out
        pixels = n * h * w
        return (
            self.kind,
            "few" if pixels < 64 else "some" if pixels < 128 * 64 else "many",
            "narrow" if channels <= 32 else "middle" if channels <= 64 else "wide",
        )

    @property
    def candidates(self) -> tuple[Blocks, ...]:
        return fitted(self.shape_class, self.depth <= 32, self.element_bytes)

    def __str__(self) -> str:
        sizes = ["x".join(map(str, shape)) for shape in (self.x, self.out)]
        return f"{self.kind} {self.dtype} {sizes[0]} to {sizes[1]}, {self.form}"


@cache
def fitted(shape_class: tuple[str, str, str], shallow: bool, element_bytes: int) -> tuple[Blocks, ...]:
    """The row of a class, with steps that a shallow reduction fills, as far as elements of this size fit."""
    most = (32 if shallow else 64) * 2 // max(element_bytes, 2)
    row = dict.fromkeys(blocks._replace(k=min(blocks.k, most)) for blocks in TABLE[shape_class])
    return tuple(b for b in row if (b.m + b.n) * b.k * element_bytes * b.stages <= SHARED_BYTES)
