"""Random cases for every op: seeded, small, full of tails, in every layout, with the guards around them."""

import random
from typing import Any

import torch
from torch import Tensor

from lightops.testing.calls import Call, Case, build_call
from lightops.testing.fill import ExactFill, RealFill
from lightops.testing.layouts import Guarded
from lightops.testing.oracle import operands, truth
from lightops.testing.tolerances import EXACT_LIMIT

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
KINDS = ("exact", "real")

# A fraction of this many bits stays exact through every op: BN scales down to 1/2 twice, averages over 4 pixels,
# weights of F(2x2,3x3) in quarters, its input transform four times larger.
_FRACTION_BITS = 6


def random_case(op: str, rng: random.Random, kind: str = "real", low_precision: bool = False) -> Case:
    """A small case with tails: channels around vector and panel widths, maps from 1x1, every stride and padding."""
    n = rng.choice([0, 1, 1, 1, 2, 2, 3])
    c, h, w = _channels(rng), rng.randint(1, 17), rng.randint(1, 17)
    if op == "stem" and _flag(rng):
        c, w = 3, rng.randint(1, 41)  # images: three planes are interleaved a vector of pixels at a time
    options = _DRAW[op](rng, c, h, w, kind)
    if op == "dense_block" and kind == "exact":
        # The channels that a layer adds are rounded to the output's dtype before the next reads them.
        options["layers"] = 1 if low_precision else min(options["layers"], 2)
    if op == "head" and kind == "exact":
        sizes = [1, 2] if low_precision else [1, 2, 4, 8, 16]  # the mean of more would need more bits
        h, w = rng.choice(sizes), rng.choice(sizes[:4])
    if op == "transition":
        h, w = h + 1, w + 1
    if op == "inverted_residual" and options["residual"]:
        options.update(out=c, stride=(1, 1), padding=(options["kernel"][0] // 2, options["kernel"][1] // 2))
    h, w = _fit(h, w, options)
    return Case(op, "fuzz", (n, c, h, w), options)


def draw_call(op: str, dtype: torch.dtype, layout: str, kind: str, seed: int) -> tuple[Case, Call, list[Guarded]]:
    """The call of a seed, its tensors guarded: x and addends in `layout`, weights in a layout of their own."""
    rng = random.Random(f"{op} {dtype} {layout} {kind} {seed}")
    low = dtype in (torch.float16, torch.bfloat16)
    case = random_case(op, rng, kind, low)
    call = real_call(case, dtype, seed) if kind == "real" else exact_call(case, dtype, seed)
    return case, *guard_call(call, layout, rng.choice(["nchw", "nchw", "nhwc", "transposed", "slice", "offset"]))


def guard_call(call: Call, layout: str, weight_layout: str) -> tuple[Call, list[Guarded]]:
    """The call with every 4-D tensor rearranged inside NaN-filled memory; activations by `layout`, weights by
    `weight_layout`."""
    guarded: list[Guarded] = []
    x = call.args[0]
    activation = {id(x)} | {id(call.kwargs[key]) for key in ("residual", "bypass") if call.kwargs.get(key) is not None}

    def place(t: Tensor) -> Tensor:
        if t.dim() != 4:
            return t
        guarded.append(Guarded(t, layout if id(t) in activation else weight_layout))
        return guarded[-1].tensor

    return call.map(place), guarded


def real_call(case: Case, dtype: torch.dtype, seed: int) -> Call:
    """Real data over awkward ranges, for the bounded oracle."""
    return build_call(case, RealFill(seed, dtype))


def exact_call(case: Case, dtype: torch.dtype, seed: int) -> Call:
    """Integer data for the exact oracle: the weights are thinned out until no sum can reach the accumulator's limit
    and, in bfloat16, whose products may read rounded activations, until those need no rounding."""
    for terms in (48, 16, 6, 2, 1):
        call = build_call(case, ExactFill(seed, dtype, terms))
        magnitude = truth(call).magnitude
        small = not magnitude.numel() or float(magnitude.max()) * 2**_FRACTION_BITS < EXACT_LIMIT[dtype]
        if small and (dtype != torch.bfloat16 or all(torch.equal(t.to(dtype).double(), t) for t in operands(call))):
            return call
    raise AssertionError(f"no exact data for {case}")


def _channels(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.4:
        return rng.randint(1, 9)
    if kind < 0.8:
        return max(1, rng.choice([8, 16, 32, 48, 64]) + rng.randint(-1, 1))
    return rng.randint(1, 97)


def _flag(rng: random.Random) -> bool:
    return rng.random() < 0.5


def _act(rng: random.Random, kind: str) -> str:
    return rng.choice(["none", "relu", "relu6"] if kind == "exact" else ["none", "relu", "relu6", "hardswish", "silu"])


def _tile(rng: random.Random, kind: str) -> int:
    """Algorithm of a 3x3; the weight transform of the 4x4 tile holds sixths, so it has no exact data."""
    return rng.choice([0, 2] if kind == "exact" else [0, 2, 2, 4])


def _window(rng: random.Random, *, depthwise: bool = False) -> dict[str, Any]:
    """Kernel, stride, padding below the kernel, dilation; half of them the common 3x3."""
    if _flag(rng):
        return {"kernel": (3, 3), "stride": rng.choice([(1, 1), (2, 2)]), "padding": (1, 1)}
    kernel = (rng.choice([1, 2, 3, 5, 7]), rng.choice([1, 3, 4, 5, 7])) if not depthwise or _flag(rng) else (5, 5)
    return {
        "kernel": kernel,
        "stride": (rng.randint(1, 3), rng.randint(1, 3)),
        "padding": (rng.randint(0, kernel[0] - 1), rng.randint(0, kernel[1] - 1)),
        "dilation": (rng.randint(1, 2), rng.randint(1, 2)),
    }


def _fit(h: int, w: int, options: dict[str, Any]) -> tuple[int, int]:
    """Enlarge a map that the window would not fit into."""
    sizes = [h, w]
    for i in (0, 1):
        kernel = options.get("kernel", (1, 1))[i]
        extent = options.get("dilation", (1, 1))[i] * (kernel - 1) + 1
        need = extent - 2 * options.get("padding", (0, 0))[i]
        pool = options.get("pool")
        if pool:
            need += (pool[0] - 1) * options["stride"][i]
        sizes[i] = max(sizes[i], need)
    return sizes[0], sizes[1]


def _draw_bn_relu_conv2d(rng, c, h, w, kind):
    bn = rng.random() < 0.8
    return {
        "out": _channels(rng), **_window(rng), "bn": bn, "act": _act(rng, kind), "bias": _flag(rng),
        "out_bn": rng.random() < 0.3, "out_act": _act(rng, kind), "winograd": _tile(rng, kind),
    }  # fmt: skip


def _draw_conv1x1_bn_act(rng, c, h, w, kind):
    return {"out": _channels(rng), "bias": _flag(rng), "bn": _flag(rng), "act": _act(rng, kind), "residual": _flag(rng)}


def _draw_depthwise_pointwise(rng, c, h, w, kind):
    return {
        "out": _channels(rng), **_window(rng, depthwise=True),
        "dw_bias": _flag(rng), "dw_bn": _flag(rng), "pw_bias": _flag(rng),
        "pw_bn": _flag(rng), "dw_act": _act(rng, kind), "pw_act": _act(rng, kind), "residual": _flag(rng),
    }  # fmt: skip


def _draw_inverted_residual(rng, c, h, w, kind):
    window = _window(rng, depthwise=True)
    window.pop("dilation", None)
    kernel = window["kernel"]
    residual = _flag(rng) and kernel[0] % 2 == 1 and kernel[1] % 2 == 1
    return {
        "hidden": rng.choice([c, 2 * c, min(6 * c, 200), _channels(rng)]), "out": _channels(rng), **window,
        "act": _act(rng, kind), "bn": rng.random() < 0.8, "bias": _flag(rng), "residual": residual,
    }  # fmt: skip


def _draw_fire(rng, c, h, w, kind):
    return {
        "squeeze": _channels(rng), "expand1": _channels(rng), "expand3": _channels(rng), "bias": rng.random() < 0.8,
        "bypass": _flag(rng), "winograd": _tile(rng, kind),
    }  # fmt: skip


def _draw_dense_block(rng, c, h, w, kind):
    return {
        "layers": rng.randint(1, 4), "growth": rng.choice([1, 4, 12, 16, 31, 32, 33]),
        "bottleneck": rng.choice([0, 5, 16, 33, 48, 64]),
        "winograd": _tile(rng, kind),
    }  # fmt: skip


def _draw_max_pool2d(rng, c, h, w, kind):
    kernel = (rng.choice([2, 3, 3, 5]), rng.choice([1, 2, 3, 3, 4]))
    return {
        "kernel": kernel, "stride": (rng.randint(1, 3), rng.randint(1, 3)),
        "padding": (rng.randint(0, kernel[0] // 2), rng.randint(0, kernel[1] // 2)), "ceil_mode": _flag(rng),
    }  # fmt: skip


def _draw_transition(rng, c, h, w, kind):
    return {"out": _channels(rng), "bias": _flag(rng)}


def _draw_stem(rng, c, h, w, kind):
    window = _window(rng)
    window.pop("dilation", None)
    kernel = rng.randint(2, 3)
    pool = rng.choice([None, (kernel, rng.randint(1, 3), rng.randint(0, kernel // 2), _flag(rng))])
    return {"out": _channels(rng), **window, "bias": _flag(rng), "bn": _flag(rng), "act": _act(rng, kind), "pool": pool}


def _draw_head(rng, c, h, w, kind):
    return {"bn": _flag(rng), "act": _act(rng, kind), "out": rng.choice([0, 1, 10, _channels(rng)]), "bias": _flag(rng)}


_DRAW = {
    "bn_relu_conv2d": _draw_bn_relu_conv2d,
    "conv1x1_bn_act": _draw_conv1x1_bn_act,
    "dense_block": _draw_dense_block,
    "depthwise_pointwise": _draw_depthwise_pointwise,
    "fire": _draw_fire,
    "head": _draw_head,
    "inverted_residual": _draw_inverted_residual,
    "max_pool2d": _draw_max_pool2d,
    "stem": _draw_stem,
    "transition": _draw_transition,
}
