"""What training a dense layer and a Fire moves an image, at a network's shapes in fp16: what eight images move beyond
four, so that weights, their packing and their partial sums do not count. The dense layer has a block to itself, and so
pays for the last coefficients alone."""

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
    """Both gradients of the 3x3, the second with the mask and the sums of its norm; what the
    sums add to it; both of the 1x1, the second with the mask and the sums of the prefix, whose own gradient is added
    to; the coefficients at the end."""
    return (K + B) + (K + 2 * B) + 3 * B + (c + B) + (B + 3 * c) + 3 * c


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
# Tiles side by side that read one map, the border of a 3x3's tiles: 329 of 3209 elements of the dense backward pass.
AT_MOST = 1.12


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


def test_the_gradient_before_a_norm_is_not_stored(emulator):
    """What a dense layer's backward pass leaves in the workspace for an image are sums: two floats a channel of both
    norms for a tile of 128 pixels (196 make two), and of 32 tiles once more."""
    c, hw = 256, 14
    few, many = (emulator_workspace(emulator, c, hw, images) for images in (4, 8))
    assert (many - few) / 4 <= (c + B) * 8 * 2 * (1 + 1 / 32)


def emulator_workspace(emulator, c, hw, images):
    block_shapes.dense_backward(emulator, c, hw, GPU, images)
    return emulator_counters(emulator)["written"]["workspace"]["block_bytes"]
