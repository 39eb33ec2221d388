"""The stem in training where no batch norm stands between convolution and pool, forward and backward."""

from __future__ import annotations

import torch
from drawing import BOUND, ROUNDOFF, Draw
from harness import ACT_CODES, nhwc_fields, pointer, window_fields
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from training_cases.case import Output, TrainingCase
from training_cases.gemm import operand_rounding
from training_cases.norm import exact_draw, place, poison
from training_cases.norm_truth import sums

UNIT = BOUND[torch.float32] * ROUNDOFF[torch.float32]


class Stem:
    """x, the weight and bias, the geometry; the convolution's map and the windows over it."""

    def __init__(self, d: Draw, op: str) -> None:
        self.d, n = d, d.between(1, 2)
        kernel, stride, padding = d.pick(
            (7, 2, 3), (3, 2, 0), (3, 2, 1), (3, 1, 1), (5, 2, 2), (1, 1, 0), ((3, 2), (1, 2), (1, 0))
        )
        kind = d.pick("pool", "pool", "pool", "large", "deep")
        if kind == "deep":
            kernel, stride, padding = d.pick((3, 1, 1), (3, 2, 0))
        # Larger than a tile, or under a tile more channels than shared memory holds: through the workspace.
        c = d.between(60, 130) if kind == "deep" else d.pick(3, 3, 3, 1, 4, 8, 17)
        o = d.channels(100)
        if kind == "large":
            pool = {"kernel_size": d.pick(12, 14), "stride": d.pick(4, 5), "padding": d.between(0, 2)}
        else:
            pool = d.pick(
                {"kernel_size": 3, "stride": 2, "padding": 1},
                {"kernel_size": 3, "stride": 2, "padding": 0},
                {"kernel_size": 2, "stride": 2, "padding": 0},
                {"kernel_size": (3, 2), "stride": (1, 3), "padding": 1},
                {"kernel_size": 2, "stride": 3, "padding": 0},
                {"kernel_size": 1, "stride": 1, "padding": 0},
            )
        self.pool = pool | {"ceil_mode": d.chance(0.5)}
        self.pair = lambda v: [v, v] if isinstance(v, int) else list(v)
        self.geometry = {"stride": stride, "padding": padding}
        if kind == "large":
            sizes = [d.side(32, 10) for _ in range(2)]
        else:
            sizes = [d.between(18, 30) if d.chance(0.2) else d.side(12, 12) for _ in range(2)]
        depth = c * self.pair(kernel)[0] * self.pair(kernel)[1]
        self.x = d.values(n, c, *sizes)
        self.weight = d.values(
            o, c, *self.pair(kernel), low=-1, high=1, density=min(1.0, 12 / depth), scale=depth**-0.5
        )
        self.bias = d.values(o) if d.chance(0.7) else None
        self.act = d.pick("none", "relu", "relu")
        self.rounding = operand_rounding(d)
        text = f"x{tuple(self.x.shape)} o{o} k{kernel} {self.geometry} pool{tuple(self.pool.values())} {self.act}"
        self.case = TrainingCase(op, d, f"{text} {d.dtype} tf32{d.tf32}")
        self.window = window_fields(kernel, stride, padding)
        self.pooling = window_fields(*(pool[k] for k in ("kernel_size", "stride", "padding")))

    def schema(self) -> list:
        return [
            *(self.window[i : i + 2] for i in (2, 4)),
            ACT_CODES[self.act],
            *(self.pooling[i : i + 2] for i in (0, 2, 4)),
        ]

    def map(self) -> tuple[Tensor, Tensor]:
        """The convolution's activated map, and the magnitude of its error."""
        y = F.conv2d(self.x, self.weight, self.bias, **self.geometry)
        bias = None if self.bias is None else self.bias.abs()
        size = F.conv2d(self.x.abs(), self.weight.abs(), bias, **self.geometry) * self.rounding
        return (F.relu(y) if self.act == "relu" else y), size

    def flat_places(self, places: Tensor, width: int) -> Tensor:
        """Indices into the map's pixels of places in windows."""
        (_, kw), (sh, sw), (ph, pw) = (self.pooling[i : i + 2] for i in (0, 2, 4))
        at = places.long()
        row = torch.arange(at.shape[2])[:, None] * sh - ph + at // kw
        return row * width + torch.arange(at.shape[3]) * sw - pw + at % kw

    def places(self, flat: Tensor, width: int) -> Tensor:
        (_, kw), (sh, sw), (ph, pw) = (self.pooling[i : i + 2] for i in (0, 2, 4))
        row = flat // width - (torch.arange(flat.shape[2])[:, None] * sh - ph)
        return (row * kw + flat % width - (torch.arange(flat.shape[3]) * sw - pw)).to(torch.uint8)

    def chosen(self, got: Tensor, u: Tensor, size: Tensor, want: Tensor) -> Tensor:
        """The places a kernel chose; the true ones where the value there is further from the maximum than rounding."""
        width, flat = u.shape[3], self.flat_places(got, u.shape[3])
        inside = (flat >= 0) & (flat < u.shape[2] * width)
        at = flat.clamp(0, u.shape[2] * width - 1).flatten(2)
        error_of = UNIT * size + ROUNDOFF[self.d.dtype] * u.abs()
        value, error = (t.flatten(2).gather(2, at).view_as(flat) for t in (u, error_of))
        inside &= self.places(flat.clamp(0, u.shape[2] * width - 1), width) == got
        best = F.max_pool2d(u, **self.pool)
        return torch.where(inside & (best - value <= F.max_pool2d(error_of, **self.pool) + error), got, want)


def stem_train(seed: int) -> TrainingCase:
    d = Draw(seed)
    return forward_case(Stem(d, "stem_train"))


def infinite_stem(seed: int) -> TrainingCase:
    """At infinities and NaN: a NaN is the maximum of its windows, the last one."""
    d = exact_draw(seed)
    s = Stem(d, "stem_train")
    s.x = poison(d, s.x)
    return forward_case(s)


def forward_case(s: Stem) -> TrainingCase:
    d, case = s.d, s.case
    u, size = s.map()
    stored = u.to(d.dtype).double()  # ties that rounding makes are ties
    want, flat = F.max_pool2d(stored if d.exact else u, **s.pool, return_indices=True)
    truth = s.places(flat, u.shape[3])
    xv, xw = place(d, s.x)
    w, b = s.weight.to(d.dtype), None if s.bias is None else s.bias.to(d.dtype)
    for t, label in ((xw, "x"), (w, "weight"), (b, "bias")):
        case.read(t, label)
    out = case.image("out", want, F.max_pool2d(size, **s.pool))
    n, o, h, width = want.shape
    places = torch.full((n, h, width, o), 255, dtype=torch.uint8).permute(0, 3, 1, 2)
    case.regions.append((places, True, "places"))
    chosen = (lambda: truth) if d.exact else (lambda: s.chosen(places.clone(), u, size, truth))
    case.outputs.append(Output("places", places, places, chosen, torch.zeros(()), always=True))
    case.fields += [*nhwc_fields(xv), *nhwc_fields(out), pointer(places), pointer(w), pointer(b), ACT_CODES[s.act]]
    case.fields += [*s.window, *s.pooling]
    case.schema = (xv, w, b, *s.schema(), s.pool["ceil_mode"])
    return case


def stem_train_backward(seed: int) -> TrainingCase:
    """From places of its own: any pixel of a window inside the map."""
    d = Draw(seed)
    s = Stem(d, "stem_train_backward")
    case = s.case
    u, _ = s.map()
    # The maxima of noise: every pixel of a window is chosen now and then.
    shown, flat = F.max_pool2d(torch.rand(u.shape, generator=d.generator), **s.pool, return_indices=True)
    places = s.places(flat, u.shape[3]).contiguous(memory_format=torch.channels_last)
    out = d.values(*shown.shape)
    out = out.clamp(min=0) if s.act == "relu" else out
    dout = d.values(*shown.shape)
    d_in = dout * (out > 0) if s.act == "relu" else dout
    scatter = lambda v: torch.zeros_like(u).flatten(2).scatter_add(2, flat.flatten(2), v.flatten(2)).view_as(u)  # noqa: E731
    dy, size = scatter(d_in), scatter(d_in.abs())
    stored = size * s.rounding
    (xv, xw), (gv, gw), (ov, ow) = place(d, s.x), place(d, dout), d.place(out)
    w = s.weight.to(d.dtype)
    for t, label in ((xw, "x"), (gw, "dout"), (ow, "out"), (w, "weight")):
        case.read(t, label)
    case.regions.append((places, False, "places"))
    case.keep.append(places)
    needs = [d.chance(0.3), d.chance(0.85), d.chance(0.7)]
    case.text += f" needs{''.join('01'[v] for v in needs)}"
    dx = None
    if needs[0]:
        back = lambda w, g: conv2d_input(s.x.shape, w, g, **s.geometry)  # noqa: E731
        dx = case.image("dx", back(s.weight, dy), 2 * back(s.weight.abs(), stored))
    dweight = dbias = None
    if needs[1]:
        gradient = lambda x, g: conv2d_weight(x, s.weight.shape, g, **s.geometry)  # noqa: E731
        dweight = case.flat("dweight", gradient(s.x, dy), 2 * gradient(s.x.abs(), stored), d.dtype)
    if needs[2]:
        dbias = case.flat("dbias", sums(dy), sums(size), d.dtype)
    case.fields += [*nhwc_fields(xv), *nhwc_fields(gv), *nhwc_fields(ov), pointer(places), ACT_CODES[s.act]]
    case.fields += [*s.window, *s.pooling, pointer(w), *nhwc_fields(dx), pointer(dweight), pointer(dbias)]
    case.schema = (gv, xv, ov, places, w, *s.schema(), needs)
    return case


CASES = (stem_train, infinite_stem, stem_train_backward)
