"""Whole networks, stock against swapped, in float64 (tier T3)."""

import pytest
import torch

import lightops
from lightops.modules import FusedModule

from .nets import make

RTOL, ATOL = 1e-9, 1e-12
QUICK = ["torchvision:densenet121", "torchvision:squeezenet1_1", "torchvision:mobilenet_v2"]


def assert_swap_is_exact(name: str, resolution: int = 64) -> None:
    """Same numbers, keys and layout after the swap, everything fused that is reported so, and stock again after
    the way back.
    """
    model = make(name).double()
    x = torch.randn(
        2,
        model_channels(model),
        resolution,
        resolution,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(1),
    )
    with torch.inference_mode():
        want = model(x)
        types = {n: type(m) for n, m in model.named_modules()}
        state = model.state_dict()
        report = lightops.swap_(model)
        assert report.fused, report
        assert list(model.state_dict()) == list(state)
        for _ in range(2):  # the second pass has dense blocks write into each other's room
            got = model(x)
            torch.testing.assert_close(got, want, rtol=RTOL, atol=ATOL)
            assert got.stride() == want.stride()
    reasons = {n: m.last_reason for n, m in model.named_modules() if isinstance(m, FusedModule) and m.last_reason}
    assert not reasons
    lightops.unswap_(model)
    assert {n: type(m) for n, m in model.named_modules()} == types
    with torch.inference_mode():
        assert torch.equal(model(x), want)


def model_channels(model: torch.nn.Module) -> int:
    return next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d)).in_channels


@pytest.mark.parametrize("name", QUICK)
def test_network_is_exact_in_float64(name: str) -> None:
    assert_swap_is_exact(name)
