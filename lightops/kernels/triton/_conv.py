"""One implicit GEMM for the convolutions: 1x1 and kxk with the BN-activation prologue, flat (the stem) or
2x2-averaged input, and bias, activation and residual behind, written into a channel slice.

A block computes BLOCK_M output pixels (of all images, in a row) by BLOCK_N output channels. Taps are unrolled.
"""

from functools import cache
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from lightops.kernels.triton._autotune import blocks_for, problem_of
from lightops.kernels.triton._common import activate, dot, on_device, precision, view, widen
from lightops.kernels.triton._configs import Blocks


@triton.jit
def conv_kernel(
    x, w, scale, shift, bias, residual, out,
    pixels, H, W, C, OH, OW, O, ROW,
    x_image, x_row, x_pixel, x_channel,
    out_image, out_row, out_pixel, residual_image, residual_row, residual_pixel,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, PRE_ACT: tl.constexpr, SCALED: tl.constexpr, ACT: tl.constexpr,
    BIASED: tl.constexpr, RESIDUAL: tl.constexpr, AVERAGE: tl.constexpr, FLAT: tl.constexpr, PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # Column tiles of one pixel tile are neighbours, so that they find the input in L2.
    column_tiles = tl.cdiv(O, BLOCK_N)
    m = (tl.program_id(0) // column_tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    o = tl.program_id(0) % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    image = m // (OH * OW)
    oy = (m // OW) % OH
    ox = m % OW
    in_m = m < pixels
    in_o = o < O
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    ks = tl.arange(0, BLOCK_K)
    if FLAT:
        # The reduction runs over (ky, kx, channel) in one: three channels would waste most of a block of their own.
        for k0 in range(0, KH * KW * C, BLOCK_K):
            k = k0 + ks
            c = k % C
            tap = k // C
            iy = oy[:, None] * SH - PH + (tap // KW)[None, :] * DH
            ix = ox[:, None] * SW - PW + (tap % KW)[None, :] * DW
            inside = (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W) & (k < KH * KW * C)[None, :] & in_m[:, None]
            at = image[:, None] * x_image + iy * x_row + ix * x_pixel + c[None, :] * x_channel
            a = tl.load(x + at, mask=inside, other=0.0)
            b = tl.load(
                w + o[None, :].to(tl.int64) * ROW + k[:, None], mask=in_o[None, :] & (k < ROW)[:, None], other=0.0
            )
            acc = dot(a, b, acc, PRECISION, WIDEN)
    else:
        for tap in tl.static_range(KH * KW):
            iy = oy * SH - PH + (tap // KW) * DH
            ix = ox * SW - PW + (tap % KW) * DW
            inside = in_m & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
            start = image * x_image + iy * x_row + ix * x_pixel
            for k0 in range(0, C, BLOCK_K):
                c = k0 + ks
                mask = inside[:, None] & (c < C)[None, :]
                at = start[:, None] + c[None, :] * x_channel
                if SCALED:
                    s = tl.load(scale + c, mask=c < C, other=0.0)[None, :]
                    t = tl.load(shift + c, mask=c < C, other=0.0)[None, :]
                if AVERAGE:
                    mean = tl.zeros((BLOCK_M, BLOCK_K), dtype=tl.float32)
                    for corner in tl.static_range(4):
                        step = (corner // 2) * x_row + (corner % 2) * x_pixel
                        v = tl.load(x + at + step, mask=mask, other=0.0).to(tl.float32)
                        mean += activate(v * s + t, PRE_ACT)
                    a = tl.where(mask, mean * 0.25, 0.0).to(x.dtype.element_ty)
                else:
                    a = tl.load(x + at, mask=mask, other=0.0)
                    if SCALED:
                        # Padding is zero after the activation: what the affine map made of a masked element is dropped.
                        v = activate(a.to(tl.float32) * s + t, PRE_ACT)
                        a = tl.where(mask, v, 0.0).to(x.dtype.element_ty)
                    elif PRE_ACT != 0:
                        a = activate(a.to(tl.float32), PRE_ACT).to(x.dtype.element_ty)
                row = w + (tap * O + o)[None, :].to(tl.int64) * ROW
                b = tl.load(row + c[:, None], mask=in_o[None, :] & (c < C)[:, None], other=0.0)
                acc = dot(a, b, acc, PRECISION, WIDEN)
    if BIASED:
        acc += tl.load(bias + o, mask=in_o, other=0.0)[None, :]
    acc = activate(acc, ACT)
    mask = in_m[:, None] & in_o[None, :]
    if RESIDUAL:
        at = image * residual_image + oy * residual_row + ox * residual_pixel
        acc += tl.load(residual + at[:, None] + o[None, :], mask=mask, other=0.0).to(tl.float32)
    at = image * out_image + oy * out_row + ox * out_pixel
    tl.store(out + at[:, None] + o[None, :], acc.to(out.dtype.element_ty), mask=mask)


class Conv(NamedTuple):
    """Everything about a convolution but its tensors."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    pre_act: int = 0
    act: int = 0
    average: bool = False
    flat: bool = False


@cache
def form_of(spec: Conv, scaled: bool, residual: bool) -> str:
    """What distinguishes launches of one size: geometry, and what comes in or goes on beside the product."""
    lists = (spec.kernel, spec.stride, spec.padding, spec.dilation)
    names = ("flat", spec.flat), ("averaged", spec.average), ("normalised", scaled), ("residual", residual)
    geometry = "kernel {}, stride {}, padding {}, dilation {}".format(*("x".join(map(str, pair)) for pair in lists))
    return ", ".join([geometry, *(name for name, on in names if on)])


def conv(
    x: Tensor,
    w: Tensor,
    out: Tensor,
    spec: Conv,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> None:
    """Launches `conv_kernel` into `out` (channels innermost, it may be a slice); w as `kernels.cuda` packs it."""
    if out.numel() == 0:
        return
    a, b = view(x), view(out)
    r = b if residual is None else view(residual)
    taps = spec.kernel[0] * spec.kernel[1]
    pixels = b.n * b.h * b.w

    def launch(size: Blocks) -> None:
        grid = (triton.cdiv(pixels, size.m) * triton.cdiv(b.c, size.n),)
        conv_kernel[grid](
            x, w, scale, shift, bias, residual, out,
            pixels, a.h, a.w, a.c, b.h, b.w, b.c, w.shape[-1],
            a.image, a.row, a.pixel, a.channel, b.image, b.row, b.pixel, r.image, r.row, r.pixel,
            *spec.kernel, *spec.stride, *spec.padding, *spec.dilation, PRE_ACT=spec.pre_act, SCALED=scale is not None,
            ACT=spec.act, BIASED=bias is not None, RESIDUAL=residual is not None, AVERAGE=spec.average, FLAT=spec.flat,
            PRECISION=precision(x.dtype),
            WIDEN=widen(x.dtype), BLOCK_M=size.m, BLOCK_N=size.n, BLOCK_K=size.k,
            num_warps=size.warps, num_stages=size.stages,
        )  # fmt: skip

    kind = "pointwise" if taps == 1 or spec.flat else "window"
    depth = taps * a.c if spec.flat else a.c
    form = form_of(spec, scale is not None, residual is not None)
    with on_device(x):
        launch(blocks_for(problem_of(kind, x, out, depth, form), launch))
