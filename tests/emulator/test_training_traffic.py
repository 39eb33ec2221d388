"""How often the training kernels that are bound by memory move each tensor, at the networks' shapes in bfloat16."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from harness import DTYPE_CODES, Gpu, nhwc_fields, norm_fields, pointer, window_fields
from torch import Tensor
from training_cases.norm_truth import Norm

DTYPE = torch.bfloat16
RELU = 1


@dataclass
class Call:
    op: str
    fields: list[int]
    read: dict[str, Tensor]
    written: dict[str, Tensor]
    vectors: dict[str, Tensor]


def image(c: int, h: int, w: int | None = None) -> Tensor:
    return torch.randn(1, h, w or h, c).to(DTYPE).permute(0, 3, 1, 2)


def norm_of(x: Tensor) -> Norm:
    c, wide = x.shape[1], x.float()
    return Norm(wide.mean((0, 2, 3)), wide.var((0, 2, 3)), torch.rand(c) + 0.5, torch.randn(c), 1e-5, "relu", True)


def prepare(
    op: str, x: Tensor, read: dict[str, Tensor], written: dict[str, Tensor], vectors: dict[str, Tensor]
) -> Call:
    return Call(op, [DTYPE_CODES[DTYPE]], {"x": x, **read}, written, vectors)


def batch_stats(c: int, hw: int) -> Call:
    x, out = image(c, hw), {"mean": torch.empty(c), "var": torch.empty(c)}
    call = prepare("batch_stats", x, {}, {}, out)
    call.fields += [*nhwc_fields(x), *map(pointer, out.values())]
    return call


def bn_act(c: int, hw: int) -> Call:
    x, out = image(c, hw), image(c, hw)
    n = norm_of(x)
    call = prepare("bn_act", x, {}, {"out": out}, n.vectors())
    call.fields += [*nhwc_fields(x), *nhwc_fields(None), *nhwc_fields(out), *n.fields(), RELU]
    return call


def bn_act_backward(c: int, hw: int) -> Call:
    x, dy, dx = image(c, hw), image(c, hw), image(c, hw)
    n, grads = norm_of(x), {"dgamma": torch.empty(c), "dbeta": torch.empty(c)}
    call = prepare("bn_act_backward", x, {"dy": dy}, {"dx": dx}, n.vectors() | grads)
    call.fields += [
        *nhwc_fields(dy),
        *nhwc_fields(x),
        *nhwc_fields(dx),
        *n.fields(),
        RELU,
        *map(pointer, grads.values()),
    ]
    return call


def bn_act_mean(c: int, hw: int) -> Call:
    x, out = image(c, hw), torch.empty(1, c, dtype=DTYPE)
    n = norm_of(x)
    call = prepare("bn_act_mean", x, {}, {"out": out}, n.vectors())
    call.fields += [*nhwc_fields(x), *n.fields(), RELU, pointer(out)]
    return call


def bn_act_max_pool2d(c: int, hw: int) -> Call:
    x, out = image(c, hw), image(c, hw // 2)
    n = norm_of(x)
    call = prepare("bn_act_max_pool2d", x, {}, {"out": out}, n.vectors())
    call.fields += [*nhwc_fields(x), *nhwc_fields(out), *n.fields(), RELU, *window_fields(3, 2, 1)]
    return call


def bn_act_max_pool2d_backward(c: int, hw: int) -> Call:
    x, dy, dx = image(c, hw), image(c, hw // 2), image(c, hw)
    n, grads = norm_of(x), {"dgamma": torch.empty(c), "dbeta": torch.empty(c)}
    call = prepare("bn_act_max_pool2d_backward", x, {"dy": dy}, {"dx": dx}, n.vectors() | grads)
    call.fields += [*nhwc_fields(dy), *nhwc_fields(x), *nhwc_fields(dx), *n.fields(), RELU, *window_fields(3, 2, 1)]
    call.fields += map(pointer, grads.values())
    return call


def depthwise(c: int, hw: int, stride: int) -> Call:
    x, y = image(c, hw), image(c, hw // stride)
    n, more = norm_of(x), {"w": torch.randn(c, 1, 3, 3).to(DTYPE), "mean_y": torch.empty(c), "var_y": torch.empty(c)}
    call = prepare("bn_act_conv2d", x, {}, {"y": y}, n.vectors() | more)
    call.fields += [*nhwc_fields(x), *nhwc_fields(y), *n.fields(), RELU, pointer(more["w"]), 0]
    call.fields += [*window_fields(3, stride, 1), c, 0, pointer(more["mean_y"]), pointer(more["var_y"])]
    return call


def depthwise_backward(c: int, hw: int, stride: int) -> Call:
    x, dy, dx = image(c, hw), image(c, hw // stride), image(c, hw)
    n, w = norm_of(x), torch.randn(c, 1, 3, 3).to(DTYPE)
    grads = {"dgamma": torch.empty(c), "dbeta": torch.empty(c), "dw": torch.empty_like(w)}
    call = prepare("bn_act_conv2d_backward", x, {"dy": dy}, {"dx": dx}, n.vectors() | grads | {"w": w})
    call.fields += [
        *nhwc_fields(dy),
        *nhwc_fields(x),
        *n.fields(),
        RELU,
        pointer(w),
        *window_fields(3, stride, 1),
        c,
        0,
    ]
    call.fields += [*nhwc_fields(dx), *map(pointer, grads.values()), 0]
    return call


def strided_gradient(c: int, o: int, hw: int) -> Call:
    """The input gradient alone: of x nothing is read."""
    x, dy, dx, w = image(c, hw), image(o, hw // 2), image(c, hw), torch.randn(o, c, 3, 3).to(DTYPE)
    call = Call("bn_act_conv2d_backward", [DTYPE_CODES[DTYPE]], {"dy": dy}, {"dx": dx}, {"x": x, "w": w})
    call.fields += [*nhwc_fields(dy), *nhwc_fields(x), *norm_fields(), 0, pointer(w), *window_fields(3, 2, 1), 1, 0]
    call.fields += [*nhwc_fields(dx), 0, 0, 0, 0]
    return call


def stem(o: int, hw: int) -> Call:
    """SqueezeNet's, on an image of 224 x 224; chunks of its three channels are parts of sectors."""
    x, out, places = image(3, 224), image(o, hw), places_of(o, hw)
    w, b = torch.randn(o, 3, 3, 3).to(DTYPE), torch.randn(o).to(DTYPE)
    call = Call("stem_train", [DTYPE_CODES[DTYPE]], {}, {"out": out, "places": places}, {"x": x, "w": w, "b": b})
    call.fields += [*nhwc_fields(x), *nhwc_fields(out), *map(pointer, (places, w, b)), RELU]
    call.fields += [*window_fields(3, 2, 0), *window_fields(3, 2, 0)]
    return call


def stem_backward(o: int, hw: int) -> Call:
    x, dout, out, places = image(3, 224), image(o, hw), image(o, hw), places_of(o, hw)
    grads = {"dw": torch.empty(o, 3, 3, 3, dtype=DTYPE), "db": torch.empty(o, dtype=DTYPE)}
    read = {"dout": dout, "out": out, "places": places}
    call = Call("stem_train_backward", [DTYPE_CODES[DTYPE]], read, {}, {"x": x} | grads)
    call.fields += [*nhwc_fields(x), *nhwc_fields(dout), *nhwc_fields(out), pointer(places), RELU]
    call.fields += [*window_fields(3, 2, 0), *window_fields(3, 2, 0), 0, *nhwc_fields(None)]
    call.fields += map(pointer, grads.values())
    return call


def places_of(o: int, hw: int) -> Tensor:
    return torch.randint(0, 9, (1, hw, hw, o), dtype=torch.uint8).permute(0, 3, 1, 2)


# A single image is cut finest: strips of seven rows, which read nine, and blocks of 32 columns, which read 34; of dy at
# stride 2, eight rows and 18 columns for 16. A batch of 256 has strips of 28 rows and blocks of whole rows.
STRIP, STRIP_STRIDED = 9 / 7 * 34 / 32 * 1.01, 8 / 7 * 18 / 16
# Blocks of a row or so: a pooled row reads three rows of x, two of them new; a row of x reads up to two pooled ones.
POOL, POOL_GRADIENT = 1.25, 2.75
STRIDED_GRADIENT = 4.3
# Three channels of a pixel are gathered value by value: at stride 2 neighbouring pixels are three words apart.
CONFLICTS = {"stem_train": 0.1}
# What is moved of each tensor, times its size. Two passes over x where batch statistics need their sums first.
NETWORK = {
    "densenet121 norm of a block's buffer": (batch_stats, (256, 56), {"x": 1}),
    "densenet121 last norm": (bn_act, (1024, 7), {"x": 1, "out": 1}),
    "mobilenet_v2 linear end": (bn_act, (24, 56), {"x": 1, "out": 1}),
    "mobilenet_v2 linear end, backward": (bn_act_backward, (24, 56), {"x": 2, "dy": 2, "dx": 1}),
    "densenet121 last norm, backward": (bn_act_backward, (1024, 7), {"x": 2, "dy": 2, "dx": 1}),
    "densenet121 head": (bn_act_mean, (1024, 7), {"x": 1, "out": 1}),
    "densenet121 pool": (bn_act_max_pool2d, (64, 112), {"x": POOL, "out": 1}),
    "densenet121 pool, backward": (
        bn_act_max_pool2d_backward,
        (64, 112),
        {"x": 1 + POOL, "dy": 1 + POOL_GRADIENT, "dx": 1},
    ),
    "mobilenet_v1 dw2": (depthwise, (32, 112, 1), {"x": STRIP, "y": 1}),
    "mobilenet_v1 dw3": (depthwise, (64, 112, 2), {"x": 1.15, "y": 1}),
    "mobilenet_v1 dw6": (depthwise, (256, 28, 1), {"x": STRIP, "y": 1}),
    "mobilenet_v1 dw14": (depthwise, (1024, 7, 1), {"x": 1, "y": 1}),
    "mobilenet_v1 dw2, backward": (depthwise_backward, (32, 112, 1), {"x": 2, "dy": 2 * STRIP, "dx": 1}),
    "mobilenet_v1 dw3, backward": (depthwise_backward, (64, 112, 2), {"x": 2, "dy": 2 * STRIP_STRIDED, "dx": 1}),
    "mobilenet_v1 dw6, backward": (depthwise_backward, (256, 28, 1), {"x": 2, "dy": 2 * STRIP, "dx": 1}),
    "mobilenet_v1 dw14, backward": (depthwise_backward, (1024, 7, 1), {"x": 2, "dy": 2, "dx": 1}),
    "squeezenet1_1 stem": (stem, (64, 55), {"out": 1, "places": 1}),
    "squeezenet1_1 stem, backward": (
        stem_backward,
        (64, 55),
        dict.fromkeys(("dout", "out", "places"), POOL_GRADIENT),
    ),
    # Four classes of pixels read dy, a quarter of dx in size, three of them with a border.
    "3x3 at stride 2, input gradient": (strided_gradient, (64, 64, 56), {"dy": STRIDED_GRADIENT, "dx": 1}),
}


def check_traffic(emulator, call: Call, times: dict[str, float], gpu: Gpu) -> None:
    """No tensor moves more often than `times` says, all in whole sectors; nothing else is written; few conflicts."""
    regions = [(t, False, label) for label, t in call.read.items()]
    regions += [(t, True, label) for label, t in (call.written | call.vectors).items()]
    outcome = emulator.run(call.op, call.fields, regions, gpu, counting=True)
    assert outcome.refusal is None
    assert outcome.faults == []
    c = outcome.counters
    for label, tensor in (call.read | call.written).items():
        way = c["read" if label in call.read else "written"][label]
        moved = way["block_bytes"] / (tensor.numel() * tensor.element_size())
        assert moved <= times[label] * 1.001, f"{label} moves {moved:.3f} times, want {times[label]:.3f}"
        assert way["requested"] / way["sector_bytes"] >= 0.999, f"{label} is moved in parts of sectors"
    assert set(c["written"]) - {"workspace"} <= set(call.written | call.vectors)
    if c["shared_wavefronts"]:
        assert 1 - c["shared_ideal"] / c["shared_wavefronts"] <= CONFLICTS.get(call.op, 0.05), c["conflicts"]


@pytest.mark.parametrize("name", NETWORK)
def test_tensors_move_as_often_as_they_must(emulator, name):
    build, args, times = NETWORK[name]
    torch.manual_seed(0)
    check_traffic(emulator, build(*args), times, Gpu(132))


def test_the_stem_stores_its_map_in_the_backward_pass_alone(emulator):
    """Forward the workspace has packed weights and the bias; backward the map's gradient, written once and read once,
    and partial sums of the weight gradient."""
    torch.manual_seed(0)
    gradient, moved = 111 * 111 * 64 * 2, []
    for call in (stem(64, 55), stem_backward(64, 55)):
        regions = [(t, True, label) for label, t in (call.read | call.written | call.vectors).items()]
        outcome = emulator.run(call.op, call.fields, regions, Gpu(132), counting=True)
        assert (outcome.refusal, outcome.faults) == (None, [])
        moved.append([outcome.counters[way]["workspace"]["block_bytes"] for way in ("written", "read")])
    assert moved[0][0] <= 0.01 * gradient
    # A single image is split over 98 blocks, each with a gradient of its own.
    partial = 98 * 64 * 27 * 4
    assert all(gradient <= m <= 1.03 * (gradient + partial) for m in moved[1])
