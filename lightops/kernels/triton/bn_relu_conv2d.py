"""Pre-activation convolution: `act(conv(pre_act(x * scale + shift)) + bias)`."""

from torch import Tensor

from lightops.kernels.triton._common import conv_size, new_image
from lightops.kernels.triton._conv import Conv, conv


def bn_relu_conv2d(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, pre_act: int, w: Tensor, bias: Tensor | None,
    out_channels: int, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], act: int,
    algo: int,
) -> Tensor:  # fmt: skip
    spec = Conv(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), pre_act, act)
    size = [conv_size(x.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i]) for i in range(2)]
    out = new_image(x, out_channels, *size)
    conv(x, w, out, spec, scale=scale, shift=shift, bias=bias)
    return out
