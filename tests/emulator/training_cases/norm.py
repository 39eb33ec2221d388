"""batch_stats, bn_act, bn_act_mean and their backward passes, and what norm.h offers to other kernels."""

from __future__ import annotations

import torch
from drawing import Draw
from harness import ACT_CODES, DTYPE_CODES, nhwc_fields, pointer
from torch import Tensor

from training_cases.case import Output, TrainingCase
from training_cases.norm_truth import SLOPE_AT_MOST, Backward, Norm, backward, channel, draw_norm, spread


def draw_map(d: Draw) -> Tensor:
    """Shapes of a block and less, of several blocks a group of channels, of several groups."""
    if d.chance(0.2):
        n, c, h, w = d.between(1, 3), d.channels(40), d.between(10, 32), d.between(10, 32)
    elif d.chance(0.2):
        n, c, h, w = d.between(1, 2), d.between(30, 80) * 8, d.between(1, 4), d.between(1, 4)
    else:
        n, c, h, w = d.between(1, 4), d.channels(90), d.side(1, 14), d.side(1, 14)
    return spread(d, d.values(n, c, h, w))


def place(d: Draw, values: Tensor) -> tuple[Tensor, Tensor]:
    """As Draw.place, now and then with a gap between the images."""
    view, whole = d.place(values)
    if values.shape[0] == 1 or not d.chance(0.25):
        return view, whole
    n, c, h, w = values.shape
    gap = d.pick(1, 3)
    whole = torch.full((n, h * w + gap, whole.shape[-1]), float("nan"), dtype=d.dtype)
    pixel = whole.shape[-1]
    view = whole.as_strided((n, c, h, w), ((h * w + gap) * pixel, 1, w * pixel, pixel))
    view.copy_(values)
    return view, whole


def add_norm(case: TrainingCase, n: Norm) -> None:
    for label, vector in n.vectors().items():
        case.read(vector, label)


def gradient_vectors(case: TrainingCase, n: Norm, truth) -> list[int]:
    """Outputs dgamma and dbeta, where there is a norm."""
    if n.mean is None:
        return [0, 0]
    return [
        pointer(case.flat("dgamma", truth.dgamma, truth.dgamma_size)),
        pointer(case.flat("dbeta", truth.dbeta, truth.dbeta_size)),
    ]


def batch_stats(seed: int) -> TrainingCase:
    d = Draw(seed)
    x = draw_map(d)
    case = TrainingCase("batch_stats", d, f"x{tuple(x.shape)} {d.dtype}")
    xv, xw = place(d, x)
    case.read(xw, "x")
    out = case.statistics(xv)
    case.fields += [*nhwc_fields(xv), *map(pointer, out)]
    case.schema = (xv,)
    return case


def bn_act(seed: int) -> TrainingCase:
    d = Draw(seed)
    x = draw_map(d)
    n = draw_norm(d, x)
    residual = d.values(*x.shape) if d.chance(0.4) else None
    case = TrainingCase("bn_act", d, f"x{tuple(x.shape)} {n.text()} residual{residual is not None} {d.dtype}")
    want, size = n.u(x), n.z_size(x) * SLOPE_AT_MOST[n.act]
    rv = None
    if residual is not None:
        want, size = want + residual, size + residual.abs()
        rv, rw = place(d, residual)
        case.read(rw, "residual")
    xv, xw = place(d, x)
    case.read(xw, "x")
    add_norm(case, n)
    out = case.image("out", want, size)
    case.fields += [*nhwc_fields(xv), *nhwc_fields(rv), *nhwc_fields(out), *n.fields(), ACT_CODES[n.act]]
    case.schema = (xv, *n.schema(), rv)
    return case


def bn_act_backward(seed: int) -> TrainingCase:
    d = Draw(seed)
    x = draw_map(d)
    return backward_case(d, x, draw_norm(d, x))


def backward_case(d: Draw, x: Tensor, n: Norm) -> TrainingCase:
    dy = d.values(*x.shape)
    case = TrainingCase("bn_act_backward", d, f"x{tuple(x.shape)} {n.text()} {d.dtype}")
    truth = backward(n, x, dy, dy.abs())
    (xv, xw), (gv, gw) = place(d, x), place(d, dy)
    case.read(xw, "x")
    case.read(gw, "dy")
    add_norm(case, n)
    dx = case.image("dx", truth.dx, truth.dx_size)
    case.fields += [*nhwc_fields(gv), *nhwc_fields(xv), *nhwc_fields(dx), *n.fields(), ACT_CODES[n.act]]
    case.fields += gradient_vectors(case, n, truth)
    case.schema = (gv, xv, *n.schema(), n.batch)
    return case


def exact_draw(seed: int) -> Draw:
    d = Draw(seed)
    while not d.exact:
        d = Draw(seed := seed + 10**6)
    return d


def poison(d: Draw, x: Tensor) -> Tensor:
    """x with a few infinities and NaN."""
    x = x.clone()
    for _ in range(d.between(1, 3)):
        at = [d.between(0, size - 1) for size in x.shape]
        x[tuple(at)] = d.pick(float("inf"), float("-inf"), float("nan"))
    return x


def infinite_pixel(seed: int) -> TrainingCase:
    """bn_act_backward at infinities and NaN, which reach what depends on them and nothing else."""
    d = exact_draw(seed)
    x = poison(d, d.values(d.between(1, 2), d.channels(40), d.side(1, 6), d.side(1, 6)))
    return backward_case(d, x, draw_norm(d, x))


def head_map(d: Draw) -> Tensor:
    """For the exact oracle the number of pixels is a power of two and the average whole."""
    n, c = d.between(1, 5), d.pick(d.channels(90), d.between(30, 70) * 8)
    if not d.exact:
        return spread(d, d.values(n, c, d.between(1, 12), d.between(1, 12)))
    h, w = d.pick((1, 1), (4, 4), (2, 4), (1, 2), (8, 4))
    return d.values(n, c, h, w)


def bn_act_mean(seed: int) -> TrainingCase:
    d = Draw(seed)
    x = head_map(d)
    n = draw_norm(d, x)
    case = TrainingCase("bn_act_mean", d, f"x{tuple(x.shape)} {n.text()} {d.dtype}")
    xv, xw = place(d, x)
    case.read(xw, "x")
    add_norm(case, n)
    out = case.flat("out", n.u(x).mean((2, 3)), (n.z_size(x) * SLOPE_AT_MOST[n.act]).mean((2, 3)), d.dtype)
    case.fields += [*nhwc_fields(xv), *n.fields(), ACT_CODES[n.act], pointer(out)]
    case.schema = (xv, *n.schema())
    return case


def bn_act_mean_backward(seed: int) -> TrainingCase:
    d = Draw(seed)
    x = head_map(d)
    n = draw_norm(d, x)
    dy = d.values(*x.shape[:2])
    case = TrainingCase("bn_act_mean_backward", d, f"x{tuple(x.shape)} {n.text()} {d.dtype}")
    du = (dy / (x.shape[2] * x.shape[3]))[..., None, None].expand_as(x)
    truth = backward(n, x, du, du.abs())
    (xv, xw), gv = place(d, x), dy.to(d.dtype)
    case.read(xw, "x")
    case.read(gv, "dy")
    add_norm(case, n)
    dx = case.image("dx", truth.dx, truth.dx_size)
    case.fields += [pointer(gv), *nhwc_fields(xv), *nhwc_fields(dx), *n.fields(), ACT_CODES[n.act]]
    case.fields += gradient_vectors(case, n, truth)
    case.schema = (gv, xv, *n.schema(), n.batch)
    return case


def added_gradient(
    case: TrainingCase, n: Norm, x: Tensor, truth: Backward, accumulate: bool, dtype: torch.dtype
) -> tuple[Tensor, list[int], list[int]]:
    """Outputs of the dense block's form: what dx, of type dtype, and the coefficients hold is added to."""
    d, c = case.draw, x.shape[1]
    gain = n.column("gamma", 1.0) * n.inverse()
    before = d.values(*x.shape) if accumulate else torch.full(x.shape, float("nan"))
    deferred = accumulate and n.batch
    want, size = (gain * truth.dz, gain.abs() * truth.dz_size) if deferred else (truth.dx, truth.dx_size)
    if accumulate:
        want, size = want + before, size + before.abs()
    held, d.dtype = d.dtype, dtype
    dx, whole = d.place(before, -77.0)
    d.dtype = held
    case.regions.append((whole, True, "dx"))
    case.outputs.append(Output("dx", dx, whole, want, size))
    vectors = [0, 0] if n.mean is None or d.chance(0.2) else gradient_vectors(case, n, truth)
    coefficients = [0, 0]
    if deferred:
        count = x.numel() // c
        slope, slope_size = gain.flatten() * n.inverse().flatten() * truth.dgamma / count, truth.dgamma_size
        start = [d.values(c).float(), d.values(c).float()]
        wants = (
            (start[0] - slope, start[0].abs() + (gain.abs() * n.inverse()).flatten() * slope_size / count),
            (
                start[1] - gain.flatten() * truth.dbeta / count,
                start[1].abs() + gain.abs().flatten() * truth.dbeta_size / count,
            ),
        )
        for held_values, (w, s), name in zip(start, wants, ("slope", "constant"), strict=True):
            case.regions.append((held_values, True, name))
            case.outputs.append(Output(name, held_values, held_values, w.double(), s.double()))
            case.keep.append(held_values)
        coefficients = [pointer(t) for t in start]
    return dx, vectors, coefficients


def norm_gradient(seed: int) -> TrainingCase:
    """The dense block's form: what dx and the coefficients hold is added to, and dx may be float32."""
    d = Draw(seed)
    x = draw_map(d)
    n = draw_norm(d, x)
    dy = d.values(*x.shape)
    accumulate, wide = d.chance(0.7), d.chance(0.5)
    dtype = torch.float32 if wide else d.dtype
    case = TrainingCase("norm_gradient", d, f"x{tuple(x.shape)} {n.text()} accumulate{accumulate} {dtype} {d.dtype}")
    truth = backward(n, x, dy, dy.abs())
    (xv, xw), (gv, gw) = place(d, x), place(d, dy)
    case.read(xw, "x")
    case.read(gw, "dy")
    add_norm(case, n)
    dx, vectors, coefficients = added_gradient(case, n, x, truth, accumulate, dtype)
    case.fields += [DTYPE_CODES[dtype], *nhwc_fields(gv), *nhwc_fields(xv), *nhwc_fields(dx), *n.fields()]
    case.fields += [ACT_CODES[n.act], *vectors, int(accumulate), *coefficients]
    return case


def finish_gradient(seed: int) -> TrainingCase:
    d = Draw(seed)
    x = draw_map(d)
    c = x.shape[1]
    from_wide = d.chance(0.6)
    to_wide = from_wide and d.chance(0.5)
    mean, slope, constant = (d.values(c).float() for _ in range(3))
    gradient = d.values(*x.shape)
    case = TrainingCase("finish_gradient", d, f"x{tuple(x.shape)} {from_wide} {to_wide} {d.dtype}")
    xv, xw = place(d, x)
    held = d.dtype
    d.dtype = torch.float32 if from_wide else held
    gv, gw = place(d, gradient)
    d.dtype = torch.float32 if to_wide else held
    off = x - channel(mean.double())
    want = gradient + channel(slope.double()) * off + channel(constant.double())
    size = gradient.abs() + channel(slope.double().abs()) * (x.abs() + channel(mean.double().abs()))
    out = case.image("out", want, size + channel(constant.double().abs()))
    codes = [DTYPE_CODES[gv.dtype], DTYPE_CODES[d.dtype]]
    d.dtype = held
    for label, t in {"x": xw, "gradient": gw, "mean": mean, "slope": slope, "constant": constant}.items():
        case.read(t, label)
    case.fields += [
        *codes,
        *nhwc_fields(gv),
        *nhwc_fields(xv),
        *nhwc_fields(out),
        *map(pointer, (mean, slope, constant)),
    ]
    return case


CASES = (
    batch_stats,
    bn_act,
    bn_act_backward,
    infinite_pixel,
    bn_act_mean,
    bn_act_mean_backward,
    norm_gradient,
    finish_gradient,
)
