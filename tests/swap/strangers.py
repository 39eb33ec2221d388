"""Blocks as people write them in their own code, under their own names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SqueezeExpand(nn.Module):
    """A Fire with functional activations."""

    def __init__(self, inp: int, s: int, a: int, b: int):
        super().__init__()
        self.reduce = nn.Conv2d(inp, s, 1)
        self.left = nn.Conv2d(s, a, 1)
        self.right = nn.Conv2d(s, b, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.reduce(x))
        return torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)


class BypassFire(SqueezeExpand):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class SwappedFire(SqueezeExpand):
    """Looks like a Fire, but puts the 3x3 half first."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.reduce(x))
        return torch.cat([F.relu(self.right(x)), F.relu(self.left(x))], 1)


class LeakyFire(SqueezeExpand):
    """Looks like a Fire, but its activation has no fused form."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.reduce(x))
        return torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)


class ResidualBottleneck(nn.Module):
    """ResNet's block: its layers are a Fire's in another order, and it is none."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4 * width, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + x)


class PooledFire(SqueezeExpand):
    """A Fire with a pool behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(super().forward(x), 2)


class Separable(nn.Module):
    """Depthwise and pointwise, one shared activation module, norms registered last."""

    def __init__(self, inp: int, out: int, stride: int = 1):
        super().__init__()
        self.act = nn.ReLU6(inplace=True)
        self.spatial = nn.Conv2d(inp, inp, 3, stride, 1, groups=inp, bias=False)
        self.mix = nn.Conv2d(inp, out, 1, bias=False)
        self.n1 = nn.BatchNorm2d(inp)
        self.n2 = nn.BatchNorm2d(out)
        self.skip = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.n1(self.spatial(x)))
        y = self.act(self.n2(self.mix(y)))
        return x + y if self.skip else y


class Bottleneck(nn.Module):
    """An inverted residual with functional activations."""

    def __init__(self, inp: int, out: int, stride: int, t: int):
        super().__init__()
        hidden = inp * t
        self.conv1 = nn.Conv2d(inp, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 5, stride, 2, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = F.hardswish(self.bn1(self.conv1(x)))
        out = F.hardswish(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + x if self.stride == 1 and x.shape == out.shape else out


class Appending(nn.Module):
    """A dense layer that returns its input with the new channels."""

    def __init__(self, inp: int, growth: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inp)
        self.conv1 = nn.Conv2d(inp, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.drop = 0.2

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        y = F.dropout(y, self.drop, self.training)
        return torch.cat([x, y], 1)


class Prepending(Appending):
    """A dense layer that puts the new channels first: another channel order than lightops' buffer has."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat([y, x], 1)


class Growing(nn.Module):
    """A dense layer without concatenation, as DenseNet codes copied from torchvision have it."""

    def __init__(self, inp: int, growth: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(inp)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(inp, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv(self.relu(self.norm(torch.cat(features, 1))))


class GrowingBlock(nn.Module):
    def __init__(self, inp: int, growth: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(Growing(inp + i * growth, growth) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class Shrinking(nn.Module):
    """A transition with functional ReLU and pool."""

    def __init__(self, inp: int, out: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(inp)
        self.conv = nn.Conv2d(inp, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


def conv_dw(inp: int, out: int, stride: int) -> nn.Sequential:
    """MobileNetV1's block as most repositories write it."""
    return nn.Sequential(
        nn.Conv2d(inp, inp, 3, stride, 1, groups=inp, bias=False),
        nn.BatchNorm2d(inp),
        nn.ReLU(inplace=True),
        nn.Conv2d(inp, out, 1, 1, 0, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def pre_activation(inp: int, out: int) -> nn.Sequential:
    """BN-ReLU-conv twice in a Sequential."""
    return nn.Sequential(
        nn.BatchNorm2d(inp), nn.ReLU(inplace=True), nn.Conv2d(inp, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out), nn.ReLU(inplace=True), nn.Conv2d(out, out, 3, stride=2, padding=1),
    )  # fmt: skip


# name: (module, input channels, ops that must be fused, words of a reason that must be declined).
STRANGERS = {
    "fire": (lambda: SqueezeExpand(24, 8, 16, 12), 24, ["fire"], None),
    "fire with bypass": (lambda: BypassFire(24, 8, 12, 12), 24, ["fire"], None),
    "fire, 3x3 first": (lambda: SwappedFire(24, 8, 12, 12), 24, [], "computes something else"),
    "fire, leaky": (lambda: LeakyFire(24, 8, 12, 12), 24, [], "computes something else"),
    "fire, pooled": (lambda: PooledFire(24, 8, 12, 12), 24, [], "a result of another shape"),
    "residual bottleneck": (lambda: ResidualBottleneck(8), 32, [], None),
    "separable": (lambda: Separable(16, 24, 2), 16, ["depthwise_pointwise"], None),
    "separable with skip": (lambda: Separable(16, 16), 16, ["depthwise_pointwise"], None),
    "bottleneck": (lambda: Bottleneck(16, 16, 1, 3), 16, ["inverted_residual"], None),
    "bottleneck, stride 2": (lambda: Bottleneck(16, 24, 2, 3), 16, ["inverted_residual"], None),
    "appending layer": (lambda: Appending(16, 8), 16, ["dense_block"], None),
    "appending layers": (lambda: nn.Sequential(*(Appending(c, 8) for c in (16, 24, 32))), 16, ["dense_block"], None),
    "prepending layer": (lambda: Prepending(16, 8), 16, [], "computes something else"),
    "growing block": (lambda: GrowingBlock(16, 8, 3), 16, ["dense_block"], None),
    "transition": (lambda: Shrinking(16, 8), 16, ["transition"], None),
    "conv_dw": (lambda: conv_dw(16, 24, 2), 16, ["depthwise_pointwise"], None),
    "conv_dw chain": (
        lambda: nn.Sequential(conv_dw(16, 24, 2), conv_dw(24, 24, 1)), 16, ["depthwise_pointwise"] * 2, None,
    ),
    "pre-activation": (lambda: pre_activation(16, 24), 16, ["bn_relu_conv2d"], None),
}  # fmt: skip
