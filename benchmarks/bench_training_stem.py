"""stem_train: the first layers of SqueezeNet 1.0 and 1.1 on pictures of 224x224, which need no gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor
from training_ops import Shape, image, run

from lightops.ops import training

# Name, output channels, kernel.
STEMS = (("squeezenet1_0", 96, 7), ("squeezenet1_1", 64, 3))


def stem(name: str, batch: int, o: int, kernel: int) -> Shape:
    x = image(batch, 3, 224, 224)
    weight = torch.randn(o, 3, kernel, kernel).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(o)

    def stock(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(F.conv2d(x, w, b, 2)), 3, 2, ceil_mode=True)

    def lightops(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return training.stem_train(x, w, b, (2, 2), (0, 0), "relu", (3, 3), (2, 2), ceil_mode=True)

    work = F.conv2d(x, weight, bias, 2).numel() * weight[0].numel()
    return Shape(f"stem of {name}", (x, weight.requires_grad_(), bias.requires_grad_()), stock, lightops, work)


def shapes(batch: int) -> list[Shape]:
    return [stem(name, batch, *rest) for name, *rest in STEMS]


if __name__ == "__main__":
    run("stem_train", shapes)
