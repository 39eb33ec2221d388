"""Helpers of the network tests: non-trivial weights and statistics, equality of two networks."""

import torch
from torch import nn


def randomize_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm random affine parameters and statistics, and every bias a value.

    Fresh networks have identity statistics and zero biases: a swapped pair of them would go unseen.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, mean: float, std: float) -> torch.Tensor:
        return tensor.normal_(mean, std, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                normal(module.weight, 1.0, 0.2)
                normal(module.bias, 0.0, 0.2)
                normal(module.running_mean, 0.0, 0.2)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
            elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                normal(module.bias, 0.0, 0.1)
    return model


def image(*shape: int, seed: int = 1) -> torch.Tensor:
    """Standard normal fp64 input."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of the state_dict, in order."""
    return [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]


def assert_same_output(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> None:
    """Eval-mode fp64 outputs equal to 1e-12, and not vacuously: many are distinct (SqueezeNet ends in a ReLU)."""
    with torch.no_grad():
        got, wanted = ours.double().eval()(x), theirs.double().eval()(x)
    assert wanted.unique().numel() > wanted.numel() // 3
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12 * wanted.abs().max().item())
