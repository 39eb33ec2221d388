"""Classifier head: the average of `act(x * scale + shift)` over pixels, then the linear layer as a 1x1 convolution."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightops.kernels.triton._common import activate, on_device, view
from lightops.kernels.triton._conv import Conv, conv


@triton.jit
def average_kernel(
    x, scale, shift, out, pixels, W, C, x_image, x_row, x_pixel, out_row,
    ACT: tl.constexpr, SCALED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_c = c < C
    total = tl.zeros((BLOCK_C,), dtype=tl.float32)
    for p0 in range(0, pixels, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        mask = (p < pixels)[:, None] & in_c[None, :]
        at = image * x_image + (p // W) * x_row + (p % W) * x_pixel
        v = tl.load(x + at[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
        if SCALED:
            s = tl.load(scale + c, mask=in_c, other=0.0)
            t = tl.load(shift + c, mask=in_c, other=0.0)
            v = v * s[None, :] + t[None, :]
        v = tl.where(mask, activate(v, ACT), 0.0)
        total += tl.sum(v, axis=0)
    tl.store(out + image * out_row + c, (total / pixels).to(out.dtype.element_ty), mask=in_c)


def head(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, act: int, fc: Tensor | None, fc_bias: Tensor | None,
    out_features: int,
) -> Tensor:  # fmt: skip
    a = view(x)
    pooled = torch.empty((a.n, a.c), dtype=x.dtype, device=x.device)
    if pooled.numel():
        with on_device(x):
            average_kernel[(a.n, triton.cdiv(a.c, 64))](
                x, scale, shift, pooled, a.h * a.w, a.w, a.c, a.image, a.row, a.pixel, a.c,
                ACT=act, SCALED=scale is not None, BLOCK_P=32, BLOCK_C=64,
            )  # fmt: skip
    if fc is None:
        return pooled
    out = torch.empty((a.n, out_features), dtype=x.dtype, device=x.device)
    conv(pooled[:, :, None, None], fc, out[:, :, None, None], Conv(), bias=fc_bias)
    return out
