"""One random case per op and seed: the fields for the harness, the regions it may touch, the fp64 truth and the
bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from drawing import SENTINEL, Draw, activation, pack, pack_depthwise
from harness import ACT_CODES, DTYPE_CODES, nhwc_fields, pointer, window_fields
from torch.nn import functional as F


@dataclass
class Case:
    op: str
    draw: Draw
    fields: list[int]
    regions: list[tuple[torch.Tensor, bool, str]]
    out: torch.Tensor  # the view the kernel writes
    out_whole: torch.Tensor  # the buffer around it
    want: torch.Tensor
    magnitude: torch.Tensor
    text: str
    keep: tuple = ()  # tensors only their addresses of which are in `fields`
    schema: tuple = ()  # the same call in the arguments of torch.ops.lightops.<op>, without an output


def f32(t: torch.Tensor | None) -> torch.Tensor | None:
    return None if t is None else t.float().contiguous()


def pairs(kernel, stride, padding, dilation) -> list[list[int]]:
    """Kernel, stride, padding, dilation as the op schemas take them."""
    flat = window_fields(kernel, stride, padding, dilation)
    return [flat[i : i + 2] for i in range(0, 8, 2)]


def finish(op, draw, want, magnitude, text, x_whole, fields_of, inputs, rounding_steps=1.0, schema=()) -> Case:
    """Places the output, poisoned, and lists the regions."""
    out, out_whole = draw.place(torch.full(want.shape, float("nan")), SENTINEL)
    out.fill_(float("nan"))
    regions = [(x_whole, False, "x"), (out_whole, True, "out")]
    regions += [(t, False, label) for label, t in inputs.items() if t is not None]
    fields = [DTYPE_CODES[draw.dtype], *fields_of(out)]
    keep, magnitude = tuple(inputs.values()), magnitude * rounding_steps
    return Case(op, draw, fields, regions, out, out_whole, want, magnitude, text, keep, schema)


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
    size = F.conv2d(x.abs(), weight.abs(), None if bias is None else bias.abs()) + (
        0 if residual is None else residual.abs()
    )
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
    channel = lambda v: v.view(1, -1, 1, 1)  # noqa: E731
    z = x if scale is None else x * channel(scale) + channel(shift)
    z_size = x.abs() if scale is None else x.abs() * channel(scale).abs() + channel(shift).abs()
    conv = {"stride": stride, "padding": padding, "dilation": dilation}
    want = activation(F.conv2d(activation(z, pre), weight, bias, **conv), act)
    size = F.conv2d(z_size, weight.abs(), None if bias is None else bias.abs(), **conv)
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
    channel = lambda v: v.view(1, -1, 1, 1)  # noqa: E731
    want = F.conv2d(F.avg_pool2d(F.relu(x * channel(scale) + channel(shift)), 2), weight, bias)
    size = F.avg_pool2d(x.abs() * channel(scale).abs() + channel(shift).abs(), 2)
    size = F.conv2d(size, weight.abs(), None if bias is None else bias.abs())
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
    size = F.conv2d(x.abs(), weight.abs(), None if bias is None else bias.abs(), stride, padding)
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


def depthwise_pointwise(seed: int) -> Case:
    d = Draw(seed)
    n, c, o = d.between(1, 3), d.channels(140), d.channels(200)
    k = d.pick(3, 3, 3, 3, 5, 2)
    stride, dilation = d.pick(1, 1, 2), d.pick(1, 1, 1, 2)
    padding = d.between(0, k - 1)
    reach = dilation * (k - 1) + 1
    h, w = d.side(reach, 16), d.side(reach, 16)
    dw_act, pw_act = d.pick("relu", "none", "relu6"), d.pick("relu", "none", "relu6")
    x = d.values(n, c, h, w)
    dw = d.values(c, 1, k, k, low=-1, high=1, density=0.5, scale=1 / k)
    pw = d.values(o, c, 1, 1, low=-1, high=1, density=min(1.0, 8 / c), scale=c**-0.5)
    dw_bias, pw_bias = d.bias(c) if d.chance(0.7) else None, d.bias(o) if d.chance(0.7) else None
    conv = {"stride": stride, "padding": padding, "dilation": dilation, "groups": c}
    middle = activation(F.conv2d(x, dw, dw_bias, **conv), dw_act)
    middle_size = F.conv2d(x.abs(), dw.abs(), None if dw_bias is None else dw_bias.abs(), **conv)
    want = activation(F.conv2d(middle, pw, pw_bias), pw_act)
    size = F.conv2d(middle_size, pw.abs(), None if pw_bias is None else pw_bias.abs())
    residual = d.values(*want.shape) if d.chance(0.3) else None
    if residual is not None:
        want, size = want + residual, size + residual.abs()
    xv, xw = d.place(x)
    rv, rw = d.place(residual) if residual is not None else (None, None)
    pdw, ppw, pdb, ppb = pack_depthwise(dw, d.dtype), pack(pw, d.dtype), f32(dw_bias), f32(pw_bias)
    return finish(
        "depthwise_pointwise", d, want, size,
        f"x{tuple(x.shape)} o{o} k{k} s{stride} p{padding} d{dilation} {dw_act} {pw_act} {d.dtype}", xw,
        lambda out: [*nhwc_fields(xv), *nhwc_fields(out), *nhwc_fields(rv), pointer(pdw), pointer(pdb),
            ACT_CODES[dw_act],
                     *window_fields(k, stride, padding, dilation), pointer(ppw), pointer(ppb), ACT_CODES[pw_act]],
        {"dw": pdw, "pw": ppw, "dw_bias": pdb, "pw_bias": ppb, "residual": rw},
        rounding_steps=1.5,
        schema=(xv, pdw, pdb, *pairs(k, stride, padding, dilation), ACT_CODES[dw_act], ppw, ppb, o,
                ACT_CODES[pw_act], rv),
    )  # fmt: skip


def fire(seed: int) -> Case:
    d = Draw(seed)
    n, c, s = d.between(1, 2), d.channels(120), d.channels(64)
    e1, e3 = d.channels(100), d.channels(100)
    h, w = d.side(1, 17), d.side(1, 17)
    x = d.values(n, c, h, w)
    squeeze = d.values(s, c, 1, 1, low=-1, high=1, density=min(1.0, 8 / c), scale=c**-0.5)
    expand1 = d.values(e1, s, 1, 1, low=-1, high=1, density=min(1.0, 8 / s), scale=s**-0.5)
    expand3 = d.values(e3, s, 3, 3, low=-1, high=1, density=min(1.0, 1 / s), scale=s**-0.5 / 3)
    bs, b1, b3 = d.bias(s), d.bias(e1, positive=True), d.bias(e3, positive=True) if d.chance(0.8) else None
    middle = F.relu(F.conv2d(x, squeeze, bs))
    middle_size = F.conv2d(x.abs(), squeeze.abs(), bs.abs())
    want = F.relu(torch.cat([F.conv2d(middle, expand1, b1), F.conv2d(middle, expand3, b3, padding=1)], 1))
    size = torch.cat([
        F.conv2d(middle_size, expand1.abs(), b1.abs()),
        F.conv2d(middle_size, expand3.abs(), None if b3 is None else b3.abs(), padding=1),
    ], 1)  # fmt: skip
    bypass = d.values(*want.shape) if d.chance(0.4) else None
    if bypass is not None:
        want, size = want + bypass, size + bypass.abs()
    xv, xw = d.place(x)
    bv, bw = d.place(bypass) if bypass is not None else (None, None)
    ps, p1, p3 = pack(squeeze, d.dtype), pack(expand1, d.dtype), pack(expand3, d.dtype)
    ws, w1, w3 = f32(bs), f32(b1), f32(b3)
    return finish(
        "fire", d, want, size, f"x{tuple(x.shape)} s{s} e{e1}+{e3} bypass{bypass is not None} {d.dtype}", xw,
        lambda out: [*nhwc_fields(xv), *nhwc_fields(out), *nhwc_fields(bv), pointer(ps), pointer(ws), s,
                     pointer(p1), pointer(w1), e1, pointer(p3), pointer(w3), e3],
        {"squeeze": ps, "expand1": p1, "expand3": p3, "bias_s": ws, "bias_1": w1, "bias_3": w3, "bypass": bw},
        rounding_steps=1.5,
        schema=(xv, ps, ws, s, p1, w1, e1, p3, w3, e3, 0, bv),
    )  # fmt: skip


def dense_block(seed: int) -> Case:
    """The truth is computed layer by layer from the channels the kernels themselves wrote (dense_block_truth), so that
    each layer is held to its own bound."""
    d = Draw(seed)
    n, c0, k, layers = d.between(1, 4), d.channels(72), d.pick(8, 12, 16, 32, 32, 24), d.between(1, 3)
    bottleneck = d.pick(0, 4 * k, 4 * k, 32)
    h, w = d.side(1, 17), d.side(1, 17)
    total = c0 + layers * k
    buffer, whole = d.place(torch.full((n, total, h, w), float("nan")), SENTINEL)
    buffer[:, :c0] = d.values(n, c0, h, w).to(d.dtype)
    fields = [DTYPE_CODES[d.dtype], *nhwc_fields(buffer), c0, k, bottleneck, layers]
    regions, keep, truth = [(whole, True, "buffer")], [], []
    for i in range(layers):
        c = c0 + i * k
        scale, shift = d.affine(c)
        w1 = (
            d.values(bottleneck, c, 1, 1, low=-1, high=1, density=min(1.0, 4 / c), scale=c**-0.5)
            if bottleneck
            else None
        )
        inner = bottleneck or c
        # One tap in about 36 channels x taps: sums stay small integers over the layers.
        w2 = d.values(k, inner, 3, 3, low=-1, high=1, density=min(1.0, 0.25 / inner), scale=inner**-0.5 / 3)
        b1 = d.bias(bottleneck) if bottleneck else None
        tensors = [f32(scale), f32(shift), None if w1 is None else pack(w1, d.dtype), f32(b1), pack(w2, d.dtype)]
        fields += [pointer(t) for t in tensors]
        keep += tensors
        regions += [
            (t, False, label)
            for t, label in zip(tensors, ("scale", "shift", "weight1", "bias1", "weight2"), strict=False)
            if t is not None
        ]
        truth.append((scale, shift, w1, b1, w2))
    case = Case("dense_block", d, fields, regions, buffer, whole, None, None,
                f"{(n, c0, h, w)} k{k} b{bottleneck} L{layers} {d.dtype}", tuple(keep))  # fmt: skip
    case.schema = (buffer, [t for t in keep if t is not None], c0, k, bottleneck, 0)
    case.want, case.magnitude = truth, c0
    return case


def dense_block_truth(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(written channels, truth, magnitude), each layer's truth from what the layers before it left in the buffer."""
    buffer, want, size, c = case.out.double(), [], [], case.magnitude
    channel = lambda v: v.view(1, -1, 1, 1)  # noqa: E731
    for scale, shift, w1, b1, w2 in case.want:
        x = buffer[:, :c]
        z = F.relu(x * channel(scale) + channel(shift))
        z_size = x.abs() * channel(scale).abs() + channel(shift).abs()
        if w1 is not None:
            z = F.relu(F.conv2d(z, w1, b1))
            z_size = F.conv2d(z_size, w1.abs(), b1.abs())
        want.append(F.conv2d(z, w2, padding=1))
        size.append(F.conv2d(z_size, w2.abs(), padding=1))
        c += w2.shape[0]
    return case.out[:, case.magnitude :], torch.cat(want, 1), torch.cat(size, 1)


def inverted_residual(seed: int) -> Case:
    d = Draw(seed)
    n, c, hidden = d.between(1, 2), d.channels(40), d.channels(120)
    k, stride = d.pick(3, 3, 3, 5), d.pick(1, 1, 2)
    padding = k // 2
    h, w = d.side(2, 14), d.side(2, 14)
    residual = stride == 1 and d.chance(0.6)
    o = c if residual else d.channels(60)
    act = d.pick("relu6", "relu")
    x = d.values(n, c, h, w)
    ex = d.values(hidden, c, 1, 1, low=-1, high=1, density=min(1.0, 4 / c), scale=c**-0.5)
    dw = d.values(hidden, 1, k, k, low=-1, high=1, density=0.3, scale=1 / k)
    pw = d.values(o, hidden, 1, 1, low=-1, high=1, density=min(1.0, 4 / hidden), scale=hidden**-0.5)
    eb, db, pb = d.bias(hidden), d.bias(hidden), d.bias(o) if d.chance(0.7) else None
    conv = {"stride": stride, "padding": padding, "groups": hidden}
    middle = activation(F.conv2d(x, ex, eb), act)
    want = F.conv2d(activation(F.conv2d(middle, dw, db, **conv), act), pw, pb)
    size = F.conv2d(F.conv2d(x.abs(), ex.abs(), eb.abs()), dw.abs(), db.abs(), **conv)
    size = F.conv2d(size, pw.abs(), None if pb is None else pb.abs())
    if residual:
        want, size = want + x, size + x.abs()
    xv, xw = d.place(x)
    pe, pd, pp = pack(ex, d.dtype), pack_depthwise(dw, d.dtype), pack(pw, d.dtype)
    be, bd, bp = f32(eb), f32(db), f32(pb)
    return finish(
        "inverted_residual", d, want, size, f"x{tuple(x.shape)} hidden{hidden} o{o} k{k} s{stride} {act} {d.dtype}", xw,
        lambda out: [*nhwc_fields(xv), *nhwc_fields(out), pointer(pe), pointer(be), hidden, ACT_CODES[act], pointer(pd),
                     pointer(bd), ACT_CODES[act], *window_fields(k, stride, padding), pointer(pp), pointer(bp),
                     int(residual)],
        {"ex": pe, "dw": pd, "pw": pp, "ex_bias": be, "dw_bias": bd, "pw_bias": bp},
        rounding_steps=2.5,
        schema=(xv, pe, be, hidden, ACT_CODES[act], pd, bd, *pairs(k, stride, padding, 1)[:3], ACT_CODES[act], pp, bp,
                o, residual),
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
    channel = lambda v: v.view(1, -1, 1, 1)  # noqa: E731
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
        want, size = F.linear(want, weight, bias), F.linear(size, weight.abs(), None if bias is None else bias.abs())
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
