"""Pointwise convolution: `act(W x + b) + residual`."""

from torch import Tensor

from lightops.kernels.triton._common import new_image
from lightops.kernels.triton._conv import Conv, conv


def conv1x1_bn_act(
    x: Tensor, w: Tensor, bias: Tensor | None, out_channels: int, act: int, residual: Tensor | None
) -> Tensor:
    out = new_image(x, out_channels, *x.shape[2:])
    conv(x, w, out, Conv(act=act), bias=bias, residual=residual)
    return out
