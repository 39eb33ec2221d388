"""Where a call cannot be fused exactly the stock forward runs: right numbers, one warning, the reason kept."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from lightops.modules import FallbackWarning, FusedModule

from .blocks import assert_fused, close, image, make


def _first(m: nn.Module, kind: type) -> nn.Module:
    return next(c for c in m.modules() if isinstance(c, kind))


class _Double(nn.Module):
    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return 2 * w


def _forward_hook(m: nn.Module) -> None:
    _first(m, nn.Conv2d).register_forward_hook(lambda _, __, y: y * 1.5)


def _pre_hook(m: nn.Module) -> None:
    _first(m, nn.Conv2d).register_forward_pre_hook(lambda _, args: (args[0] * 1.5,))


def _activation_hook(m: nn.Module) -> None:
    _first(m, nn.ReLU).register_forward_hook(lambda _, __, y: y + 1)


def _backward_hook(m: nn.Module) -> None:
    _first(m, nn.Conv2d).register_full_backward_hook(lambda *_: None)


def _weight_norm(m: nn.Module) -> None:
    weight_norm(_first(m, nn.Conv2d))


def _parametrized(m: nn.Module) -> None:
    parametrize.register_parametrization(_first(m, nn.Conv2d), "weight", _Double())


def _spectral(m: nn.Module) -> None:
    torch.manual_seed(0)
    parametrizations.spectral_norm(_first(m, nn.Conv2d)).eval()
    m.eval()


def _pruned(m: nn.Module) -> None:
    prune.l1_unstructured(_first(m, nn.Conv2d), "weight", 0.5)


def _own_forward(m: nn.Module) -> None:
    conv = _first(m, nn.Conv2d)
    conv.forward = lambda x: nn.Conv2d.forward(conv, x) * 2


def _padding_mode(m: nn.Module) -> None:
    conv = next(c for c in m.modules() if isinstance(c, nn.Conv2d) and c.kernel_size != (1, 1))
    conv.padding_mode = "reflect"
    conv._reversed_padding_repeated_twice = [1, 1, 1, 1]


def _leaky(m: nn.Module) -> None:
    for parent in m.modules():
        for key, child in list(parent._modules.items()):
            if type(child) is nn.ReLU:
                parent._modules[key] = nn.LeakyReLU()


OBSTACLES = {
    "forward hook": (_forward_hook, "fire", "hook"),
    "forward pre-hook": (_pre_hook, "fire", "hook"),
    "hook on an activation": (_activation_hook, "fire", "hook"),
    "backward hook": (_backward_hook, "fire", "hook"),
    "weight norm": (_weight_norm, "fire", "hook"),
    "parametrization": (_parametrized, "fire", "parametrised"),
    "spectral norm": (_spectral, "fire", "parametrised"),
    "pruning": (_pruned, "fire", "hook"),
    "forward of its own": (_own_forward, "fire", "forward overridden"),
    "padding mode": (_padding_mode, "fire", "padding_mode"),
    "another activation": (_leaky, "fire", "LeakyReLU"),
    "hook in a dense block": (_forward_hook, "dense_block", "hook"),
    "weight norm in a dense block": (_weight_norm, "dense_block", "hook"),
    "another activation in a transition": (_leaky, "transition", "LeakyReLU"),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("used", [False, True], ids=["before the first call", "after a call"])
def test_obstacle(obstacle: str, used: bool) -> None:
    put, name, word = OBSTACLES[obstacle]
    stock, fused = make(name, torch.float64)
    x = image(name, torch.float64)
    with torch.no_grad():
        if used:
            fused(x)
        put(stock)
        put(fused)
        want = stock(x)
        with pytest.warns(FallbackWarning, match=word):
            got = fused(x)
        assert torch.equal(got, want)
        assert word in fused.last_reason
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(fused(x), want), "the warning is given once"


def test_a_removed_hook_lets_the_block_fuse_again() -> None:
    stock, fused = make("fire", torch.float64)
    x = image("fire", torch.float64)
    calls = []
    handle = fused.squeeze.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        with pytest.warns(FallbackWarning, match="squeeze has a hook"):
            fused(x)
        assert calls == [1]
        handle.remove()
        close(fused(x), stock(x), torch.float64)
    assert_fused(fused)
    assert calls == [1]


def test_hooks_on_the_block_itself_fire_once_and_keep_it_fused() -> None:
    stock, fused = make("fire", torch.float64)
    x = image("fire", torch.float64)
    calls = []
    fused.register_forward_pre_hook(lambda _, args: calls.append("pre"))
    fused.register_forward_hook(lambda _, __, y: y * 2)
    with torch.no_grad():
        close(fused(x), 2 * stock(x), torch.float64)
    assert calls == ["pre"]
    assert_fused(fused)


def test_global_hooks_see_every_child() -> None:
    """FLOP counters and profilers hook all modules of the process."""
    _, fused = make("fire", torch.float64)
    x = image("fire", torch.float64)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m).__name__))
    try:
        with torch.no_grad(), pytest.warns(FallbackWarning, match="global module hook"):
            fused(x)
    finally:
        handle.remove()
    assert seen.count("Conv2d") == 3
    with torch.no_grad():
        fused(x)
    assert_fused(fused)


def test_frozen_norms_in_a_training_model_stay_fused() -> None:
    stock, fused = make("inverted_residual", torch.float64)
    x = image("inverted_residual", torch.float64)
    for m in (stock, fused):
        m.train()
        for n in m.modules():
            if isinstance(n, nn.BatchNorm2d):
                n.eval()
    with torch.no_grad():
        close(fused(x), stock(x), torch.float64)
    assert_fused(fused)


def test_dropout_in_training_is_not_skipped() -> None:
    """`drop_rate` of a dense layer acts on the layer's own flag, with its norms frozen too."""
    _, fused = make("dense_block")
    for n in fused.modules():
        n.training = not isinstance(n, nn.BatchNorm2d)
    fused.denselayer1.drop_rate = 0.5
    x = image("dense_block")
    with torch.no_grad():
        with pytest.warns(FallbackWarning, match="dropout"):
            a = fused(x)
        assert not torch.equal(a, fused(x))


def test_no_running_statistics() -> None:
    stock, fused = make("transition")
    for m in (stock, fused):
        m.norm.running_mean = m.norm.running_var = None
    x = image("transition")
    with torch.no_grad(), pytest.warns(FallbackWarning, match="running statistics"):
        assert torch.equal(fused(x), stock(x))


def test_sync_batch_norm_keeps_activation_and_numbers() -> None:
    stock, fused = make("inverted_residual")
    x = image("inverted_residual")
    fused = nn.SyncBatchNorm.convert_sync_batchnorm(fused)
    assert isinstance(fused, FusedModule)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="SyncBatchNorm"):
        assert torch.equal(fused(x), stock(x))
