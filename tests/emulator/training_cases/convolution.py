"""bn_act_conv2d with groups == 1, forward and backward."""

from __future__ import annotations

import torch
from drawing import SENTINEL, Draw
from harness import ACT_CODES, nhwc_fields, pointer, window_fields
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from training_cases.case import TrainingCase
from training_cases.gemm import draw_convolution, operand_rounding, weight_fields
from training_cases.norm import add_norm, added_gradient, gradient_vectors, place
from training_cases.norm_truth import SLOPE_AT_MOST, Norm, backward, draw_norm, spread, sums


class Problem:
    """x, the norm, the weight; u and the convolution of it."""

    def __init__(self, seed: int, op: str) -> None:
        self.d = d = Draw(seed)
        c, o, kernel, self.geometry, (n, h, w), self.pool = draw_convolution(d)
        self.x = spread(d, d.values(n, c, h, w))
        stem = c <= 8 and d.chance(0.6)
        self.norm = Norm(None, None, None, None, 0.0, "none", False) if stem else draw_norm(d, self.x)
        depth = c * kernel[0] * kernel[1]
        # Sparse both ways: sums over (taps, c) and, in the input gradient, over (taps, o) stay small integers.
        density = min(1.0, 12 / depth, 12 / (o * kernel[0] * kernel[1]))
        self.weight = d.values(o, c, *kernel, low=-1, high=1, density=density, scale=depth**-0.5)
        self.rounding = operand_rounding(d)
        self.u, self.u_size = self.norm.u(self.x), self.norm.z_size(self.x) * SLOPE_AT_MOST[self.norm.act]
        if self.pool:
            self.u, self.u_size = F.avg_pool2d(self.u, 2), F.avg_pool2d(self.u_size, 2)
        text = f"x{tuple(self.x.shape)} o{o} k{kernel} {self.geometry} pool{self.pool} {self.norm.text()}"
        self.case = TrainingCase(op, d, f"{text} {d.dtype} tf32{d.tf32}")
        self.window = window_fields(kernel, **{"stride": 1, "padding": 0, "dilation": 1} | self.geometry)

    def schema(self, *tensors: Tensor | None) -> tuple:
        return *tensors, *(self.window[i : i + 2] for i in (2, 4, 6)), 1, self.pool

    def input_gradient(self, like: Tensor, dy: Tensor) -> list[Tensor]:
        """The gradient of the convolution's input, which is like `like`, and the size of what is added up in it."""
        pairs = (self.weight, dy), (self.weight.abs(), dy.abs())
        return [conv2d_input(like.shape, weight, gradient, **self.geometry) for weight, gradient in pairs]

    def read_backward(self, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, dy and the weight as a backward kernel reads them."""
        (xv, xw), (gv, gw) = place(self.d, self.x), place(self.d, dy)
        w = self.weight.to(self.d.dtype)
        for t, label in ((xw, "x"), (gw, "dy"), (w, "weight")):
            self.case.read(t, label)
        add_norm(self.case, self.norm)
        return xv, gv, w


def bn_act_dense(seed: int) -> TrainingCase:
    p = Problem(seed, "bn_act_conv2d")
    d, case, n = p.d, p.case, p.norm
    bias = d.values(p.weight.shape[0]) if d.chance(0.3) else None
    stats = d.chance(0.6)
    want = F.conv2d(p.u, p.weight, bias, **p.geometry)
    size = F.conv2d(p.u_size, p.weight.abs(), None if bias is None else bias.abs(), **p.geometry) * p.rounding
    xv, xw = place(d, p.x)
    w, b = p.weight.to(d.dtype), None if bias is None else bias.to(d.dtype)
    for t, label in ((xw, "x"), (w, "weight"), (b, "bias")):
        case.read(t, label)
    add_norm(case, n)
    y = case.image("y", want, size)
    vectors = [pointer(t) for t in case.statistics(y)] if stats else [0, 0]
    case.fields += [*nhwc_fields(xv), *nhwc_fields(y), *n.fields(), ACT_CODES[n.act], pointer(w), pointer(b)]
    case.fields += [*p.window, 1, int(p.pool), *vectors]
    case.schema = (xv, *n.schema(), *p.schema(w, b), stats)
    return case


def bn_act_dense_backward(seed: int) -> TrainingCase:
    p = Problem(seed, "bn_act_conv2d_backward")
    d, case, n = p.d, p.case, p.norm
    needs = [d.chance(0.8), d.chance(0.8), d.chance(0.6), d.chance(0.3)]
    dy = d.values(*F.conv2d(p.u, p.weight, **p.geometry).shape)
    du, du_size = p.input_gradient(p.u, dy)
    if p.pool:
        du, du_size = unpool(du, p.x), unpool(du_size, p.x)
    truth = backward(n, p.x, du, du_size * p.rounding)
    xv, gv, w = p.read_backward(dy)
    case.text += f" needs{''.join('01'[v] for v in needs)}"
    dx = case.image("dx", truth.dx, truth.dx_size) if needs[0] else None
    case.fields += [
        *nhwc_fields(gv),
        *nhwc_fields(xv),
        *n.fields(),
        ACT_CODES[n.act],
        pointer(w),
        *p.window,
        1,
        int(p.pool),
    ]
    case.fields += nhwc_fields(dx) + (gradient_vectors(case, n, truth) if needs[1] else [0, 0])
    dweight = dbias = None
    if needs[2]:
        want, size = (
            conv2d_weight(u, p.weight.shape, g, **p.geometry) for u, g in ((p.u, dy), (p.u_size * p.rounding, dy.abs()))
        )
        dweight = case.flat("dweight", want, size, d.dtype)
    if needs[3]:
        dbias = case.flat("dbias", sums(dy), sums(dy.abs()), d.dtype)
    case.fields += [pointer(dweight), pointer(dbias)]
    case.schema = (gv, xv, *n.schema(), *p.schema(w), n.batch, needs)
    return case


def masked_gradient(seed: int) -> TrainingCase:
    """The input gradient taken on through the norm, alone and in the dense block's form."""
    p = Problem(seed, "masked_gradient")
    d, case, n = p.d, p.case, p.norm
    accumulate = d.chance(0.5)
    shape = F.conv2d(p.x, p.weight, **p.geometry).shape
    dy = d.values(*shape)
    du, du_size = p.input_gradient(p.x, dy)
    truth = backward(n, p.x, du, du_size * p.rounding)
    xv, gv, w = p.read_backward(dy)
    case.text += f" accumulate{accumulate}"
    dx, vectors, coefficients = added_gradient(case, n, p.x, truth, accumulate, d.dtype)
    b, c, h, wide = p.x.shape
    stored = torch.full((b, h, wide, c), SENTINEL, dtype=d.dtype).permute(0, 3, 1, 2)
    case.regions.append((stored, True, "du"))
    case.keep.append(stored)
    case.fields += [*nhwc_fields(gv), *nhwc_fields(stored), *weight_fields(w), *p.window]
    case.fields += [*nhwc_fields(xv), *nhwc_fields(dx), *n.fields(), ACT_CODES[n.act]]
    case.fields += [*vectors, int(accumulate), *coefficients]
    return case


def unpool(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of a 2x2 average of x."""
    h, w = x.shape[2:]
    wide = gradient.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    return F.pad(wide, (0, w - wide.shape[3], 0, h - wide.shape[2]))


CASES = (bn_act_dense, bn_act_dense_backward, masked_gradient)
