"""bn_act_conv2d: batch norm, ReLU and convolution, with the statistics of the result: MobileNetV1's 1x1 and depthwise
layers, DenseNet-121's transitions, stems, pre-activation ResNet's 3x3.

Both contestants normalise and convolve; lightops has the statistics of its input from the op before and takes those of
its output, stock takes those of its input. A transition convolves before it pools in stock, after it in lightops.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from training_ops import Shape, image, norm, run

from lightops.ops import training
from lightops.ops.training import Prologue

POINTWISE = (
    (32, 64, 112), (64, 128, 56), (128, 128, 56), (128, 256, 28), (256, 256, 28),
    (256, 512, 14), (512, 512, 14), (512, 1024, 7), (1024, 1024, 7),
)  # fmt: skip
DEPTHWISE = ((32, 112, 1), (64, 112, 2), (128, 56, 1), (256, 28, 1), (512, 14, 1), (1024, 7, 1))
TRANSITIONS = ((256, 128, 56), (512, 256, 28), (1024, 512, 14))
DENSE = ((64, 64, 56, 1), (128, 128, 28, 1), (256, 256, 14, 1), (64, 128, 56, 2))
STEMS = (("mobilenet", 32, 3, 1), ("squeezenet", 64, 3, 0), ("densenet", 64, 7, 3))


def normalised(name: str, batch: int, c: int, o: int, side: int, kernel: int = 1, **options) -> Shape:
    """A layer with a batch norm in front."""
    x, groups, pool = image(batch, c, side, side), options.get("groups", 1), options.pop("pool", False)
    weight = torch.randn(o, c // groups, kernel, kernel).contiguous(memory_format=torch.channels_last)
    gamma, beta, prologue = norm(x)

    def stock(x: Tensor, g: Tensor, b: Tensor, w: Tensor) -> Tensor:
        y = F.conv2d(F.relu(F.batch_norm(x, None, None, g, b, training=True)), w, **options)
        return F.avg_pool2d(y, 2) if pool else y

    def lightops(x: Tensor, g: Tensor, b: Tensor, w: Tensor) -> Tensor:
        pairs = {key: (value, value) for key, value in options.items() if key != "groups"}
        return training.bn_act_conv2d(x, prologue(g, b), w, groups=groups, pool=pool, **pairs)[0]

    leaves = tuple(t.requires_grad_() for t in (x, gamma, beta, weight))
    with torch.no_grad():
        work = stock(*leaves).numel() * weight[0].numel()
    return Shape(name, leaves, stock, lightops, work)


def stem(name: str, batch: int, o: int, kernel: int, padding: int) -> Shape:
    weight = torch.randn(o, 3, kernel, kernel).contiguous(memory_format=torch.channels_last)

    def stock(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w, None, 2, padding)

    def lightops(x: Tensor, w: Tensor) -> Tensor:
        return training.bn_act_conv2d(x, Prologue(), w, stride=(2, 2), padding=(padding, padding))[0]

    x = image(batch, 3, 224, 224)
    work = stock(x, weight).numel() * weight[0].numel()
    return Shape(f"stem of {name}", (x, weight.requires_grad_()), stock, lightops, work)


def shapes(batch: int) -> list[Shape]:
    made = [normalised(f"1x1 {c}->{o} {s}x{s}", batch, c, o, s) for c, o, s in POINTWISE]
    for c, s, stride in DEPTHWISE:
        name = f"depthwise {c} {s}x{s} / {stride}"
        made.append(normalised(name, batch, c, c, s, 3, stride=stride, padding=1, groups=c))
    made += [normalised(f"transition {c}->{o} {s}x{s}", batch, c, o, s, pool=True) for c, o, s in TRANSITIONS]
    for c, o, s, stride in DENSE:
        made.append(normalised(f"3x3 {c}->{o} {s}x{s} / {stride}", batch, c, o, s, 3, stride=stride, padding=1))
    return made + [stem(name, batch, *rest) for name, *rest in STEMS]


if __name__ == "__main__":
    run("bn_act_conv2d", shapes)
