"""What each CUDA kernel moves and multiplies, from sizes alone: the model behind `lightops kernels --predict`.

Of a call every input is read once, every output written once, a tensor that goes from one kernel to the next through
memory both, and weights are read once a kernel. Left out: the border that neighbouring tiles both read and the columns
of output channels that read one input side by side (L2 serves both), and the sums of a split reduction.
`tests/emulator/test_traffic.py` holds the model against the sectors that the emulator counts.
"""

from math import prod
from typing import NamedTuple

# Multiply-adds that the tensor cores are given for one output of a depthwise convolution: two taps of a channel are one
# 16-deep instruction with the weights on its diagonals (csrc/cuda/producers.cuh).
_DIAGONAL = 16


class Kernel(NamedTuple):
    """One launch: bytes read and written of activations, bytes of weights and vectors, multiply-adds."""

    name: str
    read: int
    written: int
    weights: int
    macs: int

    @property
    def bytes(self) -> int:
        return self.read + self.written + self.weights


class Map(NamedTuple):
    """An activation tensor: images, channels, height, width."""

    n: int
    c: int
    h: int
    w: int

    @property
    def pixels(self) -> int:
        return self.n * self.h * self.w


def conv(
    x: Map, out: Map, size: int, *, taps: int = 1, prologue: bool = False, residual: bool = False, flat: bool = False,
    name: str = "convolution",
) -> Kernel:  # fmt: skip
    """An implicit GEMM of `taps` taps; `size` is the bytes of an element, `flat` the weight order of a stem."""
    rows = _row(taps * x.c, size) if flat else taps * _row(x.c, size)
    return Kernel(
        name,
        read=(prod(x) + residual * prod(out)) * size,
        written=prod(out) * size,
        weights=out.c * rows * size + 4 * out.c + 8 * x.c * prologue,
        macs=out.pixels * out.c * taps * x.c,
    )


def dense_layer(x: Map, growth: int, bottleneck: int, size: int) -> list[Kernel]:
    """x is the prefix that the layer reads; the 1x1's output goes through memory (csrc/cuda/dense_block.cu)."""
    out = x._replace(c=growth)
    if not bottleneck:
        return [conv(x, out, size, taps=9, prologue=True, name="3x3")]
    middle = x._replace(c=bottleneck)
    return [conv(x, middle, size, prologue=True, name="1x1"), conv(middle, out, size, taps=9, name="3x3")]


def dense_block(x: Map, layers: int, growth: int, bottleneck: int, size: int, *, copied: bool) -> list[Kernel]:
    """x is the block's input; `copied` where it is not in the block's buffer already."""
    moved = prod(x) * size
    kernels = [Kernel("copy", moved, moved, 0, 0)] if copied else []
    for layer in range(layers):
        kernels += dense_layer(x._replace(c=x.c + layer * growth), growth, bottleneck, size)
    return kernels


def transition(x: Map, out: Map, size: int) -> list[Kernel]:
    """Averages before the product, which therefore has a quarter of the pixels."""
    return [conv(x, out, size, prologue=True, name="average 1x1")]


def depthwise_pointwise(x: Map, out: Map, taps: int, size: int, *, residual: bool = False) -> list[Kernel]:
    """One kernel; the tensor between the two convolutions stays on chip. float32 has no diagonal products."""
    product = conv(x._replace(h=out.h, w=out.w), out, size)
    depth = -(-taps // 2) * _DIAGONAL if size == 2 else taps
    return [
        Kernel(
            "depthwise 1x1",
            read=(prod(x) + residual * prod(out)) * size,
            written=prod(out) * size,
            weights=product.weights + taps * _row(x.c, size) * size + 4 * x.c,
            macs=product.macs + out.pixels * x.c * depth,
        )
    ]


def inverted_residual(x: Map, out: Map, hidden: int, taps: int, size: int, *, residual: bool = False) -> list[Kernel]:
    """Two kernels; the hidden tensor goes through memory (csrc/cuda/inverted_residual.cu)."""
    middle = x._replace(c=hidden)
    return [conv(x, middle, size, name="1x1"), *depthwise_pointwise(middle, out, taps, size, residual=residual)]


def fire(x: Map, squeeze: int, expand1: int, expand3: int, size: int, *, bypass: bool = False) -> list[Kernel]:
    """One kernel; the squeezed tensor stays on chip."""
    middle = x._replace(c=squeeze)
    first = conv(x, middle, size)
    expands = [conv(middle, x._replace(c=o), size, taps=taps) for o, taps in ((expand1, 1), (expand3, 9))]
    written = x.pixels * (expand1 + expand3) * size
    return [
        Kernel(
            "squeeze expand",
            read=first.read + bypass * written,
            written=written,
            weights=first.weights + sum(e.weights for e in expands),
            macs=first.macs + sum(e.macs for e in expands),
        )
    ]


def stem(x: Map, conv_out: Map, out: Map, taps: int, size: int) -> list[Kernel]:
    """Convolution and max-pool in one kernel: `conv_out` is never stored. Pixels under two pools are computed twice,
    15% of them, which is left out."""
    inner = conv(x, conv_out, size, taps=taps, flat=True, name="stem")
    return [inner._replace(written=prod(out) * size)]


def max_pool2d(x: Map, out: Map, size: int) -> list[Kernel]:
    return [Kernel("max-pool", prod(x) * size, prod(out) * size, 0, 0)]


def head(x: Map, out_features: int, size: int, *, prologue: bool = False) -> list[Kernel]:
    """`out_features` 0: the average alone."""
    pooled = Map(x.n, x.c, 1, 1)
    average = Kernel("average", prod(x) * size, prod(pooled) * size, 8 * x.c * prologue, 0)
    return [average, conv(pooled, Map(x.n, out_features, 1, 1), size, name="linear")] if out_features else [average]


def _row(channels: int, size: int) -> int:
    """Input channels of a packed weight, in whole 16-byte chunks (lightops/kernels/cuda.py)."""
    chunk = 16 // size
    return -(-channels // chunk) * chunk
