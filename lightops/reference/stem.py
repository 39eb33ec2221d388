"""The first layers of a network: convolution, BN, activation, optional max-pool."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from lightops.reference.activation import activation
from lightops.reference.bn import BatchNormParams, batch_norm


class MaxPool(NamedTuple):
    """A square max-pool: window, stride and padding in pixels; `ceil_mode` rounds the output size up as
    `torch.nn.MaxPool2d` does."""

    kernel: int
    stride: int
    padding: int = 0
    ceil_mode: bool = False


def stem(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    bn: BatchNormParams | None = None,
    *,
    act: str = "relu",
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    pool: MaxPool | None = None,
) -> Tensor:
    """`max_pool2d(act(bn(conv2d(x, weight) + bias)), pool)`."""
    y = activation(batch_norm(F.conv2d(x, weight, bias, stride, padding), bn), act)
    if pool is None:
        return y
    return F.max_pool2d(y, pool.kernel, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)
