"""bn_act_max_pool2d and its backward pass."""

from __future__ import annotations

import torch
from drawing import Draw
from harness import ACT_CODES, nhwc_fields, window_fields
from torch import Tensor
from torch.nn import functional as F

from training_cases.case import TrainingCase
from training_cases.norm import add_norm, exact_draw, gradient_vectors, place, poison
from training_cases.norm_truth import SLOPE_AT_MOST, Norm, backward, channel, draw_norm, spread


def draw_pool(d: Draw) -> dict:
    kernel, stride = d.pick((3, 2), (3, 2), (2, 2), (3, 1), ((3, 2), (1, 3)), (5, 2), (2, 3))
    small = kernel if isinstance(kernel, int) else min(kernel)
    return {"kernel_size": kernel, "stride": stride, "padding": d.between(0, small // 2), "ceil_mode": d.chance(0.4)}


def rounded_u(n: Norm, x: Tensor, dtype: torch.dtype) -> Tensor:
    """u as a kernel stores it, from z in float32: ties that rounding makes are ties here too."""
    z = x.float()
    if n.mean is not None:
        assert n.var is not None
        ones, zeros = torch.ones_like(n.mean), torch.zeros_like(n.mean)
        scale = (ones if n.gamma is None else n.gamma) / (n.var + torch.tensor(n.eps, dtype=torch.float32)).sqrt()
        fused = lambda a, b, c: (a.double() * b.double() + c.double()).float()  # noqa: E731
        shift = fused(-n.mean, scale, zeros if n.beta is None else n.beta)
        z = fused(x, channel(scale), channel(shift))
    if n.act == "hardswish":
        u = z * (z + 3).clamp(0, 6) * torch.tensor(1 / 6, dtype=torch.float32)
    else:
        u = {"none": lambda v: v, "relu": F.relu, "relu6": F.relu6}[n.act](z)
    return u.to(dtype).double()


def draw_input(d: Draw) -> Tensor:
    n, c = d.between(1, 3), d.channels(60)
    h, w = (d.between(20, 40), d.between(20, 40)) if d.chance(0.15) else (d.side(5, 12), d.side(5, 12))
    return spread(d, d.values(n, c, h, w))


def text_of(x: Tensor, n: Norm, pool: dict, d: Draw) -> str:
    return f"x{tuple(x.shape)} {n.text()} {tuple(pool.values())} {d.dtype}"


def bn_act_max_pool2d(seed: int) -> TrainingCase:
    d = Draw(seed)
    return forward_case(d, draw_input(d))


def infinite_window(seed: int) -> TrainingCase:
    """The forward pass at infinities and NaN: a NaN is the maximum of its windows."""
    d = exact_draw(seed)
    return forward_case(d, poison(d, draw_input(d)))


def forward_case(d: Draw, x: Tensor) -> TrainingCase:
    pool, n = draw_pool(d), draw_norm(d, x)
    case = TrainingCase("bn_act_max_pool2d", d, text_of(x, n, pool, d))
    xv, xw = place(d, x)
    case.read(xw, "x")
    add_norm(case, n)
    want = F.max_pool2d(n.u(x), **pool)
    out = case.image("out", want, F.max_pool2d(n.z_size(x) * SLOPE_AT_MOST[n.act], **pool))
    window = window_fields(pool["kernel_size"], pool["stride"], pool["padding"])
    case.fields += [*nhwc_fields(xv), *nhwc_fields(out), *n.fields(), ACT_CODES[n.act], *window]
    case.schema = (xv, *n.schema(), *(window[i : i + 2] for i in (0, 2, 4)), pool["ceil_mode"])
    return case


def bn_act_max_pool2d_backward(seed: int) -> TrainingCase:
    d = Draw(seed)
    return backward_case(d, draw_input(d))


def infinite_window_backward(seed: int) -> TrainingCase:
    """Which pixel of a window gets the gradient where there are infinities and NaN."""
    d = exact_draw(seed)
    return backward_case(d, poison(d, draw_input(d)), vectors=False)


def backward_case(d: Draw, x: Tensor, vectors: bool = True) -> TrainingCase:
    pool, n = draw_pool(d), draw_norm(d, x, ("relu", "none", "relu6", "hardswish"))
    case = TrainingCase("bn_act_max_pool2d_backward", d, text_of(x, n, pool, d))
    _, places = F.max_pool2d(rounded_u(n, x, d.dtype), **pool, return_indices=True)
    dy = d.values(*places.shape)
    scatter = lambda v: torch.zeros_like(x).flatten(2).scatter_add(2, places.flatten(2), v.flatten(2)).view_as(x)  # noqa: E731
    truth = backward(n, x, scatter(dy), scatter(dy.abs()))
    (xv, xw), (gv, gw) = place(d, x), place(d, dy)
    case.read(xw, "x")
    case.read(gw, "dy")
    add_norm(case, n)
    dx = case.image("dx", truth.dx, truth.dx_size)
    window = window_fields(pool["kernel_size"], pool["stride"], pool["padding"])
    case.fields += [*nhwc_fields(gv), *nhwc_fields(xv), *nhwc_fields(dx), *n.fields(), ACT_CODES[n.act], *window]
    case.fields += gradient_vectors(case, n, truth) if vectors else [0, 0]
    if vectors:
        case.schema = (gv, xv, *n.schema(), *(window[i : i + 2] for i in (0, 2, 4)), pool["ceil_mode"], n.batch)
    return case


CASES = (bn_act_max_pool2d, infinite_window, bn_act_max_pool2d_backward, infinite_window_backward)
