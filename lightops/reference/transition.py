"""The transition between dense blocks of DenseNet (arXiv 1608.06993, section 3)."""

import torch.nn.functional as F
from torch import Tensor

from lightops.reference.activation import activation
from lightops.reference.bn import BatchNormParams, batch_norm


def transition(x: Tensor, bn: BatchNormParams, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`avg_pool2d(conv1x1(relu(bn(x))) + bias, 2)`; an odd last row or column is dropped.

    A 1x1 convolution and an average commute, so kernels pool first and do a quarter of the multiply-adds.
    """
    return F.avg_pool2d(F.conv2d(activation(batch_norm(x, bn), "relu"), weight, bias), 2)
