"""Max-pool: a block takes 32 output pixels by 64 channels; windows that overlap are served by the caches."""

import triton
import triton.language as tl
from torch import Tensor

from lightops.kernels.triton._common import new_image, on_device, view


@triton.jit
def max_pool_kernel(
    x, out, pixels, H, W, C, OH, OW, x_image, x_row, x_pixel, out_image, out_row, out_pixel,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = m // (OH * OW)
    oy = (m // OW) % OH
    ox = m % OW
    in_m = m < pixels
    in_c = c < C
    best = tl.full((BLOCK_M, BLOCK_C), float("-inf"), dtype=tl.float32)
    for tap in tl.static_range(KH * KW):
        iy = oy * SH - PH + tap // KW
        ix = ox * SW - PW + tap % KW
        inside = in_m & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
        at = image * x_image + iy * x_row + ix * x_pixel
        v = tl.load(x + at[:, None] + c[None, :], mask=inside[:, None] & in_c[None, :], other=float("-inf"))
        v = v.to(tl.float32)
        # A NaN is taken when it comes and kept afterwards, since nothing compares greater than it.
        best = tl.where((v > best) | (v != v), v, best)
    at = image * out_image + oy * out_row + ox * out_pixel
    tl.store(out + at[:, None] + c[None, :], best.to(out.dtype.element_ty), mask=in_m[:, None] & in_c[None, :])


def pooled_size(size: int, kernel: int, stride: int, padding: int, ceil: int) -> int:
    """torch's rule: in ceil mode the last window may overhang, but must start inside the input or its left padding."""
    out = (size + 2 * padding - kernel + (stride - 1 if ceil else 0)) // stride + 1
    return out - 1 if ceil and (out - 1) * stride >= size + padding else out


def max_pool(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], out: Tensor) -> None:
    """Into `out`, which may be a channel slice."""
    a, b = view(x), view(out)
    pixels = b.n * b.h * b.w
    if out.numel() == 0:
        return
    with on_device(x):
        max_pool_kernel[(triton.cdiv(pixels, 32), triton.cdiv(b.c, 64))](
            x, out, pixels, a.h, a.w, a.c, b.h, b.w, a.image, a.row, a.pixel, b.image, b.row, b.pixel,
            *kernel, *stride, *padding, BLOCK_M=32, BLOCK_C=64,
        )  # fmt: skip


def max_pool2d(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool) -> Tensor:
    size = [pooled_size(x.shape[2 + i], kernel[i], stride[i], padding[i], ceil_mode) for i in range(2)]
    out = new_image(x, x.shape[1], *size)
    max_pool(x, kernel, stride, padding, out)
    return out
