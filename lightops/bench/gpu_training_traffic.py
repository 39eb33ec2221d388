"""What the CUDA kernels of training move and multiply, from sizes alone: the model behind `lightops kernels --predict
--train`.

As in `gpu_traffic`: a kernel reads each input and writes each output once. An op is the launches of csrc/cuda/training
in their order, those without a map among them: packing, coefficients, the merging of partial sums. A depthwise
convolution runs on the ordinary cores and counts bytes alone. `tests/emulator/test_training_prediction.py` holds the
model against the bytes and launches that the emulator counts.
"""

from math import prod
from typing import NamedTuple

from lightops.bench.gpu_traffic import Kernel, Map

# What a tile of the implicit GEMM leaves partial sums for, and how many of them are merged at once
# (csrc/cuda/training/channel_pass.h: kTileGroup).
_TILE, _GROUP = 128, 32
# Weights that one launch packs (csrc/cuda/training/pack.cu).
_PACKED = 32


class Norm(NamedTuple):
    """What lies in front of an op: a norm or none, whether by the batch's statistics, an activation."""

    there: bool
    batch: bool
    act: bool

    @property
    def any(self) -> bool:
        return self.there or self.act


def small(name: str, count: int = 1) -> list[Kernel]:
    """Launches over vectors of channels or weights."""
    return [Kernel(name, 0, 0, 0, 0)] * count


def packing(weights: int) -> list[Kernel]:
    return small("pack weights", -(-weights // _PACKED))


class Moves:
    """Kernels over maps of elements of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, name: str, read: int, written: int, macs: int = 0) -> list[Kernel]:
        """`read` and `written` in elements."""
        return [Kernel(name, read * self.size, written * self.size, 0, macs)]


def merges(pixels: int) -> list[Kernel]:
    """Of the sums that the tiles of a product leave."""
    return small("merge sums", 2 if -(-pixels // _TILE) > _GROUP else 1)


def batch_stats(x: Map, size: int) -> list[Kernel]:
    return [*Moves(size)("statistics", prod(x), 0), *small("merge sums")]


def bn_act(x: Map, size: int, *, residual: bool = False) -> list[Kernel]:
    return Moves(size)("norm", prod(x) * (1 + residual), prod(x))


def bn_act_backward(x: Map, dy: int, norm: Norm, size: int) -> list[Kernel]:
    """`dy`: elements of the gradient, which of an average are few."""
    moves = Moves(size)
    if not norm.there:
        return moves("mask", prod(x) + dy, prod(x))
    if not norm.batch:
        return [*moves("norm backward", prod(x) + dy, prod(x)), *small("merge sums")]
    sums, rest = moves("sums of the norm", prod(x) + dy, 0), moves("norm backward", prod(x) + dy, prod(x))
    return [*sums, *small("merge sums"), *rest]


def bn_act_mean(x: Map, size: int) -> list[Kernel]:
    return Moves(size)("average", prod(x), x.n * x.c)


def bn_act_max_pool2d(x: Map, out: Map, size: int) -> list[Kernel]:
    return Moves(size)("max-pool", prod(x), prod(out))


def bn_act_max_pool2d_backward(x: Map, dy: Map, norm: Norm, size: int) -> list[Kernel]:
    """A byte a window says where its maximum is."""
    places, again = prod(dy), prod(x) if norm.any else 0
    find = Kernel("places of the maxima", (prod(x) + prod(dy)) * size, places, 0, 0)
    gather = Kernel("max-pool backward", (again + prod(dy)) * size + places, prod(x) * size, 0, 0)
    return [find, *small("merge sums", norm.there), gather]


def depthwise(x: Map, y: Map, size: int, *, stats: bool) -> list[Kernel]:
    return [*Moves(size)("depthwise", prod(x), prod(y)), *small("merge sums", stats)]


def depthwise_backward(x: Map, dy: Map, norm: Norm, size: int) -> list[Kernel]:
    """The gradient of the depthwise is computed twice and never stored."""
    moves, both = Moves(size), prod(x) + prod(dy)
    merged = [*small("merge sums", norm.there), *small("merge weight gradients")]
    return [*moves("depthwise sums", both, 0), *merged, *moves("depthwise backward", both, prod(x))]


def conv(x: Map, y: Map, taps: int, norm: Norm, size: int, *, stats: bool, bias: bool) -> list[Kernel]:
    """y of a pooled convolution is the pool's."""
    before = [*packing(1), *small("scale and shift", norm.there), *small("bias", bias)]
    product = Moves(size)("convolution", prod(x), prod(y), y.pixels * y.c * taps * x.c)
    return [*before, *product, *(merges(y.pixels) if stats else [])]


def weight_gradient(x: Map, dy: Map, taps: int, size: int, *, scaled: bool, bias: bool = False) -> list[Kernel]:
    moves = Moves(size)
    product = moves("weight gradient", prod(x) + prod(dy), 0, dy.pixels * dy.c * taps * x.c)
    sums = [*moves("bias gradient", prod(dy), 0), *small("merge sums")] if bias else []
    return [*small("scale and shift", scaled), *product, *small("add parts"), *sums]


def conv_backward(
    x: Map, dy: Map, taps: int, norm: Norm, size: int,
    *, classes: int, pool: bool, input_: bool, weight: bool, bias: bool,
) -> list[Kernel]:  # fmt: skip
    """`classes` of pixels of the input, as many as the strides multiply to: each a convolution of dy."""
    moves, kernels = Moves(size), []
    if weight:
        kernels += weight_gradient(x, dy, taps, size, scaled=norm.there, bias=bias)
    if not input_:
        return kernels
    macs = dy.pixels * dy.c * taps * x.c
    kernels += packing(classes)
    if pool:
        # Where the pooled pixels' gradient is wanted there is nothing of x's size to mask on the way: it is stored.
        du = dy.pixels * x.c
        return [*kernels, *moves("input gradient", prod(dy), du, macs), *bn_act_backward(x, du, norm, size)]
    masked = prod(x) if norm.any else 0
    kernels += small("scale and shift", norm.there)
    share = moves("input gradient", prod(dy) + masked // classes, prod(x) // classes, macs // classes)
    kernels += share * classes
    if norm.there:
        kernels += merges(x.pixels)
    if norm.batch:
        kernels += moves("norm backward", 2 * prod(x), prod(x))
    return kernels


def dense_block(x: Map, layers: int, growth: int, width: int, size: int, *, copied: bool, known: bool) -> list[Kernel]:
    """`width`: channels between the 1x1 and the 3x3. `known`: x's statistics are given."""
    moves, pixels = Moves(size), x.pixels
    kernels = moves("copy", prod(x), prod(x)) if copied else []
    kernels += [] if known else batch_stats(x, size)
    kernels += packing(2 * layers)
    for c in range(x.c, x.c + layers * growth, growth):
        kernels += small("scale and shift") + moves("1x1", pixels * c, pixels * width, pixels * c * width)
        kernels += merges(pixels) + small("scale and shift")
        kernels += moves("3x3", pixels * width, pixels * growth, pixels * width * 9 * growth) + merges(pixels)
    return kernels


def dense_block_backward(x: Map, layers: int, growth: int, width: int, size: int) -> list[Kernel]:
    """x is the block's input; its gradient is wanted."""
    moves, pixels = Moves(size), x.pixels
    kernels = small("clear coefficients", 2) + packing(2 * layers)
    middle, new = Map(x.n, width, x.h, x.w), Map(x.n, growth, x.h, x.w)
    for layer in reversed(range(layers)):
        prefix = x._replace(c=x.c + layer * growth)
        if layer + 1 < layers:
            kernels += moves("finish the gradient", 2 * prod(new), prod(new))
        kernels += weight_gradient(middle, new, 9, size, scaled=True) + small("scale and shift")
        kernels += moves("3x3 backward", prod(new) + prod(middle), prod(middle), pixels * growth * 9 * width)
        kernels += merges(pixels) + moves("norm backward", 2 * prod(middle), prod(middle))
        kernels += weight_gradient(prefix, middle, 1, size, scaled=True) + small("scale and shift")
        macs = pixels * prefix.c * width
        kernels += moves("1x1 backward", prod(middle) + 2 * prod(prefix), prod(prefix), macs) + merges(pixels)
    return kernels + moves("finish the gradient", 2 * prod(x), prod(x))


def fire(x: Map, squeeze: int, expand1: int, expand3: int, size: int) -> list[Kernel]:
    macs = x.pixels * squeeze * (x.c + expand1 + 9 * expand3)
    return packing(3) + Moves(size)("squeeze expand", prod(x), x.pixels * (expand1 + expand3), macs)


def fire_backward(x: Map, squeeze: int, expand1: int, expand3: int, size: int, *, biased: bool) -> list[Kernel]:
    """The squeezed map is computed again; the masked gradient of the expands lies in the workspace."""
    moves, pixels = Moves(size), x.pixels
    s, d1, d3 = (x._replace(c=c) for c in (squeeze, expand1, expand3))
    out, macs = prod(d1) + prod(d3), pixels * squeeze
    kernels = packing(4) + moves("squeeze again", prod(x), prod(s), macs * x.c) + moves("mask", 2 * out, out)
    kernels += weight_gradient(s, d1, 1, size, scaled=False, bias=biased)
    kernels += weight_gradient(s, d3, 9, size, scaled=False, bias=biased)
    kernels += moves("1x1 backward", prod(d1), prod(s), macs * expand1)
    kernels += moves("3x3 backward", prod(d3) + prod(s), prod(s), macs * 9 * expand3)
    kernels += moves("mask", 2 * prod(s), prod(s))
    kernels += weight_gradient(x, s, 1, size, scaled=False, bias=biased)
    return kernels + moves("squeeze backward", prod(s), prod(x), macs * x.c)


def stem(x: Map, map_: Map, out: Map, taps: int, size: int, *, bias: bool) -> list[Kernel]:
    """Pooled on chip; a byte beside each value says where the maximum was."""
    macs = map_.pixels * map_.c * taps * x.c
    product = Kernel("stem", prod(x) * size, prod(out) * (size + 1), 0, macs)
    return [*packing(1), *small("bias", bias), product]


def stem_backward(x: Map, map_: Map, out: Map, taps: int, size: int, *, bias: bool, act: bool) -> list[Kernel]:
    """No gradient of x."""
    gather = Kernel("max-pool backward", prod(out) * ((1 + act) * size + 1), prod(map_) * size, 0, 0)
    return [gather, *small("merge sums", bias), *weight_gradient(x, map_, taps, size, scaled=False)]


def outside(parameters: int, x: Map, features: int, classes: int) -> list[Kernel]:
    """What torch does of a step under 16-bit autocast, in as few launches as can be: pictures and weights to 16 bits,
    gradients back, the classifier's three products, SGD with momentum (three tensors read, two written)."""
    linear = x.n * features * classes
    moved = 2 * (x.n * features + features * classes + x.n * classes)
    return [
        Kernel("pictures to 16 bits", 4 * prod(x), 2 * prod(x), 0, 0),
        Kernel("weights to 16 bits", 4 * parameters, 2 * parameters, 0, 0),
        *([Kernel("classifier", moved, 0, 0, linear)] * 3 if features else []),
        Kernel("gradients to 32 bits", 2 * parameters, 4 * parameters, 0, 0),
        Kernel("SGD", 12 * parameters, 8 * parameters, 0, 0),
    ]
