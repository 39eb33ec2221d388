"""Mixed precision and 16-bit modules in training: dtypes as stock's, errors against float64 no larger than stock's."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lightops.modules import FallbackWarning
from lightops.ops import training
from lightops.ops.training import Prologue

from ..blocks import CASES, image
from .steps import pair

# Blocks that normalise or add their input get it from a convolution: in the autocast dtype.
_LATER = ("bn_relu_conv2d", "dense_block", "fire_bypass", "head", "inverted_residual", "transition", "chain")


def _step(module: nn.Module, x: Tensor, dtype: torch.dtype | None) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    module.zero_grad()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        y = module(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype))
    grads = {name: p.grad for name, p in module.named_parameters()}
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    return {"y": y.detach(), "x": x.grad, **grads, **buffers}


def _assert_no_worse(
    modules: tuple[nn.Module, nn.Module, nn.Module], inputs: list[Tensor], autocast: torch.dtype | None = None
) -> None:
    """For modules (fused, stock, exact): at most three times stock's error, tensor by tensor, in at least one of the
    inputs: a value at an activation's kink may fall to either side of it, which is one large error now and then.
    """
    factors: dict[str, list[float]] = {}
    for x in inputs:
        states = [copy.deepcopy(m.state_dict()) for m in modules]
        fused, stock = (_step(m, x, autocast) for m in modules[:2])
        exact = _step(modules[2], x.double(), None)
        top = max(t.abs().max().item() for n, t in exact.items() if t.is_floating_point() and n != "y")
        for name, want in exact.items():
            got, theirs = fused[name], stock[name]
            assert got.dtype is theirs.dtype, name
            if want.is_floating_point():
                # A small gradient behind a norm is rounding in stock as well.
                floor = 1e-6 * max(want.norm().item(), 1e-3 * top)
                own = 3 * (theirs.double() - want).norm().item() + floor
                factors.setdefault(name, []).append((got.double() - want).norm().item() / own)
            else:
                assert torch.equal(got, want), name
        for module, state in zip(modules, states, strict=True):
            module.load_state_dict(state)
    assert {name: f for name, f in factors.items() if min(f) > 1} == {}
    assert modules[0].last_reason is None


def _images(name: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [image(name, seed=seed).to(dtype) for seed in range(3)]


@pytest.mark.parametrize("name", CASES)
def test_autocast_bfloat16(name: str) -> None:
    stock, fused = pair(name, torch.float32)
    exact, _ = pair(name, torch.float64)
    images = _images(name, torch.bfloat16 if name in _LATER else torch.float32)
    _assert_no_worse((fused, stock, exact), images, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_error_of_a_dtype(name: str, dtype: torch.dtype) -> None:
    """A whole module of one dtype, statistics and all."""
    stock, fused = pair(name, dtype)
    exact, _ = pair(name, dtype)
    exact = exact.double()
    _assert_no_worse((fused, stock, exact), _images(name, dtype))


@pytest.mark.parametrize("name", ["dense_block", "inverted_residual", "depthwise_pointwise", "transition"])
def test_half_precision_beside_float32_norms(name: str) -> None:
    stock, fused = pair(name, torch.bfloat16)
    for module in (stock, fused):
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.float()
    exact, _ = pair(name, torch.bfloat16)
    exact = exact.double()
    _assert_no_worse((fused, stock, exact), _images(name, torch.bfloat16))


def test_autocast_of_a_float32_input_that_stock_normalises() -> None:
    stock, fused = pair("dense_block", torch.float32)
    x = image("dense_block")
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(FallbackWarning, match="autocast"):
        got = fused(x)
    with torch.autocast("cpu", torch.bfloat16):
        want = stock(x)
    assert got.dtype is want.dtype
    assert torch.equal(got, want)


def test_infinite_gradients_reach_the_scaler() -> None:
    _, fused = pair("inverted_residual", torch.float32)
    y = fused(image("inverted_residual"))
    y.backward(torch.full_like(y, float("inf")))
    assert not all(p.grad.isfinite().all() for p in fused.parameters())


def test_rule_of_the_ops() -> None:
    """A public op under autocast casts what a convolution's arguments are; statistics stay in float32."""
    x = torch.randn(2, 4, 5, 6, requires_grad=True)
    weight, bias = torch.randn(6, 4, 1, 1, requires_grad=True), torch.randn(6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, mean, var = training.bn_act_conv2d(x, Prologue(act="relu"), weight, bias)
        z = training.bn_act(x, Prologue(*training.batch_stats(x), act="relu", eps=1e-5, batch=True))
        f = training.fire_train(x, weight[:3], bias[:3], weight[:2, :3], None, torch.randn(2, 3, 3, 3), None)
    assert (y.dtype, mean.dtype, var.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert (z.dtype, f.dtype) == (torch.float32, torch.bfloat16)
    (y.float().sum() + z.sum() + f.float().sum()).backward()
    assert weight.grad.dtype is x.grad.dtype is bias.grad.dtype is torch.float32
