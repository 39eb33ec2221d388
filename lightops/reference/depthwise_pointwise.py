"""Depthwise-separable convolution of MobileNet (arXiv 1704.04861); with a linear end, the second half of MobileNetV2's
block (arXiv 1801.04381)."""

import torch.nn.functional as F
from torch import Tensor

from lightops.reference.activation import activation
from lightops.reference.bn import BatchNormParams, batch_norm


def depthwise_pointwise(
    x: Tensor,
    dw_weight: Tensor,
    pw_weight: Tensor,
    *,
    dw_bias: Tensor | None = None,
    dw_bn: BatchNormParams | None = None,
    pw_bias: Tensor | None = None,
    pw_bn: BatchNormParams | None = None,
    dw_act: str = "relu",
    pw_act: str = "relu",
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | None = None,
    dilation: int | tuple[int, int] = 1,
    residual: Tensor | None = None,
) -> Tensor:
    """`pw_act(pw_bn(pw(dw_act(dw_bn(dw(x)))))) + residual`; `padding=None` is k // 2 on each side."""
    if padding is None:
        padding = (dw_weight.shape[2] // 2, dw_weight.shape[3] // 2)
    y = F.conv2d(x, dw_weight, dw_bias, stride, padding, dilation, groups=x.shape[-3])
    y = activation(batch_norm(y, dw_bn), dw_act)
    y = activation(batch_norm(F.conv2d(y, pw_weight, pw_bias), pw_bn), pw_act)
    return y if residual is None else y + residual
