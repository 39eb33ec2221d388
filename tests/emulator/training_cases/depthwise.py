"""bn_act_conv2d with groups == C, forward and backward."""

from __future__ import annotations

from drawing import Draw
from harness import ACT_CODES, nhwc_fields, pointer, window_fields
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from training_cases.case import TrainingCase
from training_cases.norm import add_norm, exact_draw, gradient_vectors, place, poison
from training_cases.norm_truth import SLOPE_AT_MOST, backward, draw_norm, spread, sums

# Mostly those that the strips serve.
ACTS = ("relu", "relu6", "none", "relu", "relu6", "hardswish", "silu")


def draw_window(d: Draw) -> tuple[tuple[int, int], dict]:
    """Kernel, and stride, padding and dilation: mostly what the strips serve, now and then any other window."""
    if d.chance(0.75):
        kernel, stride = d.pick(3, 5), d.pick(1, 2)
        padding = tuple(d.pick(kernel // 2, d.between(0, kernel - 1)) for _ in range(2))
        return (kernel, kernel), {"stride": (stride, stride), "padding": padding, "dilation": (1, 1)}
    kernel = d.pick((7, 7), (1, 1), (5, 2), (3, 3), (2, 2))
    stride, dilation = d.pick((1, 1), (1, 2), (3, 3), (2, 1)), d.pick((1, 1), (2, 2), (1, 2))
    return kernel, {"stride": stride, "padding": (d.between(0, 4), d.between(0, 4)), "dilation": dilation}


def draw_problem(d: Draw) -> tuple[Tensor, Tensor, dict]:
    """x, weight, and the convolution's arguments."""
    kernel, conv = draw_window(d)
    rows, columns = (step * (k - 1) + 1 for k, step in zip(kernel, conv["dilation"], strict=True))
    n = d.between(1, 3)
    if d.chance(0.15):  # several strips, several blocks
        c, h, w = d.channels(16), d.between(20, 60), d.between(columns, columns + 20)
    elif d.chance(0.15):  # several groups of channels
        c, h, w = d.between(60, 150), d.between(rows, rows + 4), d.between(columns, columns + 4)
    else:
        c, h, w = d.channels(80), d.side(rows, 12), d.side(columns, 12)
    c = max(c, 2)  # one channel is a dense convolution
    x = spread(d, d.values(n, c, h, w))
    weight = d.values(c, 1, *kernel, low=-1, high=1, scale=1 / (kernel[0] * kernel[1]) ** 0.5)
    return x, weight, conv | {"groups": c}


def text_of(x: Tensor, weight: Tensor, conv: dict, rest: str) -> str:
    window = f"k{tuple(weight.shape[2:])} s{conv['stride']} p{conv['padding']} d{conv['dilation']}"
    return f"x{tuple(x.shape)} {window} {rest}"


def bn_act_depthwise(seed: int) -> TrainingCase:
    d = Draw(seed)
    return forward_case(d, *draw_problem(d), stats=d.chance(0.8))


def infinite_depthwise(seed: int) -> TrainingCase:
    """Infinities and NaN reach the pixels whose windows hold them, and no other channel."""
    d = exact_draw(seed)
    x, weight, conv = draw_problem(d)
    return forward_case(d, poison(d, x), weight, conv, stats=False)


def forward_case(d: Draw, x: Tensor, weight: Tensor, conv: dict, stats: bool) -> TrainingCase:
    n = draw_norm(d, x, ACTS)
    bias = d.values(x.shape[1]) if d.chance(0.3) else None
    case = TrainingCase("bn_act_conv2d", d, text_of(x, weight, conv, f"{n.text()} bias{bias is not None} {d.dtype}"))
    want = F.conv2d(n.u(x), weight, bias, **conv)
    size = F.conv2d(n.z_size(x) * SLOPE_AT_MOST[n.act], weight.abs(), None if bias is None else bias.abs(), **conv)
    xv, xw = place(d, x)
    w, b = weight.to(d.dtype), None if bias is None else bias.to(d.dtype)
    for t, label in ((xw, "x"), (w, "weight"), (b, "bias")):
        case.read(t, label)
    add_norm(case, n)
    y = case.image("y", want, size)
    vectors = [pointer(t) for t in case.statistics(y)] if stats else [0, 0]
    window = window_fields(tuple(weight.shape[2:]), conv["stride"], conv["padding"], conv["dilation"])
    case.fields += [*nhwc_fields(xv), *nhwc_fields(y), *n.fields(), ACT_CODES[n.act], pointer(w), pointer(b)]
    case.fields += [*window, x.shape[1], 0, *vectors]
    case.schema = (xv, *n.schema(), w, b, *(window[i : i + 2] for i in (2, 4, 6)), x.shape[1], False, stats)
    return case


def bn_act_depthwise_backward(seed: int) -> TrainingCase:
    d = Draw(seed)
    x, weight, conv = draw_problem(d)
    n = draw_norm(d, x, ACTS)
    needs = [d.chance(0.85), d.chance(0.85), d.chance(0.85), d.chance(0.6)]
    rest = f"{n.text()} needs{''.join('01'[v] for v in needs)} {d.dtype}"
    case = TrainingCase("bn_act_conv2d_backward", d, text_of(x, weight, conv, rest))
    u, u_size = n.u(x), n.z_size(x) * SLOPE_AT_MOST[n.act]
    dy = d.values(*F.conv2d(u, weight, **conv).shape)
    du, du_size = (conv2d_input(x.shape, a, b, **conv) for a, b in ((weight, dy), (weight.abs(), dy.abs())))
    truth = backward(n, x, du, du_size)
    (xv, xw), (gv, gw) = place(d, x), place(d, dy)
    w = weight.to(d.dtype)
    for t, label in ((xw, "x"), (gw, "dy"), (w, "weight")):
        case.read(t, label)
    add_norm(case, n)
    window = window_fields(tuple(weight.shape[2:]), conv["stride"], conv["padding"], conv["dilation"])
    dx = case.image("dx", truth.dx, truth.dx_size) if needs[0] else None
    case.fields += [
        *nhwc_fields(gv),
        *nhwc_fields(xv),
        *n.fields(),
        ACT_CODES[n.act],
        pointer(w),
        *window,
        x.shape[1],
        0,
    ]
    case.fields += nhwc_fields(dx) + (gradient_vectors(case, n, truth) if needs[1] else [0, 0])
    dweight = dbias = None
    if needs[2]:
        dweight = case.flat(
            "dweight",
            conv2d_weight(u, weight.shape, dy, **conv),
            conv2d_weight(u_size, weight.shape, dy.abs(), **conv),
            d.dtype,
        )
    if needs[3]:
        dbias = case.flat("dbias", sums(dy), sums(dy.abs()), d.dtype)
    case.fields += [pointer(dweight), pointer(dbias)]
    case.schema = (gv, xv, *n.schema(), w, *(window[i : i + 2] for i in (2, 4, 6)), x.shape[1], False, n.batch, needs)
    return case


CASES = (bn_act_depthwise, infinite_depthwise, bn_act_depthwise_backward)
