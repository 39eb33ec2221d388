"""The model behind `lightops kernels --predict --train` against what the emulator counts: launches, and bytes of maps.

Blocks read the border of their tiles and strips besides, and a map once a tile of the other's channels: what L2 serves
and the model leaves out, so that `at_most` says how much of it there is.
"""

from __future__ import annotations

from math import prod

import block_shapes
import pytest
import test_gemm_traffic as gemm
import test_training_traffic as passes
import torch
from harness import Gpu
from shapes import emulator_counters

from lightops.bench import gpu_training_traffic as model
from lightops.bench.gpu_traffic import Map
from lightops.bench.gpu_training_traffic import Norm

LARGE, SINGLE = Gpu(multiprocessors=1), Gpu(multiprocessors=132)
BATCH = Norm(there=True, batch=True, act=True)
PLAIN = Norm(there=False, batch=False, act=False)
IMAGES, SIZE = 4, 2


def square(c: int, hw: int, images: int = 1) -> Map:
    return Map(images, c, hw, hw)


def backward_of(x: Map, dy: Map, taps: int, norm: Norm, classes: int = 1, pool: bool = False, **wanted: bool):
    flags = {"input_": True, "weight": True, "bias": False} | wanted
    return model.conv_backward(x, dy, taps, norm, SIZE, classes=classes, pool=pool, **flags)


# name: (the call, its arguments, the model, how much more may be counted)
CALLS = {
    "statistics": (passes.batch_stats, (256, 56), model.batch_stats(square(256, 56), SIZE), 1.0),
    "norm": (passes.bn_act, (24, 56), model.bn_act(square(24, 56), SIZE), 1.0),
    "norm, backward": (
        passes.bn_act_backward,
        (24, 56),
        model.bn_act_backward(square(24, 56), prod(square(24, 56)), BATCH, SIZE),
        1.0,
    ),
    "average": (passes.bn_act_mean, (1024, 7), model.bn_act_mean(square(1024, 7), SIZE), 1.0),
    "max-pool": (
        passes.bn_act_max_pool2d,
        (64, 112),
        model.bn_act_max_pool2d(square(64, 112), square(64, 56), SIZE),
        1.2,
    ),
    "max-pool, backward": (
        passes.bn_act_max_pool2d_backward,
        (64, 112),
        model.bn_act_max_pool2d_backward(square(64, 112), square(64, 56), BATCH, SIZE),
        1.3,
    ),
    "depthwise": (
        passes.depthwise,
        (256, 28, 1),
        model.depthwise(square(256, 28), square(256, 28), SIZE, stats=True),
        1.2,
    ),
    "depthwise, backward": (
        passes.depthwise_backward,
        (64, 112, 2),
        model.depthwise_backward(square(64, 112), square(64, 56), BATCH, SIZE),
        1.1,
    ),
    "stem": (
        passes.stem,
        (64, 55),
        model.stem(square(3, 224), square(64, 111), square(64, 55), 9, SIZE, bias=True),
        1.85,  # of the picture's three channels parts of sectors are read
    ),
    "stem, backward": (
        passes.stem_backward,
        (64, 55),
        model.stem_backward(square(3, 224), square(64, 111), square(64, 55), 9, SIZE, bias=True, act=True),
        1.75,  # a row of the map asks up to two rows of windows
    ),
    "3x3 at stride 2, input gradient": (
        passes.strided_gradient,
        (64, 64, 56),
        backward_of(square(64, 56), square(64, 28), 9, PLAIN, classes=4, weight=False),
        1.1,
    ),
    "1x1": (
        gemm.forward,
        (256, 128, 1, 56),
        model.conv(square(256, 56), square(128, 56), 1, BATCH, SIZE, stats=True, bias=False),
        1.0,
    ),
    "transition": (
        gemm.forward,
        (256, 128, 1, 56, True),
        model.conv(square(256, 56), square(128, 28), 1, BATCH, SIZE, stats=True, bias=False),
        1.0,
    ),
    "1x1, backward": (gemm.backward, (256, 256, 1, 28), backward_of(square(256, 28), square(256, 28), 1, BATCH), 1.5),
    "transition, backward": (
        gemm.backward,
        (256, 128, 1, 56, True),
        backward_of(square(256, 56), square(128, 28), 1, BATCH, pool=True),
        1.35,
    ),
}  # fmt: skip


def launches(emulator) -> int:
    return emulator_counters(emulator)["launches"]


@pytest.mark.parametrize("name", CALLS)
def test_ops_launch_and_move_what_is_predicted(emulator, name):
    build, arguments, kernels, at_most = CALLS[name]
    torch.manual_seed(0)
    call = build(*arguments)
    before = launches(emulator)
    regions = [(t, False, label) for label, t in call.read.items()]
    regions += [(t, True, label) for label, t in (call.written | call.vectors).items()]
    counters = emulator.run(
        call.op, call.fields, regions, LARGE if build.__module__ == gemm.__name__ else SINGLE, counting=True
    ).counters
    assert counters["launches"] - before == len(kernels)
    # Maps alone: vectors and weights are small; in the workspace packed weights and partial sums lie beside maps.
    maps = {*call.read, *call.written, "x"} | ({"workspace"} if "stem" in name or "transition, b" in name else set())
    moved = sum(t["block_bytes"] for way in ("read", "written") for label, t in counters[way].items() if label in maps)
    ratio = moved / sum(kernel.bytes for kernel in kernels)
    assert 0.93 <= ratio <= at_most * 1.02


BLOCKS = {
    "dense forward": (
        block_shapes.dense_forward,
        (256, 14),
        ("buffer", "middle"),
        lambda images: model.dense_block(square(256, 14, images), 1, 32, 128, SIZE, copied=False, known=True),
        1.12,
    ),
    "dense backward": (
        block_shapes.dense_backward,
        (256, 14),
        ("dbuffer", "buffer", "middle", "dmiddle", "gradient", "dx"),
        lambda images: model.dense_block_backward(square(256, 14, images), 1, 32, 128, SIZE),
        1.12,
    ),
    "fire forward": (
        block_shapes.fire_forward,
        (256, 32, 128, 13),
        ("x", "out"),
        lambda images: model.fire(square(256, 13, images), 32, 128, 128, SIZE),
        1.12,
    ),
    "fire backward": (
        block_shapes.fire_backward,
        (256, 32, 128, 13),
        ("dout", "out", "x", "squeeze", "dsqueeze", "dx", "workspace"),
        lambda images: model.fire_backward(square(256, 13, images), 32, 128, 128, SIZE, biased=True),
        1.24,  # the masked gradient is read once a tile of 64 channels
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_launch_and_move_what_is_predicted(emulator, name):
    """What eight images move beyond four: neither weights nor their partial sums."""
    run, arguments, names, predicted, at_most = BLOCKS[name]
    moved, kernels = [], [predicted(images) for images in (IMAGES, 2 * IMAGES)]
    for images, expected in zip((IMAGES, 2 * IMAGES), kernels, strict=True):
        before = launches(emulator)
        run(emulator, *arguments, LARGE, images)
        counters = emulator_counters(emulator)
        assert counters["launches"] - before == len(expected)
        moved.append(
            sum(counters[way][n]["block_bytes"] for way in ("read", "written") for n in names if n in counters[way])
        )
    few, many = (sum(kernel.bytes for kernel in expected) for expected in kernels)
    assert 0.99 <= (moved[1] - moved[0]) / (many - few) <= at_most
