"""Memory over many steps, failing calls and graphs that nobody uses; bits over repeated steps."""

import copy
import gc
import itertools
import warnings

import pytest
import torch
from torch import nn

import lightops
from lightops.modules import FallbackWarning
from lightops.testing.compare import bitwise_equal
from tests.swap.nets import FAMILIES, small

from ..blocks import CASES, image
from .steps import pair, step

STEPS = 1000
# What is kept at every step grows in every third of the thousand; the allocator's own bookkeeping does so now and then.
_GROWTH = 1 << 16


def _resident() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096


def _tensors() -> int:
    gc.collect()
    return sum(1 for o in gc.get_objects() if isinstance(o, torch.Tensor))


def _run(what, count: int) -> None:
    for i in range(count):
        what(i)


def _step(module: nn.Module, x: torch.Tensor):
    def run(_: int) -> None:
        module.zero_grad()
        module(x).sum().backward()

    return run


def _failing(module: nn.Module, x: torch.Tensor):
    bad = torch.cat((x, x), 1)

    def run(_: int) -> None:
        with pytest.raises((RuntimeError, ValueError)):
            module(bad)

    return run


def _abandoned(module: nn.Module, x: torch.Tensor):
    def run(i: int) -> None:
        module.train(i % 2 == 0)
        module(x)
        module.train()

    return run


KINDS = {"steps": _step, "failing calls": _failing, "graphs without a backward": _abandoned}


@pytest.mark.unsanitized
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dense_block", "inverted_residual", "fire", "stem", "transition", "sequential"])
def test_nothing_is_kept(name: str, kind: str) -> None:
    """Neither tensors nor memory: a thousand after a warm-up of three hundred."""
    _, fused = pair(name, torch.float32)
    run = KINDS[kind](fused, image(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        _run(run, 300)
        tensors, resident = _tensors(), [_resident()]
        for _ in range(3):
            _run(run, STEPS // 3 + 1)
            resident.append(_resident())
    assert _tensors() <= tensors
    assert min(after - before for before, after in itertools.pairwise(resident)) < _GROWTH


@pytest.mark.parametrize("name", CASES)
def test_a_step_gives_the_same_bits_again(name: str) -> None:
    _, fused = pair(name, torch.float32)
    x, state = image(name), copy.deepcopy(fused.state_dict())
    first = step(fused, x)
    for _ in range(5):
        fused.load_state_dict(state)
        again = step(fused, x)
        assert bitwise_equal(again.output, first.output)
        for key, g in first.grads.items():
            assert bitwise_equal(again.grads[key], g), key
        for key, t in first.state.items():
            assert torch.equal(again.state[key], t), key


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_and_deterministic_mode_change_no_bit(family: str) -> None:
    model = small(family).train()
    if family == "densenet":
        model.features.norm5 = nn.Identity()  # a norm alone stays stock, whose sums depend on threads
    lightops.swap_(model)
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    # What follows the features is stock.
    fused = model.features
    before = torch.get_num_threads()
    outcomes = []
    try:
        for threads, deterministic in ((1, False), (2, False), (2, True), (3, False)):
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            model.load_state_dict(state)
            outcomes.append(step(fused, x))
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(False)
    for other in outcomes[1:]:
        for key, g in outcomes[0].grads.items():
            assert bitwise_equal(other.grads[key], g), key
