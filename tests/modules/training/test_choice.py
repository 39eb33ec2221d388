"""Where a training step leaves a convolution to stock, because that is faster: the same numbers, norm and activation
still fused."""

import copy

import pytest
import torch
from torch import Tensor, nn

import lightops
from lightops.modules import _flow

from ..blocks import untrivial

CL = torch.channels_last


def _block(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(in_channels), nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out_channels),
        nn.ReLU(), nn.Conv2d(out_channels, 24, 1),
    )  # fmt: skip


def _step(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = model(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype))
    return [y.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers()]


# channels in and out, kernel, stride, size of the map, whether the weight is channels_last: stock's convolution?
@pytest.mark.parametrize(
    ("shape", "layout", "stocks"),
    [
        ((64, 96, 3, 1, 7), CL, True),
        ((64, 96, 3, 1, 14), CL, False),
        ((64, 96, 3, 2, 14), CL, True),
        ((64, 96, 1, 2, 9), CL, True),
        ((64, 96, 1, 1, 7), CL, False),
        ((48, 96, 3, 2, 9), CL, False),
        ((64, 96, 3, 1, 7), torch.contiguous_format, False),
    ],
)
def test_the_same_step_whoever_convolves(
    shape: tuple[int, ...], layout: torch.memory_format, stocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_channels, out_channels, kernel, stride, size = shape
    stock = untrivial(_block(in_channels, out_channels, kernel, stride)).to(memory_format=layout).train()
    fused, exact = copy.deepcopy(stock), copy.deepcopy(stock).double()
    lightops.swap_(fused)
    x = torch.randn(4, in_channels, size, size, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=CL)
    called = []
    convolve = torch.nn.functional.conv2d
    monkeypatch.setattr(_flow.F, "conv2d", lambda *args: called.append(args) or convolve(*args))
    got = _step(fused, x)
    assert bool(called) == stocks
    monkeypatch.undo()
    want, near = _step(exact, x.double()), _step(stock, x)
    assert fused.last_reason is None
    for ours, theirs, true in zip(got, near, want, strict=True):
        assert ours.stride() == theirs.stride()
        error, least = ((t - true).abs().max() for t in (ours.double(), theirs.double()))
        assert error <= 4 * least + 1e-6 * true.abs().max(), (error, least)
