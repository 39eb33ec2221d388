"""DenseNet and DenseNet-BC: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks",
CVPR 2017, arXiv:1608.06993, in stock modules with torchvision's parameter names.

A dense layer computes H(x) = conv(relu(bn(x))) on everything written before it and appends k (the growth rate)
channels; with a bottleneck (the "B") H first reduces to 4k channels with a 1x1 convolution. Between dense blocks a
transition keeps floor(theta * m) of m channels (the "C", theta the compression) and halves the map.

torchvision puts the last ReLU and the global pooling into ``forward``; here they are the parameterless children
``relu5`` and ``pool5`` of ``features``, so that norm5-relu5-pool5 is one run of a Sequential. Names, shapes and order
of the parameters stay torchvision's: its checkpoints load with ``strict=True``, and one seed gives the same weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._common import check_choice, check_fraction, check_int

# arXiv:1608.06993, table 1 (121, 169, 201, 264: k = 32); 161 (k = 48) is the authors' release.
BLOCK_CONFIGS = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    161: (6, 12, 36, 24),
    264: (6, 12, 64, 48),
}


class DenseLayer(nn.Module):
    """One composite function H: [N, C, H, W] -> [N, k, H, W].

    ``bn_size`` > 0: bn-relu-conv1x1 to ``bn_size * k`` channels, bn-relu-conv3x3 to k; 0: bn-relu-conv3x3 alone.
    ``drop_rate`` follows the last convolution, ``inner_drop_rate`` the bottleneck's 1x1.
    """

    def __init__(
        self, in_channels: int, growth_rate: int, bn_size: int = 4, drop_rate: float = 0.0, inner_drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        inner = bn_size * growth_rate
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        if bn_size:
            self.conv1 = nn.Conv2d(in_channels, inner, kernel_size=1, stride=1, bias=False)
            self.norm2 = nn.BatchNorm2d(inner)
            self.relu2 = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(inner, growth_rate, kernel_size=3, stride=1, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, growth_rate, kernel_size=3, stride=1, padding=1, bias=False)
        self.bottleneck = bn_size > 0
        self.drop_rate = float(drop_rate)
        self.inner_drop_rate = float(inner_drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(x)))
        if self.bottleneck:
            if self.inner_drop_rate > 0:
                x = F.dropout(x, p=self.inner_drop_rate, training=self.training)
            x = self.conv2(self.relu2(self.norm2(x)))
        if self.drop_rate > 0:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x


class DenseBlock(nn.ModuleDict):
    """``num_layers`` dense layers: [N, C, H, W] -> [N, C + num_layers * k, H, W], input first."""

    def __init__(
        self,
        num_layers: int,
        in_channels: int,
        growth_rate: int,
        bn_size: int = 4,
        drop_rate: float = 0.0,
        inner_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        for i in range(num_layers):
            layer = DenseLayer(in_channels + i * growth_rate, growth_rate, bn_size, drop_rate, inner_drop_rate)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x


class Transition(nn.Sequential):
    """bn-relu-conv1x1, (dropout), 2x2 average pool: [N, C, H, W] -> [N, out_channels, H // 2, W // 2]."""

    def __init__(self, in_channels: int, out_channels: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=1, bias=False)
        if drop_rate > 0:
            self.drop = nn.Dropout(drop_rate)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)


def _stem(in_channels: int, channels: int, small_input: bool, stem_stride: int) -> list[tuple[str, nn.Module]]:
    if small_input:
        return [("conv0", nn.Conv2d(in_channels, channels, 3, stride=stem_stride, padding=1, bias=False))]
    return [
        ("conv0", nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)),
        ("norm0", nn.BatchNorm2d(channels)),
        ("relu0", nn.ReLU(inplace=True)),
        ("pool0", nn.MaxPool2d(kernel_size=3, stride=2, padding=1)),
    ]


class DenseNet(nn.Module):
    """DenseNet, [N, in_channels, H, W] -> logits [N, num_classes].

    Args:
        growth_rate: k, channels each layer adds.
        block_config: dense layers per block.
        num_init_features: channels of the first convolution.
        bn_size: bottleneck width in units of k; 0 for plain (non-B) dense layers.
        compression: theta in (0, 1], the share of channels a transition keeps.
        drop_rate: dropout after each dense layer (torchvision's place).
        drop_everywhere: also after the bottleneck's 1x1 and the transition's convolution, as in the paper's section 3
            and the authors' code ("after each convolutional layer except the first").
        num_classes: outputs of the classifier.
        in_channels: channels of the input.
        small_input: the CIFAR stem, one 3x3 convolution of ``stem_stride``, instead of 7x7/2, bn, relu, 3x3/2 max-pool.
        stem_stride: stride of the CIFAR stem (the ImageNet stem is fixed by the paper).

    Raises:
        ValueError: an argument is out of its range; network and argument are named.
    """

    def __init__(
        self,
        growth_rate: int = 32,
        block_config: Sequence[int] = BLOCK_CONFIGS[121],
        num_init_features: int = 64,
        bn_size: int = 4,
        *,
        compression: float = 0.5,
        drop_rate: float = 0.0,
        drop_everywhere: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        small_input: bool = False,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        check_int("DenseNet", "growth_rate", growth_rate)
        check_int("DenseNet", "num_init_features", num_init_features)
        check_int("DenseNet", "bn_size", bn_size, least=0)
        check_int("DenseNet", "num_classes", num_classes)
        check_int("DenseNet", "in_channels", in_channels)
        check_int("DenseNet", "stem_stride", stem_stride)
        check_fraction("DenseNet", "compression", compression)
        check_fraction("DenseNet", "drop_rate", drop_rate, zero=True)
        if not block_config:
            raise ValueError(f"DenseNet: block_config must name at least one block, got {block_config!r}")
        for layers in block_config:
            check_int("DenseNet", "block_config", layers)

        inner_drop = drop_rate if drop_everywhere else 0.0
        self.features = nn.Sequential(OrderedDict(_stem(in_channels, num_init_features, small_input, stem_stride)))
        channels = num_init_features
        for i, layers in enumerate(block_config, start=1):
            block = DenseBlock(layers, channels, growth_rate, bn_size, drop_rate, inner_drop)
            self.features.add_module(f"denseblock{i}", block)
            channels += layers * growth_rate
            if i < len(block_config):
                kept = int(channels * compression)
                self.features.add_module(f"transition{i}", Transition(channels, kept, inner_drop))
                channels = kept
        # "5" is torchvision's name of the last norm whatever the number of blocks.
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.features.add_module("relu5", nn.ReLU(inplace=True))
        self.features.add_module("pool5", nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def densenet121(**kwargs: object) -> DenseNet:
    """DenseNet-121 (k = 32), arXiv:1608.06993 table 1. 7,978,856 parameters, 2.834 G multiply-adds at 224x224."""
    return DenseNet(32, BLOCK_CONFIGS[121], 64, **kwargs)


def densenet169(**kwargs: object) -> DenseNet:
    """DenseNet-169 (k = 32), arXiv:1608.06993 table 1. 14,149,480 parameters, 3.360 G multiply-adds at 224x224."""
    return DenseNet(32, BLOCK_CONFIGS[169], 64, **kwargs)


def densenet201(**kwargs: object) -> DenseNet:
    """DenseNet-201 (k = 32), arXiv:1608.06993 table 1. 20,013,928 parameters, 4.291 G multiply-adds at 224x224."""
    return DenseNet(32, BLOCK_CONFIGS[201], 64, **kwargs)


def densenet161(**kwargs: object) -> DenseNet:
    """DenseNet-161 (k = 48), the authors' release. 28,681,000 parameters, 7.728 G multiply-adds at 224x224."""
    return DenseNet(48, BLOCK_CONFIGS[161], 96, **kwargs)


def densenet264(growth_rate: int = 32, **kwargs: object) -> DenseNet:
    """DenseNet-264; k = 32: arXiv:1608.06993 table 1; k = 48: the 73 M parameter net of arXiv:1707.06990."""
    check_int("densenet264", "growth_rate", growth_rate)
    return DenseNet(growth_rate, BLOCK_CONFIGS[264], 2 * growth_rate, **kwargs)


def densenet_cifar(
    depth: int = 100,
    growth_rate: int = 12,
    bottleneck: bool = True,
    compression: float | None = None,
    drop_rate: float = 0.0,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    stem_stride: int = 1,
) -> DenseNet:
    """DenseNet for 32x32 maps, three equal blocks, arXiv:1608.06993 section 3 and table 2.

    ``depth`` L counts every convolution and the classifier: L = 6n + 4 with bottlenecks, 3n + 4 without.
    Published: (L, k) = (40, 12), (100, 12), (100, 24) without bottleneck; (100, 12), (250, 24), (190, 40) as BC.

    Args:
        bottleneck: the "B" of BC; also picks the initial channels: 2k with it, 16 without (the paper's section 3).
        compression: theta; None means 0.5 with bottleneck (BC), 1 without.
        drop_rate: 0.2 in the paper where no augmentation is used; applied after every convolution but the first.

    Raises:
        ValueError: ``depth`` does not fit three equal blocks, or another argument is out of range.
    """
    convolutions = 2 if bottleneck else 1
    check_int("densenet_cifar", "depth", depth, least=4 + 3 * convolutions)
    if (depth - 4) % (3 * convolutions):
        raise ValueError(
            f"densenet_cifar: depth must be {3 * convolutions}n + 4 with bottleneck={bottleneck}, got {depth}"
        )
    check_choice("densenet_cifar", "bottleneck", bottleneck, (False, True))
    check_int("densenet_cifar", "growth_rate", growth_rate)
    layers = (depth - 4) // (3 * convolutions)
    return DenseNet(
        growth_rate,
        (layers,) * 3,
        2 * growth_rate if bottleneck else 16,
        4 if bottleneck else 0,
        compression=(0.5 if bottleneck else 1.0) if compression is None else compression,
        drop_rate=drop_rate,
        drop_everywhere=True,
        num_classes=num_classes,
        in_channels=in_channels,
        small_input=True,
        stem_stride=stem_stride,
    )


FASHION_CHECKPOINT = Path(__file__).resolve().parent.parent / "data" / "densenet_fashion.pt"


def densenet_fashion(pretrained: bool = False, *, num_classes: int = 10, in_channels: int = 1) -> DenseNet:
    """A small DenseNet-BC for 28x28 Fashion-MNIST: k = 12, three blocks of four layers, stem of stride 2.

    102,298 parameters, 8.2 M multiply-adds at 28x28. ``pretrained`` loads the weights that
    benchmarks/train_fashion_densenet.py trained (float32; input normalised by ``lightops.data.fashion_mnist``).

    Raises:
        ValueError: ``pretrained`` with other than ten classes and one channel.
        FileNotFoundError: the checkpoint is missing from the installation.
    """
    model = DenseNet(
        12, (4, 4, 4), 24, num_classes=num_classes, in_channels=in_channels, small_input=True, stem_stride=2
    )
    if not pretrained:
        return model
    if (num_classes, in_channels) != (10, 1):
        raise ValueError(
            f"densenet_fashion: the trained weights have num_classes=10, in_channels=1, "
            f"got num_classes={num_classes}, in_channels={in_channels}"
        )
    if not FASHION_CHECKPOINT.is_file():
        raise FileNotFoundError(f"densenet_fashion: {FASHION_CHECKPOINT} is missing; reinstall lightops")
    model.load_state_dict(torch.load(FASHION_CHECKPOINT, map_location="cpu", weights_only=True))
    return model
