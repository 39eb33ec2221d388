"""Parameters and multiply-adds of a network, counted on the meta device: no memory, no arithmetic."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Count:
    """What :func:`count` found.

    Attributes:
        parameters: scalars in parameters (a shared parameter once), buffers left out.
        multiply_adds: of convolutions and linear layers for one image; biases, norms, activations, pools left out.
        parameters_by_kind, multiply_adds_by_kind: the same split into "conv" (spatial, dense or grouped), "depthwise",
            "pointwise" (1x1) and "linear"; parameters also "other" (norms). Biases go with their layer.
    """

    parameters: int
    multiply_adds: int
    parameters_by_kind: dict[str, int] = field(default_factory=dict)
    multiply_adds_by_kind: dict[str, int] = field(default_factory=dict)


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    if module.groups == module.in_channels and module.groups > 1:
        return "depthwise"
    return "pointwise" if module.kernel_size == (1, 1) else "conv"


def count_parameters(model: nn.Module) -> int:
    """Scalars in the parameters of ``model``; buffers (running statistics) are not parameters."""
    return sum(p.numel() for p in model.parameters())


def count(model: nn.Module, input_size: tuple[int, int, int]) -> Count:
    """Count ``model`` on one image of shape ``input_size`` = (C, H, W).

    ``model`` itself is left as it is: a copy of it runs once on the meta device, with a hook on each ``nn.Conv2d`` and
    ``nn.Linear``. One multiply-add per weight and output position, as the papers and torchvision count.
    """
    model = copy.deepcopy(model).to("meta").eval()
    parameters: dict[str, int] = {}
    multiply_adds: dict[str, int] = {}

    def hook(module: nn.Module, _args: object, out: Tensor) -> None:
        positions = out[0].numel() // module.weight.shape[0]
        kind = _kind(module)
        multiply_adds[kind] = multiply_adds.get(kind, 0) + positions * module.weight.numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(hook)
            kind = _kind(module)
            parameters[kind] = parameters.get(kind, 0) + count_parameters(module)
    with torch.no_grad():
        model(torch.empty(1, *input_size, device="meta"))
    total = count_parameters(model)
    parameters["other"] = total - sum(parameters.values())
    return Count(total, sum(multiply_adds.values()), parameters, multiply_adds)
