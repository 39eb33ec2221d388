"""MobileNet V1 (Howard et al., 2017, arXiv:1704.04861) and V2 (Sandler et al., 2018, arXiv:1801.04381).

V1's block is a 3x3 depthwise convolution, bn, relu, a 1x1 (pointwise) convolution, bn, relu. V2's inverted residual
expands with a 1x1, filters depthwise, projects linearly with a 1x1, and adds its input where shapes agree.
V1 has names of its own (torchvision has no V1; :mod:`lightops.networks.convert` reads timm's); V2 has torchvision's.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ._common import check_choice, check_fraction, check_int, make_divisible

# arXiv:1704.04861 table 1: output channels and stride of the 13 blocks; the shallow net of table 5 drops the five
# blocks 14x14x512.
V1_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
V1_SHALLOW_BLOCKS = V1_BLOCKS[:6] + V1_BLOCKS[11:]
ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}

# arXiv:1801.04381 table 2: expansion t, channels c, repeats n, first stride s.
V2_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class SamePad(nn.Module):
    """TensorFlow's "SAME" zeros for a 3x3 stride-2 convolution: (0, 1) around an even extent, (1, 1) an odd one."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return nn.functional.pad(x, (width % 2, 1, height % 2, 1))


class DepthwiseSeparable(nn.Module):
    """act(bn2(conv_pw(act(bn1(conv_dw(x)))))): [N, C, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)].

    With ``same_padding`` and stride 2 the child ``pad`` (:class:`SamePad`) runs first and ``conv_dw`` pads nothing.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, act: str, bn_eps: float, same_padding: bool
    ) -> None:
        super().__init__()
        asymmetric = same_padding and stride == 2
        self.pad = SamePad() if asymmetric else None
        self.conv_dw = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=0 if asymmetric else 1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels, eps=bn_eps)
        self.act1 = ACTIVATIONS[act](inplace=True)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, eps=bn_eps)
        self.act2 = ACTIVATIONS[act](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.pad is not None:
            x = self.pad(x)
        x = self.act1(self.bn1(self.conv_dw(x)))
        return self.act2(self.bn2(self.conv_pw(x)))


def _conv_bn_act(
    in_channels: int, out_channels: int, stride: int, act: str, bn_eps: float, same_padding: bool
) -> nn.Sequential:
    """(pad), conv 3x3, bn, act as a Sequential: the stem, and the block of the full-convolution net."""
    asymmetric = same_padding and stride == 2
    layers: list[tuple[str, nn.Module]] = [("pad", SamePad())] if asymmetric else []
    padding = 0 if asymmetric else 1
    layers += [
        ("conv", nn.Conv2d(in_channels, out_channels, 3, stride, padding=padding, bias=False)),
        ("bn", nn.BatchNorm2d(out_channels, eps=bn_eps)),
        ("act", ACTIVATIONS[act](inplace=True)),
    ]
    return nn.Sequential(OrderedDict(layers))


class MobileNetV1(nn.Module):
    """MobileNet V1, [N, in_channels, H, W] -> logits [N, num_classes].

    Children: ``features`` = Sequential(``stem`` = Sequential(conv, bn, act), ``block1`` .. ``block13``), ``head`` =
    Sequential(``pool``, ``flatten``, (``drop``), ``fc``). ``input_resolution`` is round(224 * resolution_mult), the
    resolution multiplier's only effect: the paper applies rho to the input image.
    """

    def __init__(
        self,
        width_mult: float = 1.0,
        resolution_mult: float = 1.0,
        shallow: bool = False,
        separable: bool = True,
        *,
        act: str = "relu",
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        bn_eps: float = 1e-5,
        same_padding: bool = False,
        small_input: bool = False,
    ) -> None:
        super().__init__()
        check_fraction("mobilenet_v1", "width_mult", width_mult, above_one=True)
        check_fraction("mobilenet_v1", "resolution_mult", resolution_mult, above_one=True)
        check_choice("mobilenet_v1", "act", act, ACTIVATIONS)
        check_int("mobilenet_v1", "num_classes", num_classes)
        check_int("mobilenet_v1", "in_channels", in_channels)
        check_fraction("mobilenet_v1", "drop_rate", drop_rate, zero=True)
        check_fraction("mobilenet_v1", "bn_eps", bn_eps)
        self.input_resolution = round(224 * resolution_mult)

        def width(channels: int) -> int:
            return max(int(channels * width_mult), 8)

        common = (act, bn_eps, same_padding)
        build = DepthwiseSeparable if separable else _conv_bn_act
        channels = width(32)
        self.features = nn.Sequential()
        self.features.add_module("stem", _conv_bn_act(in_channels, channels, 1 if small_input else 2, *common))
        for i, (out, stride) in enumerate(V1_SHALLOW_BLOCKS if shallow else V1_BLOCKS, start=1):
            self.features.add_module(f"block{i}", build(channels, width(out), stride, *common))
            channels = width(out)
        self.head = nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
        if drop_rate > 0:
            self.head.add_module("drop", nn.Dropout(drop_rate))
        self.head.add_module("fc", nn.Linear(channels, num_classes))
        _init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def mobilenet_v1(
    width_mult: float = 1.0,
    resolution_mult: float = 1.0,
    shallow: bool = False,
    separable: bool = True,
    **kwargs: object,
) -> MobileNetV1:
    """MobileNet V1, arXiv:1704.04861 tables 1 and 4 to 7. alpha 1 at 224: 4,231,976 parameters, 568.7 M multiply-adds.

    Args:
        width_mult: alpha; every channel count times alpha, rounded down, at least 8 (the paper: 1, 0.75, 0.5, 0.25).
        resolution_mult: rho; sets ``input_resolution`` = round(224 * rho) (192, 160, 128: rho = 6/7, 5/7, 4/7).
        shallow: leave out the five 14x14x512 blocks (table 5).
        separable: False: a full 3x3 convolution in place of every depthwise-separable block (table 4).
        act: "relu" (the paper) or "relu6" (the TensorFlow and timm releases).
        num_classes, in_channels: of the classifier and the input image.
        drop_rate: dropout before the classifier.
        bn_eps: of every batch norm (the TensorFlow release: 1e-3).
        same_padding: TensorFlow's asymmetric zeros at stride 2, for weights that were trained so.
        small_input: a stem of stride 1, for maps of 28 to 64 pixels.

    Raises:
        ValueError: an argument is out of range; network and argument are named.
    """
    return MobileNetV1(width_mult, resolution_mult, shallow, separable, **kwargs)


def _conv_bn_relu6(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """x + conv(x) or conv(x): [N, C, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)].

    ``conv`` = Sequential((expand 1x1, bn, relu6), (depthwise 3x3, bn, relu6), project 1x1, bn); no expansion at
    ``expand_ratio`` 1; the input is added at stride 1 with equal channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        hidden = in_channels * expand_ratio
        self.stride = stride
        self.use_res_connect = stride == 1 and in_channels == out_channels
        layers: list[nn.Module] = [_conv_bn_relu6(in_channels, hidden, 1)] if expand_ratio != 1 else []
        layers += [
            _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNet V2 under torchvision's names, [N, in_channels, H, W] -> logits [N, num_classes]."""

    def __init__(
        self,
        width_mult: float = 1.0,
        round_nearest: int = 8,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        small_input: bool = False,
    ) -> None:
        super().__init__()
        check_fraction("mobilenet_v2", "width_mult", width_mult, above_one=True)
        check_int("mobilenet_v2", "round_nearest", round_nearest)
        check_int("mobilenet_v2", "num_classes", num_classes)
        check_int("mobilenet_v2", "in_channels", in_channels)
        check_fraction("mobilenet_v2", "dropout", dropout, zero=True)
        channels = make_divisible(32 * width_mult, round_nearest)
        last = make_divisible(1280 * max(1.0, width_mult), round_nearest)
        features: list[nn.Module] = [_conv_bn_relu6(in_channels, channels, 3, stride=1 if small_input else 2)]
        for expand_ratio, base, repeats, first_stride in V2_BLOCKS:
            out = make_divisible(base * width_mult, round_nearest)
            for i in range(repeats):
                features.append(InvertedResidual(channels, out, 1 if i else first_stride, expand_ratio))
                channels = out
        features.append(_conv_bn_relu6(channels, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(p=dropout), nn.Linear(last, num_classes))
        _init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


def mobilenet_v2(width_mult: float = 1.0, round_nearest: int = 8, **kwargs: object) -> MobileNetV2:
    """MobileNet V2, arXiv:1801.04381 table 2. 3,504,872 parameters, 0.301 G multiply-adds at 224x224.

    Args:
        width_mult: multiplies every channel count; the last convolution never goes below 1280 (the paper's rule).
        round_nearest: channel counts are rounded to a multiple of it.
        num_classes, in_channels, dropout: as torchvision's.
        small_input: a stem of stride 1, for maps of 28 to 64 pixels.

    Raises:
        ValueError: an argument is out of range; network and argument are named.
    """
    return MobileNetV2(width_mult, round_nearest, **kwargs)


def _init_weights(model: nn.Module) -> None:
    """torchvision's: He normal by fan-out for convolutions, N(0, 0.01) for the classifier, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
