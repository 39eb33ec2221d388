"""The first layer: convolution, activation, and the max-pool as a second kernel."""

import torch
from torch import Tensor

from lightops.kernels.triton._common import conv_size, new_image
from lightops.kernels.triton._conv import Conv, conv
from lightops.kernels.triton.max_pool2d import max_pool, pooled_size


def stem_out(
    x: Tensor, w: Tensor, bias: Tensor | None, kernel: list[int], stride: list[int], padding: list[int], act: int,
    pool: list[int], out: Tensor,
) -> None:  # fmt: skip
    spec = Conv(tuple(kernel), tuple(stride), tuple(padding), act=act, flat=True)
    if not pool:
        conv(x, w, out, spec, bias=bias)
        return
    size = [conv_size(x.shape[2 + i], kernel[i], stride[i], padding[i], 1) for i in range(2)]
    middle = new_image(x, out.shape[1], *size)
    conv(x, w, middle, spec, bias=bias)
    max_pool(middle, *([value] * 2 for value in pool[:3]), out)


def stem(
    x: Tensor, w: Tensor, bias: Tensor | None, out_channels: int, kernel: list[int], stride: list[int],
    padding: list[int], act: int, pool: list[int],
) -> Tensor:  # fmt: skip
    size = [conv_size(x.shape[2 + i], kernel[i], stride[i], padding[i], 1) for i in range(2)]
    if pool:
        size = [pooled_size(s, *pool) for s in size]
    out = torch.empty(
        (x.shape[0], out_channels, *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    stem_out(x, w, bias, kernel, stride, padding, act, pool, out)
    return out
