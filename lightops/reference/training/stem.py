"""A first layer without batch norm: convolution, activation, max-pool."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightops.reference.activation import activation


def stem_train(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    act: str,
    pool_kernel: list[int],
    pool_stride: list[int],
    pool_padding: list[int],
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    """`maxpool(act(conv(x)))`, and where in its window each maximum is: column + row * columns of the window, uint8."""
    u = activation(F.conv2d(x, weight, bias, stride, padding), act)
    out, flat = F.max_pool2d(u, pool_kernel, pool_stride, pool_padding, ceil_mode=ceil_mode, return_indices=True)
    width = u.shape[3]
    top = torch.arange(out.shape[2], device=x.device)[:, None] * pool_stride[0] - pool_padding[0]
    left = torch.arange(out.shape[3], device=x.device) * pool_stride[1] - pool_padding[1]
    row = torch.div(flat, width, rounding_mode="floor") - top
    places = row * pool_kernel[1] + flat % width - left
    return out, places.to(torch.uint8)
