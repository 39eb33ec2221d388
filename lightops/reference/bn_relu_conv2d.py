"""BN-activation-convolution: the pre-activation unit of Identity Mappings (arXiv 1603.05027) and DenseNet (arXiv
1608.06993)."""

import torch.nn.functional as F
from torch import Tensor

from lightops.reference.activation import activation
from lightops.reference.bn import BatchNormParams, batch_norm


def bn_relu_conv2d(
    x: Tensor,
    bn: BatchNormParams | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    act: str = "relu",
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    out_bn: BatchNormParams | None = None,
    out_act: str = "none",
) -> Tensor:
    """`out_act(out_bn(conv2d(act(bn(x)), weight) + bias))`; the padding is zeros of the *activated* tensor."""
    y = activation(batch_norm(x, bn), act)
    y = F.conv2d(y, weight, bias, stride, padding, dilation)
    return activation(batch_norm(y, out_bn), out_act)
