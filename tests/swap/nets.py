"""Networks by name for the swap tests, with weights and BN statistics that hide nothing."""

import torch
from torch import nn

from lightops import networks
from lightops._torchvision import import_torchvision

import_torchvision()

import timm  # noqa: E402
import torchvision.models  # noqa: E402


def make(name: str) -> nn.Module:
    """`torchvision:NAME`, `timm:NAME`, or `NAME` of lightops.networks (for a SqueezeNet `NAME:BYPASS`), in
    evaluation."""
    torch.manual_seed(0)
    first, _, second = name.partition(":")
    if first == "torchvision":
        model = getattr(torchvision.models, second)(weights=None)
    elif first == "timm":
        model = timm.create_model(second, pretrained=False)
    else:
        model = getattr(networks, first)(**({"bypass": second} if second else {}))
    return untrivial(model).eval()


def untrivial(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random affine parameters, some gammas negative, conv biases off zero; statistics of activations, then off by a
    factor.

    The statistics come from a forward of the net itself, so that activations stay of order 1 through any depth.
    """
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.empty(tensor.shape).uniform_(low, high, generator=generator))

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        for norm in norms:
            if norm.weight is not None:
                fill(norm.weight, 0.6, 1.3)
                norm.weight[::7] *= -1
                fill(norm.bias, -0.2, 0.3)
        for conv in convs:
            if conv.bias is not None:
                fill(conv.bias, -0.2, 0.2)
        if norms:
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.momentum = 1.0
            x = torch.randn(8, convs[0].in_channels, 64, 64, generator=generator)
            model.train()(x)
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                norm.running_mean += norm.running_var.sqrt() * torch.empty_like(norm.running_var).uniform_(
                    -0.1, 0.1, generator=generator
                )
                norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25, generator=generator)
    return model


def small(family: str) -> nn.Module:
    """A small net of each family, library code, in evaluation."""
    torch.manual_seed(0)
    tv = torchvision.models
    settings = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
    nets = {
        "densenet": lambda: tv.DenseNet(8, (3, 3), 16, num_classes=10),
        "squeezenet": lambda: tv.squeezenet1_1(num_classes=10),
        "mobilenet": lambda: tv.MobileNetV2(10, 0.5, settings),
        "mobilenet_v1": lambda: networks.mobilenet_v1(0.25, shallow=True, num_classes=10),
    }
    return untrivial(nets[family]()).eval()


FAMILIES = ("densenet", "squeezenet", "mobilenet", "mobilenet_v1")
