"""bn_act_mean: the heads of DenseNet-121 and MobileNetV1. Stock takes the statistics in its forward pass, lightops has
them from the op before."""

import torch.nn.functional as F
from training_ops import Shape, image, norm, run

from lightops.ops import training


def shapes(batch: int) -> list[Shape]:
    made = []
    for c, side in ((1024, 7), (512, 13)):
        x = image(batch, c, side, side)
        gamma, beta, prologue = norm(x)
        made.append(
            Shape(
                f"{c} x {side} x {side}",
                tuple(t.requires_grad_() for t in (x, gamma, beta)),
                lambda x, g, b: F.relu(F.batch_norm(x, None, None, g, b, training=True)).mean((2, 3)),
                lambda x, g, b, prologue=prologue: training.bn_act_mean(x, prologue(g, b)),
            )
        )
    return made


if __name__ == "__main__":
    run("bn_act_mean", shapes)
