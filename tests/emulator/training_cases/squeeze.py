"""Fire in training, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from drawing import BOUND, ROUNDOFF, SENTINEL, Draw
from harness import nhwc_fields, pointer
from torch import Tensor
from torch.nn import functional as F

from training_cases.case import TrainingCase
from training_cases.gemm import operand_rounding, place_weight, weight_fields
from training_cases.norm_truth import sums

UNIT = BOUND[torch.float32] * ROUNDOFF[torch.float32]


@dataclass
class Fire:
    x: Tensor
    ws: Tensor
    w1: Tensor
    w3: Tensor
    bs: Tensor | None
    b1: Tensor | None
    b3: Tensor | None

    def text(self, d: Draw) -> str:
        sizes = f"s{self.ws.shape[0]} e{self.w1.shape[0]}+{self.w3.shape[0]}"
        return f"x{tuple(self.x.shape)} {sizes} {d.dtype} tf32{d.tf32}"


def draw_fire(d: Draw) -> Fire:
    n, c, s = d.between(1, 2), d.channels(100), d.channels(40)
    e1, e3 = d.channels(70), d.channels(70)
    x = d.values(n, c, d.side(1, 12), d.side(1, 12))
    sparse = {"low": -1, "high": 1}
    ws = d.values(s, c, 1, 1, density=min(1.0, 6 / c), scale=c**-0.5, **sparse)
    w1 = d.values(e1, s, 1, 1, density=min(1.0, 6 / s), scale=s**-0.5, **sparse)
    w3 = d.values(e3, s, 3, 3, density=min(1.0, 1 / s), scale=s**-0.5 / 3, **sparse)
    bs, b1, b3 = (d.bias(o).to(d.dtype).double() if d.chance(0.8) else None for o in (s, e1, e3))
    return Fire(x, ws, w1, w3, bs, b1, b3)


def magnitude(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.abs() for t in tensors]


def place_fire(case: TrainingCase, fire: Fire) -> tuple[Tensor, list[int], list[int], list[Tensor | None]]:
    """x, fields of the weights, and of the biases; weights and biases in turn, as the operator takes them."""
    d = case.draw
    xv, xw = d.place(fire.x)
    case.read(xw, "x")
    weights, biases, schema = [], [], []
    for w in (fire.ws, fire.w1, fire.w3):
        placed = place_weight(d, w)
        case.read(placed, "weight")
        weights += weight_fields(placed)
        schema.append(placed)
    for i, b in enumerate((fire.bs, fire.b1, fire.b3)):
        placed = None if b is None else b.float()
        case.read(placed, "bias")
        biases.append(pointer(placed))
        schema.insert(2 * i + 1, None if b is None else b.to(d.dtype))
    return xv, weights, biases, schema


def fire_train(seed: int) -> TrainingCase:
    d = Draw(seed)
    f = draw_fire(d)
    case = TrainingCase("fire_train", d, f.text(d))
    s = F.relu(F.conv2d(f.x, f.ws, f.bs))
    s_size = F.conv2d(*magnitude(f.x, f.ws, f.bs))
    want = F.relu(torch.cat([F.conv2d(s, f.w1, f.b1), F.conv2d(s, f.w3, f.b3, padding=1)], 1))
    size = torch.cat([F.conv2d(s_size, *magnitude(f.w1, f.b1)), F.conv2d(s_size, *magnitude(f.w3, f.b3), padding=1)], 1)
    xv, weights, biases, tensors = place_fire(case, f)
    out = case.image("out", want, size * operand_rounding(d) * 1.5)
    case.fields += [*nhwc_fields(xv), *nhwc_fields(out), f.ws.shape[0], f.w1.shape[0], *weights, *biases]
    case.schema = (xv, *tensors, 0)
    return case


def fire_train_backward(seed: int) -> TrainingCase:
    """s is computed again by the kernels: where it lies within rounding of zero, either side is right."""
    d = Draw(seed)
    f = draw_fire(d)
    case = TrainingCase("fire_train_backward", d, f.text(d))
    rounding, gradient = operand_rounding(d), torch.nn.grad.conv2d_weight
    z, z_size = F.conv2d(f.x, f.ws, f.bs), F.conv2d(*magnitude(f.x, f.ws, f.bs)) * rounding
    s, e1 = F.relu(z), f.w1.shape[0]
    n, _, h, w = f.x.shape
    out = d.values(n, e1 + f.w3.shape[0], h, w).clamp(min=0)
    dout = d.values(*out.shape, low=-1, high=1)
    dy = dout * (out > 0)
    d1, d3 = dy[:, :e1], dy[:, e1:]
    ds1, ds3 = F.conv_transpose2d(d1, f.w1), F.conv_transpose2d(d3, f.w3, padding=1)
    ds_size = F.conv_transpose2d(d1.abs(), f.w1.abs()) + F.conv_transpose2d(d3.abs(), f.w3.abs(), padding=1)
    close = (z.abs() < UNIT * z_size) & (not d.exact)
    ds, ds_size = (ds1 + ds3) * (z > 0), 3 * rounding * ds_size + torch.where(close, ds_size / UNIT, 0.0)
    case.exact = d.exact and max(t.abs().max().item() for t in (z, ds1, ds1 + ds3)) <= 256
    xv, weights, biases, tensors = place_fire(case, f)
    (gv, gw), (ov, ow) = d.place(dout), d.place(out)
    case.read(gw, "dout")
    case.read(ow, "out")
    needs = [not d.chance(0.15) for _ in range(7)]
    squeeze = torch.full((s.numel(),), SENTINEL, dtype=d.dtype)
    dsqueeze = torch.full((s.numel(),), SENTINEL, dtype=d.dtype) if any(needs[:3]) else None
    for scratch in (squeeze, dsqueeze):
        if scratch is not None:
            case.regions.append((scratch, True, "scratch"))
            case.keep.append(scratch)
    truth = {
        "dws": (gradient(f.x, f.ws.shape, ds), gradient(f.x.abs(), f.ws.shape, ds_size)),
        "dbs": (sums(ds), sums(ds_size)),
        "dw1": (gradient(s, f.w1.shape, d1), gradient(z_size, f.w1.shape, d1.abs())),
        "db1": (sums(d1), sums(d1.abs())),
        "dw3": (gradient(s, f.w3.shape, d3, padding=1), gradient(z_size, f.w3.shape, d3.abs(), padding=1)),
        "db3": (sums(d3), sums(d3.abs())),
    }
    dx_size = F.conv_transpose2d(ds_size + rounding * ds.abs(), f.ws.abs())
    dx = case.image("dx", F.conv_transpose2d(ds, f.ws), dx_size) if needs[0] else None
    case.fields += [*nhwc_fields(gv), *nhwc_fields(xv), *nhwc_fields(ov), f.ws.shape[0], e1, *weights, biases[0]]
    case.fields += [pointer(squeeze), pointer(dsqueeze), *nhwc_fields(dx)]
    for (name, (want, size)), need in zip(truth.items(), needs[1:], strict=True):
        case.fields.append(pointer(case.flat(name, want, 2 * size, d.dtype)) if need else 0)
    case.schema = (gv, xv, ov, *tensors[:3], tensors[4], 0, needs)
    return case


CASES = (fire_train, fire_train_backward)
