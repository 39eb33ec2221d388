"""Nothing stale: whatever is done to parameters, statistics or attributes, the next call computes with it."""

import copy
import warnings

import pytest
import torch
from torch import nn

from lightops.modules import FallbackWarning

from .blocks import CASES, assert_fused, close, image, make


def _convs(m: nn.Module) -> list[nn.Conv2d]:
    return [c for c in m.modules() if isinstance(c, nn.Conv2d)]


def _norms(m: nn.Module) -> list[nn.BatchNorm2d]:
    return [c for c in m.modules() if isinstance(c, nn.BatchNorm2d)]


def in_place(m: nn.Module) -> None:
    for p in m.parameters():
        p.mul_(1.25)


def one_element(m: nn.Module) -> None:
    for c in _convs(m):
        c.weight[-1, 0, 0, 0] += 1


def through_data(m: nn.Module) -> None:
    """What old optimizers and EMA codes do; no version is counted."""
    for p in m.parameters():
        p.data.mul_(0.5).add_(0.01)


def through_numpy(m: nn.Module) -> None:
    for p in m.parameters():
        p.detach().numpy()[...] *= 1.5


def data_swapped(m: nn.Module) -> None:
    for p in m.parameters():
        p.data = p.data * 0.75


def data_swapped_twice(m: nn.Module) -> None:
    """The second swap may be given the address the first one freed."""
    for p in m.parameters():
        p.data = p.data * 0.75
        p.data = p.data * 1.5


def parameter_replaced(m: nn.Module) -> None:
    for c in _convs(m):
        c.weight = nn.Parameter(c.weight * 1.5)


def child_replaced(m: nn.Module) -> None:
    for parent in list(m.modules()):
        for key, child in parent._modules.items():
            if isinstance(child, nn.BatchNorm2d):
                new = copy.deepcopy(child)
                new.load_state_dict({k: v * 0.5 for k, v in child.state_dict().items()})
                setattr(parent, key, new)


def statistics(m: nn.Module) -> None:
    for n in _norms(m):
        n.running_mean.add_(0.5)
        n.running_var.mul_(1.5)


def statistics_reset(m: nn.Module) -> None:
    for n in _norms(m):
        n.reset_running_stats()


def eps(m: nn.Module) -> None:
    for n in _norms(m):
        n.eps = 0.3


def loaded(m: nn.Module) -> None:
    m.load_state_dict({k: v * 0.7 if v.is_floating_point() else v for k, v in m.state_dict().items()})


def assigned(m: nn.Module) -> None:
    state = {k: v * 0.7 if v.is_floating_point() else v for k, v in m.state_dict().items()}
    m.load_state_dict(state, assign=True)


def channels_last(m: nn.Module) -> None:
    m.to(memory_format=torch.channels_last)


def bias_added(m: nn.Module) -> None:
    for c in _convs(m):
        if c.bias is not None:
            c.bias = nn.Parameter(torch.full_like(c.bias, 0.3))


def norm_to_training_and_back(m: nn.Module) -> None:
    x = image_of(m)
    m.train()
    m(x)
    m.eval()


EDITS = [
    in_place, one_element, through_data, through_numpy, data_swapped, data_swapped_twice, parameter_replaced,
    child_replaced, statistics, statistics_reset, eps, loaded, assigned, channels_last, bias_added,
    norm_to_training_and_back,
]  # fmt: skip


# What an edit needs to find in a block to make a difference.
TOUCHES = {
    one_element: nn.Conv2d,
    parameter_replaced: nn.Conv2d,
    child_replaced: nn.BatchNorm2d,
    statistics: nn.BatchNorm2d,
    statistics_reset: nn.BatchNorm2d,
    eps: nn.BatchNorm2d,
    norm_to_training_and_back: nn.BatchNorm2d,
}


def image_of(m: nn.Module) -> torch.Tensor:
    first = next(c for c in m.modules() if isinstance(c, nn.Conv2d | nn.BatchNorm2d | nn.Linear))
    channels = getattr(first, "in_channels", None) or getattr(first, "num_features", None) or first.in_features
    x = torch.randn(2, channels, 12, 16, generator=torch.Generator().manual_seed(5))
    return x.to(next(m.parameters()).dtype)


@pytest.mark.parametrize("edit", EDITS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", [n for n in CASES if n != "max_pool2d"])  # which has no parameters
def test_edit_is_seen(name: str, edit) -> None:
    stock, fused = make(name, torch.float64)
    x = image(name, torch.float64)
    with torch.no_grad():
        before = stock(x)
        fused(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            edit(stock)
            edit(fused)
        want, got = stock(x), fused(x)
    close(got, want, torch.float64)
    assert_fused(fused)
    if any(isinstance(m, TOUCHES.get(edit, nn.Module)) for m in stock.modules()):
        assert edit in (channels_last, bias_added) or not torch.allclose(want, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_dtype_change_after_use(name: str, dtype: torch.dtype) -> None:
    stock, fused = make(name)
    x = image(name)
    with torch.no_grad():
        fused(x)
        stock.to(dtype)
        fused.to(dtype)
        got, want = fused(x.to(dtype)), stock(x.to(dtype))
    assert_fused(fused)
    close(got, want, dtype)


def test_a_point_edit_through_data_at_an_unsampled_word_is_the_documented_limit() -> None:
    """Pins what `FusedModule` says of writes PyTorch cannot see: a whole-tensor one is found, a point edit need
    not be.
    """
    _, fused = make("conv1x1_bn_act", torch.float64)
    runner = fused._runners[0]
    x = image("conv1x1_bn_act", torch.float64)
    with torch.no_grad():
        fused(x)
        sampled = {(id(view), i) for view, i, _ in runner.state.guard.samples}
        assert 0 < len(sampled) < sum(p.numel() for p in fused.parameters())


@pytest.mark.parametrize("how", ["made", "cast", "copied"])
def test_parameters_from_inference_mode_are_left_to_stock(how: str) -> None:
    """They count no versions, so nothing derived from them may be kept; the reason says what to do."""
    stock, fused = make("fire", torch.float64)
    x = image("fire", torch.float64)
    with torch.inference_mode():
        fused(x)
        if how == "made":
            for m in (stock, fused):
                for c in _convs(m):
                    c.weight = nn.Parameter(c.weight.clone(), requires_grad=False)
        elif how == "cast":
            fused.float().double()
            stock.float().double()
        else:
            fused = copy.deepcopy(fused)
        with pytest.warns(FallbackWarning, match=r"outside torch\.inference_mode"):
            assert torch.equal(fused(x), stock(x))
        for m in (stock, fused):
            _convs(m)[0].weight[-1, -1] += 1
        assert torch.equal(fused(x), stock(x))


def test_packed_inside_inference_mode_is_usable_outside() -> None:
    stock, fused = make("fire", torch.float64)
    x = image("fire", torch.float64)
    with torch.inference_mode():
        fused(x)
    with torch.no_grad():
        close(fused(x), stock(x), torch.float64)
    for p in fused.parameters():
        p.requires_grad_(False)
    got = fused(x)
    assert not got.is_inference()
    assert_fused(fused)
