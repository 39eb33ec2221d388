"""Pointwise convolution, BN, activation: the expand half of MobileNetV2's block (arXiv 1801.04381), SqueezeNet's
classifier (arXiv 1602.07360)."""

import torch.nn.functional as F
from torch import Tensor

from lightops.reference.activation import activation
from lightops.reference.bn import BatchNormParams, batch_norm


def conv1x1_bn_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    bn: BatchNormParams | None = None,
    *,
    act: str = "relu",
    residual: Tensor | None = None,
) -> Tensor:
    """`act(bn(conv1x1(x, weight) + bias)) + residual`, the residual added after the activation."""
    y = activation(batch_norm(F.conv2d(x, weight, bias), bn), act)
    return y if residual is None else y + residual
