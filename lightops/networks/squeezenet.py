"""SqueezeNet: Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer, "SqueezeNet: AlexNet-level accuracy with 50x fewer
parameters", 2016, arXiv:1602.07360, in stock modules with torchvision's parameter names.

A Fire module squeezes to s channels with 1x1 filters, then expands with e1 1x1 and e3 3x3 filters side by side.
With a bypass the module's input (simple) or a 1x1 convolution of it (complex) is added to its output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._common import check_choice, check_fraction, check_int

BYPASSES = (None, "simple", "complex")


class Fire(nn.Module):
    """relu(expand1x1(s)) ++ relu(expand3x3(s)) with s = relu(squeeze(x)): [N, C, H, W] -> [N, e1 + e3, H, W].

    ``bypass``: None; an ``nn.Identity`` (needs C = e1 + e3) or an ``nn.Conv2d`` whose output is added after the ReLUs.
    """

    def __init__(
        self, in_channels: int, squeeze: int, expand1x1: int, expand3x3: int, bypass: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand1x1, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand3x3, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)
        self.bypass = bypass

    def forward(self, x: Tensor) -> Tensor:
        s = self.squeeze_activation(self.squeeze(x))
        out = torch.cat([self.expand1x1_activation(self.expand1x1(s)), self.expand3x3_activation(self.expand3x3(s))], 1)
        return out if self.bypass is None else out + self.bypass(x)


def _fire(in_channels: int, squeeze: int, expand1x1: int, expand3x3: int, bypass: str | None) -> Fire:
    out_channels = expand1x1 + expand3x3
    module: nn.Module | None = None
    if bypass is not None and in_channels == out_channels:
        module = nn.Identity()
    elif bypass == "complex":
        module = nn.Conv2d(in_channels, out_channels, kernel_size=1)
    return Fire(in_channels, squeeze, expand1x1, expand3x3, module)


class SqueezeNet(nn.Module):
    """SqueezeNet, [N, in_channels, H, W] -> logits [N, num_classes].

    Args:
        fires: (squeeze, expand1x1, expand3x3) of each Fire module.
        stem: (channels, kernel, stride) of the first convolution (no padding).
        pools: numbers of the Fire modules (0-based) that a 3x3/2 ceil-mode max-pool precedes, the stem's pool left out.
        bypass: None, "simple" (identity wherever channels agree) or "complex" (1x1 convolution elsewhere).
        dropout: before the last convolution.
        small_input: for maps of 28 to 64 pixels: a 3x3 stem of stride 1 with padding and no pool after it.
    """

    def __init__(
        self,
        fires: list[tuple[int, int, int]],
        stem: tuple[int, int, int],
        pools: tuple[int, ...],
        *,
        bypass: str | None = None,
        num_classes: int = 1000,
        dropout: float = 0.5,
        in_channels: int = 3,
        small_input: bool = False,
    ) -> None:
        super().__init__()
        check_choice("SqueezeNet", "bypass", bypass, BYPASSES)
        check_int("SqueezeNet", "num_classes", num_classes)
        check_int("SqueezeNet", "in_channels", in_channels)
        check_fraction("SqueezeNet", "dropout", dropout, zero=True)
        channels, kernel, stride = stem
        if small_input:
            layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, kernel_size=3, padding=1)]
        else:
            layers = [nn.Conv2d(in_channels, channels, kernel_size=kernel, stride=stride)]
        layers.append(nn.ReLU(inplace=True))
        if not small_input:
            layers.append(nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True))
        for i, (squeeze, expand1x1, expand3x3) in enumerate(fires):
            if i in pools:
                layers.append(nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True))
            layers.append(_fire(channels, squeeze, expand1x1, expand3x3, bypass))
            channels = expand1x1 + expand3x3
        self.features = nn.Sequential(*layers)
        last = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.classifier = nn.Sequential(
            nn.Dropout(p=dropout), last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module is last:
                    nn.init.normal_(module.weight, mean=0.0, std=0.01)
                else:
                    nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


def squeezenet(
    base_e: int = 128,
    incr_e: int = 128,
    pct_3x3: float = 0.5,
    freq: int = 2,
    squeeze_ratio: float = 0.125,
    bypass: str | None = None,
    *,
    version: str = "1_0",
    **kwargs: object,
) -> SqueezeNet:
    """SqueezeNet by the metaparameters of arXiv:1602.07360 section 5.1; the defaults are the paper's SqueezeNet.

    Fire module i (i = 0..7, the paper's fire2..fire9) has e_i = base_e + incr_e * floor(i / freq) expand filters, of
    which round(pct_3x3 * e_i) are 3x3, and s_i = round(squeeze_ratio * e_i) squeeze filters.

    Args:
        base_e, incr_e, freq: expand filters of the first module, their increment, and how many modules share a count.
        pct_3x3: share of 3x3 expand filters, 0 < pct_3x3 < 1 (the paper sweeps 0.01 to 0.99 at squeeze_ratio 0.5).
        squeeze_ratio: SR in (0, 1] (the paper sweeps 0.125 to 1 at pct_3x3 0.5).
        bypass: None, "simple" or "complex" (section 6; identity around fire3, 5, 7, 9, convolutions at fire2, 4, 6, 8).
        version: "1_0" (96 7x7/2 first, pools after conv1, fire4, fire8) or "1_1" (64 3x3/2, pools after conv1, fire3,
            fire5: 2.35x fewer multiply-adds).
        **kwargs: ``num_classes``, ``dropout``, ``in_channels``, ``small_input`` of :class:`SqueezeNet`.

    Raises:
        ValueError: an argument is out of range, or a Fire module would get an empty squeeze or expand convolution.
    """
    check_int("squeezenet", "base_e", base_e)
    check_int("squeezenet", "incr_e", incr_e, least=0)
    check_int("squeezenet", "freq", freq)
    check_fraction("squeezenet", "pct_3x3", pct_3x3)
    check_fraction("squeezenet", "squeeze_ratio", squeeze_ratio)
    check_choice("squeezenet", "version", version, ("1_0", "1_1"))
    fires = []
    for i in range(8):
        expand = base_e + incr_e * (i // freq)
        expand3x3 = round(pct_3x3 * expand)
        fire = (round(squeeze_ratio * expand), expand - expand3x3, expand3x3)
        if min(fire) < 1:
            raise ValueError(
                f"squeezenet: fire{i + 2} would have squeeze, expand1x1, expand3x3 = {fire}; each must be >= 1 "
                f"(pct_3x3={pct_3x3!r}, squeeze_ratio={squeeze_ratio!r}, {expand} expand filters)"
            )
        fires.append(fire)
    if version == "1_0":
        return SqueezeNet(fires, (96, 7, 2), (3, 7), bypass=bypass, **kwargs)
    return SqueezeNet(fires, (64, 3, 2), (2, 4), bypass=bypass, **kwargs)


def squeezenet1_0(bypass: str | None = None, **kwargs: object) -> SqueezeNet:
    """SqueezeNet 1.0, arXiv:1602.07360 table 1. 1,248,424 parameters, 0.819 G multiply-adds at 224x224."""
    return squeezenet(bypass=bypass, version="1_0", **kwargs)


def squeezenet1_1(bypass: str | None = None, **kwargs: object) -> SqueezeNet:
    """SqueezeNet 1.1, the authors' later release. 1,235,496 parameters, 0.349 G multiply-adds at 224x224."""
    return squeezenet(bypass=bypass, version="1_1", **kwargs)
