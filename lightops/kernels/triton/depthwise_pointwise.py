"""Depthwise + pointwise in one kernel: the depthwise result of a block's pixels and one chunk of channels is the left
operand of the pointwise product as soon as it is computed, and never stored."""

import triton
import triton.language as tl
from torch import Tensor

from lightops.kernels.triton._autotune import blocks_for, problem_of
from lightops.kernels.triton._common import (
    activate,
    conv_size,
    dot,
    new_image,
    on_device,
    precision,
    view,
    widen,
)
from lightops.kernels.triton._configs import Blocks
from lightops.kernels.triton._conv import Conv, form_of


@triton.jit
def depthwise_pointwise_kernel(
    x, dw, dw_bias, pw, pw_bias, residual, out,
    pixels, H, W, C, OH, OW, O, DW_ROW, PW_ROW,
    x_image, x_row, x_pixel, out_image, out_row, out_pixel, residual_image, residual_row, residual_pixel,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, DW_ACT: tl.constexpr, PW_ACT: tl.constexpr, DW_BIASED: tl.constexpr,
    PW_BIASED: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    column_tiles = tl.cdiv(O, BLOCK_N)
    m = (tl.program_id(0) // column_tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    o = tl.program_id(0) % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    image = m // (OH * OW)
    oy = (m // OW) % OH
    ox = m % OW
    in_m = m < pixels
    in_o = o < O
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k0 in range(0, C, BLOCK_K):
        c = k0 + tl.arange(0, BLOCK_K)
        in_c = c < C
        v = tl.zeros((BLOCK_M, BLOCK_K), dtype=tl.float32)
        for tap in tl.static_range(KH * KW):
            iy = oy * SH - PH + (tap // KW) * DH
            ix = ox * SW - PW + (tap % KW) * DW
            inside = in_m & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
            at = image * x_image + iy * x_row + ix * x_pixel
            part = tl.load(x + at[:, None] + c[None, :], mask=inside[:, None] & in_c[None, :], other=0.0)
            v += part.to(tl.float32) * tl.load(dw + tap * DW_ROW + c, mask=in_c, other=0.0).to(tl.float32)[None, :]
        if DW_BIASED:
            v += tl.load(dw_bias + c, mask=in_c, other=0.0)[None, :]
        v = activate(v, DW_ACT)
        b = tl.load(pw + o[None, :].to(tl.int64) * PW_ROW + c[:, None], mask=in_o[None, :] & in_c[:, None], other=0.0)
        acc = dot(v.to(x.dtype.element_ty), b, acc, PRECISION, WIDEN)
    if PW_BIASED:
        acc += tl.load(pw_bias + o, mask=in_o, other=0.0)[None, :]
    acc = activate(acc, PW_ACT)
    mask = in_m[:, None] & in_o[None, :]
    if RESIDUAL:
        at = image * residual_image + oy * residual_row + ox * residual_pixel
        acc += tl.load(residual + at[:, None] + o[None, :], mask=mask, other=0.0).to(tl.float32)
    at = image * out_image + oy * out_row + ox * out_pixel
    tl.store(out + at[:, None] + o[None, :], acc.to(out.dtype.element_ty), mask=mask)


def depthwise_pointwise(
    x: Tensor, dw: Tensor, dw_bias: Tensor | None, kernel: list[int], stride: list[int], padding: list[int],
    dilation: list[int], dw_act: int, pw: Tensor, pw_bias: Tensor | None, out_channels: int, pw_act: int,
    residual: Tensor | None,
) -> Tensor:  # fmt: skip
    size = [conv_size(x.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i]) for i in range(2)]
    out = new_image(x, out_channels, *size)
    if out.numel() == 0:
        return out
    a, b = view(x), view(out)
    r = b if residual is None else view(residual)
    pixels = b.n * b.h * b.w

    def launch(blocks: Blocks) -> None:
        grid = (triton.cdiv(pixels, blocks.m) * triton.cdiv(out_channels, blocks.n),)
        depthwise_pointwise_kernel[grid](
            x, dw, dw_bias, pw, pw_bias, residual, out,
            pixels, a.h, a.w, a.c, b.h, b.w, b.c, dw.shape[-1], pw.shape[-1],
            a.image, a.row, a.pixel, b.image, b.row, b.pixel, r.image, r.row, r.pixel,
            *kernel, *stride, *padding, *dilation, DW_ACT=dw_act, PW_ACT=pw_act, DW_BIASED=dw_bias is not None,
            PW_BIASED=pw_bias is not None, RESIDUAL=residual is not None, PRECISION=precision(x.dtype),
            WIDEN=widen(x.dtype),
            BLOCK_M=blocks.m, BLOCK_N=blocks.n, BLOCK_K=blocks.k, num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip

    window = Conv(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation))
    form = form_of(window, False, residual is not None)
    with on_device(x):
        launch(blocks_for(problem_of("depthwise", x, out, a.c, form), launch))
    return out
