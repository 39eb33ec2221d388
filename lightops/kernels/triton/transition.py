"""DenseNet's transition: BN, ReLU and the 2x2 average in the loads of the 1x1 convolution."""

from torch import Tensor

from lightops.kernels.triton._common import new_image
from lightops.kernels.triton._conv import Conv, conv


def transition_out(x: Tensor, scale: Tensor, shift: Tensor, w: Tensor, bias: Tensor | None, out: Tensor) -> None:
    conv(x, w, out, Conv(stride=(2, 2), pre_act=1, average=True), scale=scale, shift=shift, bias=bias)


def transition(x: Tensor, scale: Tensor, shift: Tensor, w: Tensor, bias: Tensor | None, out_channels: int) -> Tensor:
    out = new_image(x, out_channels, x.shape[2] // 2, x.shape[3] // 2)
    transition_out(x, scale, shift, w, bias, out)
    return out
