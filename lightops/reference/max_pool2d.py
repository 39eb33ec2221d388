"""A max-pool."""

import torch.nn.functional as F
from torch import Tensor


def max_pool2d(
    x: Tensor,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
) -> Tensor:
    """`max of x over windows of kernel pixels, stride apart` (None: as the kernel); padding never wins."""
    return F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode)
