"""A training forward that fails leaves everything as it was, and says what stock says."""

import copy
import warnings

import pytest
import torch
from torch import nn

from lightops.modules import FallbackWarning

from ..blocks import CASES, image
from .steps import NORMED, assert_same, norms, pair, step

# Where the norm comes before anything changes the size of the map.
_ONE_PIXEL = [name for name in NORMED if name not in ("stem", "sequential", "chain")]


@pytest.mark.parametrize("name", _ONE_PIXEL)
def test_one_value_per_channel(name: str) -> None:
    stock, fused = pair(name)
    x = torch.randn(1, CASES[name].channels, 1, 1, dtype=torch.float64)
    before = copy.deepcopy(fused.state_dict())
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as want:
        stock(x)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as got:
        fused(x)
    assert str(got.value) == str(want.value)
    for key, t in fused.state_dict().items():
        assert torch.equal(t, before[key]), key
    if name != "transition":  # whose pool wants two pixels
        torch.testing.assert_close(fused.eval()(x), stock.eval()(x))


@pytest.mark.parametrize("name", NORMED)
def test_eps_of_zero(name: str) -> None:
    stock, fused = pair(name)
    for module in (stock, fused):
        norms(module)[0].eps = 0.0
    x = image(name, torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        try:
            want = step(stock, x)
        except ValueError as error:
            with pytest.raises(ValueError, match=str(error)[:20]):
                fused(x)
            return
        assert_same(step(fused, x), want)


def test_a_failure_in_a_later_layer_touches_no_statistics() -> None:
    """The third layer of the block has a weight of the wrong size: the first two have normalised by then."""
    _, fused = pair("dense_block")
    x = image("dense_block", torch.float64)
    layer = fused.denselayer3.conv2
    right = layer.weight
    before = copy.deepcopy(fused.state_dict())
    layer.weight = nn.Parameter(right.detach()[:, :-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        with pytest.raises(RuntimeError):
            fused(x)
    layer.weight = right
    for key, t in fused.state_dict().items():
        assert torch.equal(t, before[key]), key
    stock, _ = pair("dense_block")
    assert_same(step(fused, x), step(stock, x))


class _Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise MemoryError("no room")


def test_a_failure_behind_a_block_of_a_chain_touches_no_statistics() -> None:
    _, fused = pair("sequential")
    x = image("sequential", torch.float64)
    before = copy.deepcopy(fused.state_dict())
    last = list(fused._modules)[-1]
    right = fused._modules[last]
    fused._modules[last] = _Broken()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        with pytest.raises(MemoryError):
            fused(x)
    fused._modules[last] = right
    fused_norms = {key: t for key, t in fused.state_dict().items() if key.startswith("0.")}
    for key, t in fused_norms.items():
        assert torch.equal(t, before[key]), key
    stock, _ = pair("sequential")
    stock.load_state_dict(fused.state_dict())
    assert_same(step(fused, x), step(stock, x))
