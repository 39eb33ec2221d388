"""Networks by name for the swap tests, with weights and BN statistics that hide nothing."""

import torch
from torch import nn

from lightops import networks
from lightops._torchvision import import_torchvision

import_torchvision()

import timm  # noqa: E402
import torchvision.models  # noqa: E402


def make(name: str) -> nn.Module:
    """`torchvision:NAME`, `timm:NAME` or a `lightops.networks` function, in evaluation, trivial statistics replaced."""
    library, _, net = name.rpartition(":")
    if library == "torchvision":
        model = getattr(torchvision.models, net)(weights=None)
    elif library == "timm":
        model = timm.create_model(net, pretrained=False)
    else:
        model = getattr(networks, net)()
    return untrivial(model).eval()


def untrivial(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random BN statistics and affine parameters, some negative gammas, biases off zero; logits of order 1 stay so."""
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.empty(tensor.shape).uniform_(low, high, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                fill(module.running_mean, -0.3, 0.3)
                fill(module.running_var, 0.3, 2.0)
                if module.weight is not None:
                    fill(module.weight, 0.7, 1.5)
                    module.weight[::7] *= -1
                    fill(module.bias, -0.2, 0.3)
            elif isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                fill(module.weight, -((6 / fan_in) ** 0.5), (6 / fan_in) ** 0.5)
                if module.bias is not None:
                    fill(module.bias, -0.2, 0.2)
    return model
