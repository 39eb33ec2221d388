"""One random case per op and seed, of the ops that are a whole block."""

from __future__ import annotations

import torch
from case import Case, absolute, channel, f32, finish, pairs
from drawing import SENTINEL, Draw, activation, pack, pack_depthwise
from harness import ACT_CODES, DTYPE_CODES, nhwc_fields, pointer, window_fields
from torch.nn import functional as F


def depthwise_pointwise(seed: int) -> Case:
    d = Draw(seed)
    n, c, o = d.between(1, 3), d.depth(140), d.channels(200)
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
    middle_size = F.conv2d(x.abs(), dw.abs(), absolute(dw_bias), **conv)
    want = activation(F.conv2d(middle, pw, pw_bias), pw_act)
    size = F.conv2d(middle_size, pw.abs(), absolute(pw_bias))
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
    n, c, s = d.between(1, 2), d.depth(120), d.channels(64)
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
        F.conv2d(middle_size, expand3.abs(), absolute(b3), padding=1),
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
    n, c, hidden = d.between(1, 2), d.channels(40), d.depth(120)
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
    size = F.conv2d(size, pw.abs(), absolute(pb))
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
