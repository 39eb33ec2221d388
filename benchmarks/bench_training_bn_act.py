"""bn_act: batch norm with ReLU where a chain of training ops ends. Stock takes the statistics in its forward pass,
lightops has them from the op before."""

import torch.nn.functional as F
from bench_training_batch_stats import MAPS
from training_ops import Shape, image, norm, run

from lightops.ops import training


def shapes(batch: int) -> list[Shape]:
    made = []
    for c, side in MAPS:
        x = image(batch, c, side, side)
        gamma, beta, prologue = norm(x)
        made.append(
            Shape(
                f"{c} x {side} x {side}",
                tuple(t.requires_grad_() for t in (x, gamma, beta)),
                lambda x, g, b: F.relu(F.batch_norm(x, None, None, g, b, training=True)),
                lambda x, g, b, prologue=prologue: training.bn_act(x, prologue(g, b)),
            )
        )
    return made


if __name__ == "__main__":
    run("bn_act", shapes)
