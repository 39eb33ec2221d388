"""Weight packing and the weight gradient, as ops call them."""

from __future__ import annotations

import torch
from drawing import BOUND, ROUNDOFF, TF32_ROUNDOFF, Draw, activation, pack
from harness import ACT_CODES, nhwc_fields, pointer, window_fields
from torch import Tensor
from torch.nn import functional as F

from training_cases.case import TrainingCase
from training_cases.norm import place
from training_cases.norm_truth import SLOPE_AT_MOST, channel, sums


def operand_rounding(d: Draw) -> float:
    """By how much products of rounded operands are worse than the float32 that `check` expects."""
    unit = 4 * TF32_ROUNDOFF if d.tf32 else BOUND[d.dtype] * ROUNDOFF[d.dtype]
    return unit / (BOUND[torch.float32] * ROUNDOFF[torch.float32])


def place_weight(d: Draw, weight: Tensor) -> Tensor:
    """In the case's type, contiguous or channels innermost."""
    w = weight.to(d.dtype).contiguous()
    return w.contiguous(memory_format=torch.channels_last) if d.chance(0.4) else w


def weight_fields(w: Tensor) -> list[int]:
    return [pointer(w), *w.stride()]


def pack_weight(seed: int) -> TrainingCase:
    d = Draw(seed)
    o, i, (kh, kw) = d.channels(70), d.channels(70), d.pick((1, 1), (3, 3), (1, 3), (2, 2), (7, 7), (5, 3))
    packing = d.pick(0, 1, 2)
    weight = d.values(o, i, kh, kw)
    case = TrainingCase("pack_weight", d, f"{tuple(weight.shape)} packing{packing} {d.dtype}")
    case.exact = True
    w = place_weight(d, weight)
    case.read(w, "weight")
    want = pack(weight.flip(2, 3).transpose(0, 1) if packing == 1 else weight, d.dtype, flat=packing == 2).double()
    out = case.flat("packed", want, want.abs(), d.dtype)
    case.fields += [*weight_fields(w), o, i, kh, kw, packing, pointer(out)]
    return case


def draw_convolution(d: Draw) -> tuple[int, int, tuple[int, int], dict, tuple[int, int, int], bool]:
    """Channels in and out, kernel, the rest of the geometry, (n, h, w), pooled."""
    kind = d.pick("point", "point", "window", "window", "window", "few", "pool", "strided", "many")
    n = d.between(1, 3)
    if kind == "many":  # tiles of pixels
        return d.pick(8, 12, 16), d.pick(8, 16, 5), (1, 1), {}, (3, d.between(38, 48), d.between(38, 48)), False
    if kind == "point":
        return d.depth(160), d.width(130), (1, 1), {}, (n, d.side(1, 16), d.side(1, 16)), False
    if kind == "pool":
        large = d.chance(0.3)
        h, w = (d.between(17, 30), d.between(17, 30)) if large else (d.side(2, 15), d.side(2, 15))
        return d.depth(160), d.width(130), (1, 1), {}, (n, h, w), True
    if kind == "few":
        k, stride = d.pick((7, 2), (3, 2), (3, 1), (5, 2), (4, 4))
        geometry = {"stride": stride, "padding": d.between(0, k // 2)}
        return d.pick(3, 3, 1, 4, 6, 8), d.channels(96), (k, k), geometry, (n, d.side(k, 22), d.side(k, 22)), False
    if kind == "strided":
        k, stride, dilation = 1, d.pick(2, 3, (1, 2)), 1
        geometry = {"stride": stride, "padding": d.pick(0, 0, 1)}
    else:
        k, stride, dilation = d.pick(3, 3, 3, 5, (1, 3), (3, 1), 2), d.pick(1, 1, 2, (2, 1)), d.pick(1, 1, 1, 2)
        geometry = {"stride": stride, "dilation": dilation}
    kh, kw = (k, k) if isinstance(k, int) else k
    if kind == "window":
        geometry["padding"] = (d.between(0, kh - 1), d.between(0, kw - 1))
    least = [dilation * (size - 1) + 1 for size in (kh, kw)]
    c = d.channels(32) if d.chance(0.3) else d.channels(100)
    return c, d.channels(100), (kh, kw), geometry, (n, d.side(least[0], 14), d.side(least[1], 14)), False


def wgrad(seed: int) -> TrainingCase:
    d = Draw(seed)
    c, o, kernel, geometry, (n, h, w), pool = draw_convolution(d)
    act = d.pick(*(("relu", "none", "relu6") if d.exact else ("relu", "none", "relu6", "hardswish", "silu")))
    four = 4 if d.exact and pool else 1  # the average of four stays an integer
    x = d.values(n, c, h, w) * four
    scale, shift = d.affine(c) if d.chance(0.75) else (None, None)
    z, z_size = x, x.abs()
    if scale is not None:
        shift = shift * four
        z = x * channel(scale) + channel(shift)
        z_size = x.abs() * channel(scale).abs() + channel(shift).abs()
    u, u_size = activation(z, act), z_size * SLOPE_AT_MOST[act]
    if pool:
        u, u_size = F.avg_pool2d(u, 2), F.avg_pool2d(u_size, 2)
    shape = (o, c, *kernel)
    out = F.conv2d(u, torch.zeros(shape, dtype=torch.float64), **geometry).shape
    dy = d.values(*out)
    gradient = torch.nn.grad.conv2d_weight
    want, size = gradient(u, shape, dy, **geometry), gradient(u_size, shape, dy.abs(), **geometry)
    text = (
        f"x{tuple(x.shape)} o{o} k{kernel} {geometry} pool{pool} {act} scale{scale is not None} {d.dtype} tf32{d.tf32}"
    )
    case = TrainingCase("wgrad", d, text)
    (xv, xw), (gv, gw) = place(d, x), place(d, dy)
    vectors = [None if v is None else v.float() for v in (scale, shift)]
    for whole, label in ((xw, "x"), (gw, "dy"), (vectors[0], "scale"), (vectors[1], "shift")):
        case.read(whole, label)
    size = size * operand_rounding(d)
    last = d.chance(0.4)  # the weight's channels lie innermost
    order = (lambda t: t.permute(0, 2, 3, 1).contiguous()) if last else (lambda t: t)
    dw = case.flat("dweight", order(want), order(size), d.dtype)
    strided = dw.permute(0, 3, 1, 2) if last else dw
    db = case.flat("dbias", sums(dy), sums(dy.abs()), d.dtype) if d.chance(0.4) else None
    window = window_fields(kernel, **{"stride": 1, "padding": 0, "dilation": 1} | geometry)
    case.fields += [*nhwc_fields(xv), *nhwc_fields(gv), *map(pointer, vectors), ACT_CODES[act], int(pool), *window]
    case.fields += [*weight_fields(strided), pointer(db)]
    return case


CASES = (pack_weight, wgrad)
