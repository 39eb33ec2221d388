"""Residual networks with identity mappings: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", 2016,
arXiv:1603.05027 (pre-activation), and the original order of "Deep Residual Learning for Image Recognition", 2015,
arXiv:1512.03385 (post-activation), for comparison.

A pre-activation unit is x + conv(relu(bn(conv(relu(bn(x)))))); nothing but the addition lies on the identity path.
Where the shape changes the first bn-relu is shared by the branch and the 1x1 shortcut. A post-activation unit is
relu(x + bn(conv(relu(bn(conv(x)))))).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from ._common import check_choice, check_int

# arXiv:1512.03385 table 1; 200 layers: arXiv:1603.05027 section 5.
IMAGENET_BLOCKS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
EXPANSION = {"basic": 1, "bottleneck": 4}
# CIFAR depths that arXiv:1603.05027 builds of bottlenecks (164 and 110 fit both 6n + 2 and 9n + 2).
CIFAR_BOTTLENECK_DEPTHS = (164, 1001)


def _convolutions(block: str, in_channels: int, width: int, stride: int) -> list[nn.Conv2d]:
    """The unit's convolutions: 3x3, 3x3 (basic) or 1x1, 3x3, 1x1 to 4 * width (bottleneck); stride on the first."""
    if block == "basic":
        return [
            nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        ]
    return [
        nn.Conv2d(in_channels, width, 1, stride, bias=False),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.Conv2d(width, 4 * width, 1, bias=False),
    ]


class PaddedShortcut(nn.Module):
    """Option A of arXiv:1512.03385: every ``stride``-th pixel, missing channels zero. No parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = out_channels - in_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class PreActUnit(nn.Module):
    """Pre-activation residual unit, [N, C, H, W] -> [N, out, ceil(H / stride), ceil(W / stride)].

    ``preact``: None, or Sequential(bn1, relu1) whose output feeds both the branch and the shortcut (shape changes).
    ``residual``: Sequential of (bn, relu, conv) in the order they run; without bn1, relu1 where ``preact`` has them or
    where the stem has just activated (the first unit of the ImageNet net).
    ``shortcut``: None for the identity, else the 1x1 convolution or :class:`PaddedShortcut`.
    """

    def __init__(
        self, block: str, in_channels: int, width: int, stride: int, shortcut: str, activated: bool = False
    ) -> None:
        super().__init__()
        out_channels = width * EXPANSION[block]
        changes = stride != 1 or in_channels != out_channels
        layers: list[tuple[str, nn.Module]] = []
        for i, conv in enumerate(_convolutions(block, in_channels, width, stride), start=1):
            layers += [
                (f"bn{i}", nn.BatchNorm2d(conv.in_channels)),
                (f"relu{i}", nn.ReLU(inplace=True)),
                (f"conv{i}", conv),
            ]
        shared = nn.Sequential(OrderedDict(layers[:2])) if changes and not activated else None
        self.preact = shared
        self.residual = nn.Sequential(OrderedDict(layers[2:] if changes or activated else layers))
        self.shortcut = _shortcut(shortcut, in_channels, out_channels, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        if self.preact is not None:
            x = self.preact(x)
        return self.residual(x) + (x if self.shortcut is None else self.shortcut(x))


class PostActUnit(nn.Module):
    """Original residual unit, [N, C, H, W] -> [N, out, ceil(H / stride), ceil(W / stride)]: relu after the addition.

    ``residual``: Sequential(conv1, bn1, relu1, conv2, bn2, ...); ``shortcut``: None, Sequential(conv, bn) or padding.
    """

    def __init__(self, block: str, in_channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        out_channels = width * EXPANSION[block]
        layers: list[tuple[str, nn.Module]] = []
        for i, conv in enumerate(_convolutions(block, in_channels, width, stride), start=1):
            layers += [
                (f"conv{i}", conv),
                (f"bn{i}", nn.BatchNorm2d(conv.out_channels)),
                (f"relu{i}", nn.ReLU(inplace=True)),
            ]
        self.residual = nn.Sequential(OrderedDict(layers[:-1]))
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = _shortcut(shortcut, in_channels, out_channels, stride)
            if shortcut == "projection":
                self.shortcut = nn.Sequential(OrderedDict(conv=self.shortcut, bn=nn.BatchNorm2d(out_channels)))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + (x if self.shortcut is None else self.shortcut(x)))


def _shortcut(kind: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if kind == "projection":
        return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return PaddedShortcut(in_channels, out_channels, stride)


class ResNet(nn.Module):
    """``stem``, ``stages`` (a Sequential a stage), ``tail`` (bn, relu if pre-activation; pool, flatten, fc).

    [N, in_channels, H, W] -> logits [N, num_classes]. Made by :func:`preact_resnet`.
    """

    def __init__(
        self,
        block: str,
        units: tuple[int, ...],
        widths: tuple[int, ...],
        stem_channels: int,
        *,
        activation_order: str,
        shortcut: str,
        large_stem: bool,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        pre = activation_order == "pre"
        kernel, stride = (7, 2) if large_stem else (3, 1)
        stem: dict[str, nn.Module] = {
            "conv": nn.Conv2d(in_channels, stem_channels, kernel, stride, padding=kernel // 2, bias=False)
        }
        if large_stem or not pre:
            stem |= {"bn": nn.BatchNorm2d(stem_channels), "relu": nn.ReLU(inplace=True)}
        if large_stem:
            stem["pool"] = nn.MaxPool2d(3, 2, padding=1)
        self.stem = nn.Sequential(OrderedDict(stem))
        self.stages = nn.Sequential()
        channels = stem_channels
        for s, (count, width) in enumerate(zip(units, widths, strict=True)):
            stage = nn.Sequential()
            for i in range(count):
                step = 2 if s and not i else 1
                if pre:
                    stage.append(PreActUnit(block, channels, width, step, shortcut, large_stem and s == i == 0))
                else:
                    stage.append(PostActUnit(block, channels, width, step, shortcut))
                channels = width * EXPANSION[block]
            self.stages.add_module(f"stage{s + 1}", stage)
        tail: dict[str, nn.Module] = {"bn": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True)} if pre else {}
        tail |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, num_classes)}
        self.tail = nn.Sequential(OrderedDict(tail))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.stages(self.stem(x)))


def preact_resnet(
    depth: int = 110,
    *,
    style: str = "cifar",
    block: str | None = None,
    activation_order: str = "pre",
    shortcut: str | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    small_input: bool = False,
) -> ResNet:
    """Pre-activation ResNet (arXiv:1603.05027), or the original order with ``activation_order="post"``.

    Args:
        depth: "cifar": 6n + 2 (basic: 20, 32, 44, 56, 110) or 9n + 2 (bottleneck: 164, 1001); widths 16, 32, 64.
            "imagenet": 18, 34 (basic), 50, 101, 152, 200 (bottleneck); widths 64, 128, 256, 512.
        style: "cifar" (3x3 stem, three stages) or "imagenet" (7x7/2 stem with max-pool, four stages).
        block: "basic" or "bottleneck"; None: the papers' choice (cifar: bottleneck at 164 and 1001 layers and wherever
            6n + 2 does not fit, else basic).
        activation_order: "pre" (bn, relu, conv) or "post" (conv, bn, relu, with a relu after the addition).
        shortcut: where the shape changes, "projection" (1x1 convolution) or "padding" (no parameters); None: padding
            for the basic CIFAR net, as both papers, projection elsewhere.
        num_classes: None: 10 ("cifar") or 1000 ("imagenet").
        small_input: the 3x3 stem without pooling for an "imagenet" net, for maps of 28 to 64 pixels.

    Stride 2 lies on a bottleneck's first 1x1, as in the papers (torchvision's "v1.5" moved it to the 3x3).

    Raises:
        ValueError: ``depth`` does not fit ``style`` and ``block``, or another argument is out of range.
    """
    check_choice("preact_resnet", "style", style, ("cifar", "imagenet"))
    check_choice("preact_resnet", "activation_order", activation_order, ("pre", "post"))
    check_choice("preact_resnet", "block", block, (None, "basic", "bottleneck"))
    check_choice("preact_resnet", "shortcut", shortcut, (None, "projection", "padding"))
    check_int("preact_resnet", "depth", depth)
    check_int("preact_resnet", "in_channels", in_channels)
    if num_classes is not None:
        check_int("preact_resnet", "num_classes", num_classes)
    if style == "cifar":
        block, units = _cifar_units(depth, block)
        widths, stem_channels, classes = (16, 32, 64), 16, 10
    else:
        check_choice("preact_resnet", "depth", depth, IMAGENET_BLOCKS)
        usual, units = IMAGENET_BLOCKS[depth]
        if block not in (None, usual):
            raise ValueError(
                f"preact_resnet: depth {depth} of style 'imagenet' has {usual!r} blocks, got block={block!r}"
            )
        block, widths, stem_channels, classes = usual, (64, 128, 256, 512), 64, 1000
    if shortcut is None:
        shortcut = "padding" if style == "cifar" and block == "basic" else "projection"
    return ResNet(
        block,
        units,
        widths,
        stem_channels,
        activation_order=activation_order,
        shortcut=shortcut,
        large_stem=style == "imagenet" and not small_input,
        num_classes=classes if num_classes is None else num_classes,
        in_channels=in_channels,
    )


def _cifar_units(depth: int, block: str | None) -> tuple[str, tuple[int, int, int]]:
    """(block, units per stage) of a CIFAR net."""
    steps = {"basic": 6, "bottleneck": 9}
    if block is None and (depth in CIFAR_BOTTLENECK_DEPTHS or (depth - 2) % steps["basic"]):
        block = "bottleneck"
    block = block or "basic"
    if depth <= 2 or (depth - 2) % steps[block]:
        raise ValueError(
            f"preact_resnet: depth of style 'cifar' must be 6n + 2 (basic) or 9n + 2 (bottleneck), n >= 1, "
            f"got {depth} with {block!r} blocks"
        )
    return block, ((depth - 2) // steps[block],) * 3
