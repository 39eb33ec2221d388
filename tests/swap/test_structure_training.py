"""Blocks of unknown class in training: fused where a training step was proven to be the same, else stock's."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightops
from lightops.modules import FallbackWarning, FusedModule

from .nets import untrivial
from .strangers import STRANGERS, Appending, Separable
from .train_oracle import assert_trains_alike


class Scaling(Separable):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (0.5 if self.training else 1.0)


class Dropping(Separable):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.25, self.training)


class Detaching(Separable):
    """Right in value, without the gradient of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class Deciding(Separable):
    """Whether to take batch statistics is asked of the block, not of its norms."""

    def forward(self, x: Tensor) -> Tensor:
        modes = [(m, m.training) for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm, _ in modes:
            norm.training = self.training
        try:
            return super().forward(x)
        finally:
            for norm, mode in modes:
                norm.training = mode


class Wrapper(nn.Module):
    def __init__(self, block: nn.Module):
        super().__init__()
        self.first = nn.Conv2d(block_channels(block), block_channels(block), 1)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.first(x))


def block_channels(block: nn.Module) -> int:
    first = next(m for m in block.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d))
    return first.in_channels if isinstance(first, nn.Conv2d) else first.num_features


def _inputs(channels: int):
    def make_input(step: int) -> Tensor:
        return torch.randn(3, channels, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(step))

    return make_input


@pytest.mark.parametrize("name", [name for name, (_, _, ops, _) in STRANGERS.items() if ops])
def test_stranger_trains_fused(name: str) -> None:
    make, channels, _, _ = STRANGERS[name]
    block = untrivial(make())
    for layer in block.modules():
        if isinstance(layer, Appending):
            layer.drop = 0.0  # dropout has no fused form there
    assert_trains_alike(Wrapper(block).double(), _inputs(channels))


@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen norms"])
@pytest.mark.parametrize("cls", [Scaling, Dropping, Detaching, Deciding])
def test_what_trains_otherwise_keeps_its_own_step(cls: type[Separable], frozen: bool) -> None:
    stock = Wrapper(untrivial(cls(16, 24, 2))).double().train()
    fused = copy.deepcopy(stock)
    assert [(r.name, r.op) for r in lightops.swap_(fused).fused] == [("block", "depthwise_pointwise")]
    left = []
    for model in (stock, fused):
        for norm in model.modules():
            if frozen and isinstance(norm, nn.BatchNorm2d):
                norm.eval()
        x = _inputs(16)(0).requires_grad_()
        torch.manual_seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            y = model(x)
        y.backward(torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2)))
        left.append([y.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    for got, want in zip(*left, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            assert torch.equal(got, want)
    assert isinstance(fused.block, FusedModule)
    assert "as when the block was proven" in fused.block.last_reason
    for model in (stock, fused):
        model.eval()
    with torch.no_grad():
        torch.testing.assert_close(fused(x), stock(x), rtol=1e-10, atol=1e-10)
    assert fused.block.last_reason is None
