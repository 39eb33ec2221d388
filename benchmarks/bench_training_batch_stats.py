"""batch_stats: mean and variance of a raw tensor, on MobileNet's maps."""

import torch
from training_ops import Shape, image, run

from lightops.ops import training

MAPS = ((32, 112), (64, 112), (128, 56), (256, 28), (512, 14), (1024, 7))


def shapes(batch: int) -> list[Shape]:
    return [
        Shape(
            f"{c} x {side} x {side}",
            (image(batch, c, side, side),),
            lambda x: torch.var_mean(x, (0, 2, 3), correction=0)[0],
            lambda x: training.batch_stats(x)[0],
        )
        for c, side in MAPS
    ]


if __name__ == "__main__":
    run("batch_stats", shapes)
