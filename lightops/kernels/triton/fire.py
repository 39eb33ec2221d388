"""Fire: squeeze, then both expands side by side into one output, the bypass added after their ReLU."""

from torch import Tensor

from lightops.kernels.triton._common import channel_slice, new_image
from lightops.kernels.triton._conv import Conv, conv


def fire(
    x: Tensor, sq: Tensor, sq_bias: Tensor | None, squeeze: int, e1: Tensor, e1_bias: Tensor | None, expand1: int,
    e3: Tensor, e3_bias: Tensor | None, expand3: int, algo: int, bypass: Tensor | None,
) -> Tensor:  # fmt: skip
    middle = new_image(x, squeeze, *x.shape[2:])
    out = new_image(x, expand1 + expand3, *x.shape[2:])
    conv(x, sq, middle, Conv(act=1), bias=sq_bias)
    halves = (
        (e1, e1_bias, 0, expand1, Conv(act=1)),
        (e3, e3_bias, expand1, expand3, Conv((3, 3), padding=(1, 1), act=1)),
    )
    for w, bias, first, channels, spec in halves:
        residual = None if bypass is None else channel_slice(bypass, first, channels)
        conv(middle, w, channel_slice(out, first, channels), spec, bias=bias, residual=residual)
    return out
