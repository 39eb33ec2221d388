"""A dense block on one buffer: every layer reads the channel prefix and writes its channels in place behind it."""

from collections.abc import Sequence

from torch import Tensor

from lightops.kernels.triton._common import channel_slice, new_image
from lightops.kernels.triton._conv import Conv, conv

_NORMALISED_3X3 = Conv((3, 3), padding=(1, 1), pre_act=1)


def dense_block_(
    buffer: Tensor, params: Sequence[Tensor], in_channels: int, growth: int, bottleneck: int, algo: int
) -> None:
    each = 5 if bottleneck else 3
    middle = new_image(buffer, bottleneck, *buffer.shape[2:]) if bottleneck else None
    for layer in range(len(params) // each):
        scale, shift, w1, *rest = params[layer * each : (layer + 1) * each]
        c = in_channels + layer * growth
        prefix, out = channel_slice(buffer, 0, c), channel_slice(buffer, c, growth)
        if middle is None:
            conv(prefix, w1, out, _NORMALISED_3X3, scale=scale, shift=shift)
        else:
            bias1, w2 = rest
            conv(prefix, w1, middle, Conv(pre_act=1, act=1), scale=scale, shift=shift, bias=bias1)
            conv(middle, w2, out, Conv((3, 3), padding=(1, 1)))


def dense_block(x: Tensor, params: Sequence[Tensor], growth: int, bottleneck: int, algo: int) -> Tensor:
    layers = len(params) // (5 if bottleneck else 3)
    buffer = new_image(x, x.shape[1] + layers * growth, *x.shape[2:])
    channel_slice(buffer, 0, x.shape[1]).copy_(x)
    dense_block_(buffer, params, x.shape[1], growth, bottleneck, algo)
    return buffer
