"""One random case per op and seed: single convolutions, pools and the head; `CASES` has those of `block_cases` too."""

from __future__ import annotations

import torch
from block_cases import dense_block, depthwise_pointwise, fire, inverted_residual
from case import Case, absolute, channel, f32, finish, pairs
from drawing import Draw, activation, pack
from harness import ACT_CODES, DTYPE_CODES, nhwc_fields, pointer, window_fields
from torch.nn import functional as F


def conv1x1_bn_act(seed: int, real_act: bool = True) -> Case:
    d = Draw(seed)
    n, c, o = d.between(1, 3), d.depth(160), d.width(130)
    h, w = d.side(1, 16), d.side(1, 16)
    act = d.pick("none", "relu", "relu6") if d.exact else d.pick("none", "relu", "relu6", "hardswish", "silu")
    x = d.values(n, c, h, w)
    weight = d.values(o, c, 1, 1, low=-1, high=1, density=min(1.0, 24 / c), scale=c**-0.5)
    bias = d.bias(o) if d.chance(0.7) else None
    residual = d.values(n, o, h, w) if d.chance(0.4) else None
    y = F.conv2d(x, weight, bias)
    want = activation(y, act) + (0 if residual is None else residual)
    size = F.conv2d(x.abs(), weight.abs(), absolute(bias)) + (0 if residual is None else residual.abs())
    xv, xw = d.place(x)
    rv, rw = d.place(residual) if residual is not None else (None, None)
    pw, pb = pack(weight, d.dtype), f32(bias)
    return finish(
        "conv1x1_bn_act", d, want, size, f"x{tuple(x.shape)} o{o} {act} {d.dtype}", xw,
        lambda out: [*nhwc_fields(xv), *nhwc_fields(out), *nhwc_fields(rv), pointer(pw), pointer(pb), ACT_CODES[act]],
        {"weight": pw, "bias": pb, "residual": rw},
        rounding_steps=1.5,
        schema=(xv, pw, pb, o, ACT_CODES[act], rv),
    )  # fmt: skip


def bn_relu_conv2d(seed: int) -> Case:
    d = Draw(seed)
    n, c, o = d.between(1, 2), d.depth(96), d.channels(96)
    k = d.pick(1, 1, 3, 3, 3, 5, (1, 3), (3, 1), 2)
    if k == 1 and d.chance(0.8):  # scale and shift beside which the larger tiles do not fit 99 KiB
        c = d.between(40, 60) * 8
    kh, kw = (k, k) if isinstance(k, int) else k
    stride, dilation = d.pick(1, 1, 2, (2, 1)), d.pick(1, 1, 1, 2)
    padding = (d.between(0, kh - 1), d.between(0, kw - 1))
    reach = [dilation * (kh - 1) + 1, dilation * (kw - 1) + 1]
    h, w = d.side(reach[0], 14), d.side(reach[1], 14)
    act = d.pick("none", "none", "relu")
    pre = d.pick("relu", "relu", "none", "relu6")
    x = d.values(n, c, h, w)
    weight = d.values(o, c, kh, kw, low=-1, high=1, density=min(1.0, 12 / (c * kh * kw)), scale=(c * kh * kw) ** -0.5)
    bias = d.bias(o) if d.chance(0.5) else None
    scale, shift = d.affine(c) if d.chance(0.85) else (None, None)
    z = x if scale is None else x * channel(scale) + channel(shift)
    z_size = x.abs() if scale is None else x.abs() * channel(scale).abs() + channel(shift).abs()
    conv = {"stride": stride, "padding": padding, "dilation": dilation}
    want = activation(F.conv2d(activation(z, pre), weight, bias, **conv), act)
    size = F.conv2d(z_size, weight.abs(), absolute(bias), **conv)
    xv, xw = d.place(x)
    pw, pb, ps, pt = pack(weight, d.dtype), f32(bias), f32(scale), f32(shift)
    return finish(
        "bn_relu_conv2d", d, want, size,
        f"x{tuple(x.shape)} o{o} k{k} s{stride} p{padding} d{dilation} {pre} {act} {d.dtype}", xw,
        lambda out: [*nhwc_fields(xv), *nhwc_fields(out), pointer(ps), pointer(pt), ACT_CODES[pre], pointer(pw),
            pointer(pb),
                     ACT_CODES[act], *window_fields((kh, kw), stride, padding, dilation)],
        {"weight": pw, "bias": pb, "scale": ps, "shift": pt},
        schema=(xv, ps, pt, ACT_CODES[pre], pw, pb, o, *pairs((kh, kw), stride, padding, dilation), ACT_CODES[act], 0),
    )  # fmt: skip


def transition(seed: int) -> Case:
    d = Draw(seed)
    n, c, o = d.between(1, 3), d.depth(160), d.width(130)
    h, w = (d.between(17, 34), d.between(17, 34)) if d.chance(0.4) else (d.side(2, 15), d.side(2, 15))
    x = d.values(n, c, h, w) * (4 if d.exact else 1)  # the average of four stays an integer
    weight = d.values(o, c, 1, 1, low=-1, high=1, density=min(1.0, 6 / c), scale=c**-0.5)
    bias = d.bias(o) if d.chance(0.3) else None
    scale, shift = d.affine(c)
    shift = shift * (4 if d.exact else 1)
    want = F.conv2d(F.avg_pool2d(F.relu(x * channel(scale) + channel(shift)), 2), weight, bias)
    size = F.avg_pool2d(x.abs() * channel(scale).abs() + channel(shift).abs(), 2)
    size = F.conv2d(size, weight.abs(), absolute(bias))
    xv, xw = d.place(x)
    pw, pb, ps, pt = pack(weight, d.dtype), f32(bias), f32(scale), f32(shift)
    return finish(
        "transition", d, want, size, f"x{tuple(x.shape)} o{o} {d.dtype}", xw,
        lambda out: [*nhwc_fields(xv), *nhwc_fields(out), pointer(ps), pointer(pt), pointer(pw), pointer(pb)],
        {"weight": pw, "bias": pb, "scale": ps, "shift": pt},
        schema=(xv, ps, pt, pw, pb, o),
    )  # fmt: skip


def stem(seed: int) -> Case:
    d = Draw(seed)
    n, c, o = d.between(1, 2), d.pick(3, 3, 1, 4, 12, 16), d.channels(96)
    k, stride = d.pick((7, 2), (3, 2), (3, 1), (5, 2), (4, 4))
    padding = d.between(0, k // 2)
    h, w = d.side(k + 8, 22), d.side(k + 8, 22)
    act = d.pick("relu", "none", "relu6")
    pool = d.pick(None, (3, 2, 1, 0), (3, 2, 0, 1), (2, 2, 0, 0), (3, 2, 0, 0))
    x = d.values(n, c, h, w)
    weight = d.values(o, c, k, k, low=-1, high=1, density=0.3, scale=(c * k * k) ** -0.5)
    bias = d.bias(o, positive=True) if d.chance(0.8) else None
    want = activation(F.conv2d(x, weight, bias, stride, padding), act)
    size = F.conv2d(x.abs(), weight.abs(), absolute(bias), stride, padding)
    if pool:
        pool_args = {"kernel_size": pool[0], "stride": pool[1], "padding": pool[2], "ceil_mode": bool(pool[3])}
        want, size = F.max_pool2d(want, **pool_args), F.max_pool2d(size, **pool_args)
    planar = d.chance(0.5)
    if planar:
        xv = xw = x.to(d.dtype).contiguous()
        x_fields = [xv.data_ptr(), n, h, w, c, 1, c * h * w]
    else:
        xv, xw = d.place(x)
        x_fields = nhwc_fields(xv)
    pw, pb = pack(weight, d.dtype, flat=True), f32(bias)
    pool_fields = window_fields(1) if pool is None else window_fields(pool[0], pool[1], pool[2])
    return finish(
        "stem", d, want, size,
        f"x{tuple(x.shape)} o{o} k{k} s{stride} p{padding} {act} pool{pool} planar{planar} {d.dtype}", xw,
        lambda out: [*x_fields, *nhwc_fields(out), int(planar), pointer(pw), pointer(pb), ACT_CODES[act],
                     *window_fields(k, stride, padding), int(pool is not None), *pool_fields],
        {"weight": pw, "bias": pb},
        schema=(xv, pw, pb, o, *pairs(k, stride, padding, 1)[:3], ACT_CODES[act], [] if pool is None else list(pool)),
    )  # fmt: skip


def max_pool2d(seed: int) -> Case:
    d = Draw(seed)
    n, c = d.between(1, 3), d.channels(90)
    k, stride = d.pick(2, 3, 3, (3, 2)), d.pick(1, 2, 2)
    padding = d.pick(0, 0, 1)
    h, w = d.side(4, 14), d.side(4, 14)
    ceil = d.chance(0.5)
    x = d.values(n, c, h, w)
    want = F.max_pool2d(x, k, stride, padding, ceil_mode=ceil)
    xv, xw = d.place(x)
    kernel, strides, paddings, _ = pairs(k, stride, padding, 1)
    return finish(
        "max_pool2d", d, want, want.abs(), f"x{tuple(x.shape)} k{k} s{stride} p{padding} ceil{ceil} {d.dtype}", xw,
        lambda out: [*nhwc_fields(xv), *nhwc_fields(out), *window_fields(k, stride, padding)],
        {},
        schema=(xv, kernel, strides, paddings, ceil),
    )  # fmt: skip


def head(seed: int) -> Case:
    d = Draw(seed)
    n, c = d.between(1, 4), d.channels(200)
    # 16 pixels at most for bfloat16: the average must stay within its 8 bits.
    sizes = [(1, 1), (4, 4), (8, 2), (2, 1)] + ([(16, 8)] if d.dtype is not torch.bfloat16 else [])
    h, w = d.pick(*sizes) if d.exact else (d.between(1, 9), d.between(1, 9))
    x = d.values(n, c, h, w) * (h * w if d.exact else 1)  # the average stays an integer
    scale, shift = d.affine(c) if d.chance(0.6) else (None, None)
    act = d.pick("relu", "none")
    z = x if scale is None else x * channel(scale) + channel(shift * (h * w if d.exact else 1))
    z_size = (
        x.abs() if scale is None else x.abs() * channel(scale).abs() + channel(shift * (h * w if d.exact else 1)).abs()
    )
    if shift is not None and d.exact:
        shift = shift * (h * w)
    want, size = activation(z, act).mean((2, 3)), z_size.mean((2, 3))
    weight = bias = None
    if d.chance(0.6):
        o = d.between(1, 140)
        weight = d.values(o, c, low=-1, high=1, density=min(1.0, 12 / c), scale=c**-0.5)
        bias = d.bias(o) if d.chance(0.7) else None
        want, size = F.linear(want, weight, bias), F.linear(size, weight.abs(), absolute(bias))
    xv, xw = d.place(x)
    out = torch.full(want.shape, float("nan"), dtype=d.dtype)
    pw = None if weight is None else pack(weight[..., None, None], d.dtype)
    ps, pt, pb = f32(scale), f32(shift), f32(bias)
    fields = [DTYPE_CODES[d.dtype], *nhwc_fields(xv), pointer(ps), pointer(pt), ACT_CODES[act], pointer(pw),
        pointer(pb),
              want.shape[1], pointer(out)]  # fmt: skip
    inputs = {"weight": pw, "bias": pb, "scale": ps, "shift": pt}
    regions = [
        (xw, False, "x"),
        (out, True, "out"),
        *((t, False, label) for label, t in inputs.items() if t is not None),
    ]
    text = f"x{tuple(x.shape)} {act} linear{weight is not None} {d.dtype}"
    schema = (xv, ps, pt, ACT_CODES[act], pw, pb, want.shape[1])
    return Case("head", d, fields, regions, out, out, want, size, text, tuple(inputs.values()), schema)


CASES = {
    f.__name__: f
    for f in (
        bn_relu_conv2d,
        conv1x1_bn_act,
        dense_block,
        depthwise_pointwise,
        fire,
        head,
        inverted_residual,
        max_pool2d,
        stem,
        transition,
    )
}
