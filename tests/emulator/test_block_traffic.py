"""What training a dense layer and a Fire moves an image, at a network's shapes in fp16: what eight images move beyond
four, so that weights, their packing and their partial sums do not count. The dense layer has a block to itself, and so
pays for the copy of the gradient and the last coefficients alone."""

import block_shapes
import pytest
from harness import Gpu
from shapes import emulator_counters

GPU = Gpu(multiprocessors=1)
B, K = 128, 32


def dense_forward(c):
    """The prefix is read, the 1x1's output written and read, the new channels written."""
    return c + 2 * B + K


def dense_backward(c):
    """Copy of the gradient; both gradients of the 3x3; its norm in two passes; the 1x1's weight gradient and the norm
    of the prefix, whose own gradient is added to; the coefficients at the end. The gradient between the 1x1 and its
    norm lies in the workspace."""
    return 2 * (c + K) + 2 * (K + B) + 5 * B + (c + 2 * B) + 3 * c + 3 * c


def fire_forward(c, s, e):
    return c + 2 * e


def fire_backward(c, s, e):
    """The masked gradient lies in the workspace. x twice, for the squeeze again and its weights; the squeezed map and
    its gradient, written and read by their masks, products and weight gradients; the gradient of x."""
    return 4 * e + 3 * c + 4 * s + 7 * s


CASES = {
    "dense forward": (block_shapes.dense_forward, (256, 14), ("buffer", "middle"), dense_forward(256)),
    "dense backward": (
        block_shapes.dense_backward,
        (256, 14),
        ("dbuffer", "buffer", "middle", "dmiddle", "gradient", "dx"),
        dense_backward(256),
    ),
    "fire forward": (block_shapes.fire_forward, (256, 32, 128, 13), ("x", "out"), fire_forward(256, 32, 128)),
    "fire backward": (
        block_shapes.fire_backward,
        (256, 32, 128, 13),
        ("dout", "out", "x", "squeeze", "dsqueeze", "dx"),
        fire_backward(256, 32, 128),
    ),
}
# Tiles side by side that read the same map, and the border of a 3x3's tiles.
AT_MOST = 1.15


def moved(emulator, op, args, images, names):
    op(emulator, *args, GPU, images)
    counters = emulator_counters(emulator)
    parts = [counters[way][name] for way in ("read", "written") for name in names if name in counters[way]]
    return sum(p["block_bytes"] for p in parts), [p["requested"] / p["sector_bytes"] for p in parts]


@pytest.mark.parametrize("name", CASES)
def test_activations_move_as_often_as_the_sequence_says(emulator, name):
    op, args, names, elements = CASES[name]
    (few, _), (many, coalescing) = (moved(emulator, op, args, images, names) for images in (4, 8))
    pixels = args[-1] ** 2
    ratio = (many - few) / 4 / (elements * pixels * 2)
    assert 0.99 <= ratio <= AT_MOST
    assert min(coalescing) >= 0.999
