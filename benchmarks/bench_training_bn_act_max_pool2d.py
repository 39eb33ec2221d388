"""bn_act_max_pool2d: DenseNet's stem pool, which normalises what it reads, and the pools between SqueezeNet 1.1's Fire
modules, which do not. lightops has the batch's statistics from the op before, stock takes them."""

import torch.nn.functional as F
from training_ops import Shape, image, norm, run

from lightops.ops import training
from lightops.ops.training import Prologue

# SqueezeNet's: channels and side.
PLAIN = ((128, 55), (256, 27))


def normalised(batch: int) -> Shape:
    x = image(batch, 64, 112, 112)
    gamma, beta, prologue = norm(x)
    return Shape(
        "64 x 112 x 112, batch norm and ReLU",
        tuple(t.requires_grad_() for t in (x, gamma, beta)),
        lambda x, g, b: F.max_pool2d(F.relu(F.batch_norm(x, None, None, g, b, training=True)), 3, 2, 1),
        lambda x, g, b: training.bn_act_max_pool2d(x, prologue(g, b), (3, 3), (2, 2), (1, 1)),
    )


def plain(batch: int, c: int, side: int) -> Shape:
    return Shape(
        f"{c} x {side} x {side}",
        (image(batch, c, side, side).requires_grad_(),),
        lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
        lambda x: training.bn_act_max_pool2d(x, Prologue(), (3, 3), (2, 2), ceil_mode=True),
    )


def shapes(batch: int) -> list[Shape]:
    return [normalised(batch), *(plain(batch, c, side) for c, side in PLAIN)]


if __name__ == "__main__":
    run("bn_act_max_pool2d", shapes)
