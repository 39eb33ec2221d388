"""MobileNetV2's block as two kernels, as in csrc/cuda: the expansion, then depthwise + projection."""

from torch import Tensor

from lightops.kernels.triton.conv1x1_bn_act import conv1x1_bn_act
from lightops.kernels.triton.depthwise_pointwise import depthwise_pointwise


def inverted_residual(
    x: Tensor, ex: Tensor, ex_bias: Tensor | None, hidden: int, ex_act: int, dw: Tensor, dw_bias: Tensor | None,
    kernel: list[int], stride: list[int], padding: list[int], dw_act: int, pw: Tensor, pw_bias: Tensor | None,
    out_channels: int, residual: bool,
) -> Tensor:  # fmt: skip
    expanded = conv1x1_bn_act(x, ex, ex_bias, hidden, ex_act, None)
    return depthwise_pointwise(
        expanded, dw, dw_bias, kernel, stride, padding, [1, 1], dw_act, pw, pw_bias, out_channels, 0,
        x if residual else None,
    )  # fmt: skip
