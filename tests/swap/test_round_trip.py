"""A swap is invisible from outside and undone without a trace."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

import lightops
from lightops.modules import FallbackWarning, FusedModule, FusedSequential
from lightops.modules._runner import Runner
from lightops.testing.compare import check_network

from .nets import FAMILIES, small


def _image(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def _fingerprint(model: nn.Module) -> dict:
    """Everything of a model that a swap and its undoing must leave alone, by identity where there is one."""
    return {
        "modules": [(n, id(m), type(m), m.training) for n, m in model.named_modules(remove_duplicate=False)],
        "dicts": [(n, id(m._modules), id(m._parameters), id(m._buffers)) for n, m in model.named_modules()],
        "parameters": [
            (n, id(p), p.requires_grad, p.dtype, p.stride(), p._version, p.data_ptr())
            for n, p in model.named_parameters()
        ],
        "buffers": [(n, id(b), b._version, b.data_ptr()) for n, b in model.named_buffers()],
        "hooks": [(n, list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in model.named_modules()],
        "attributes": [
            (n, {k: v for k, v in m.__dict__.items() if isinstance(v, int | float | str | bool)})
            for n, m in model.named_modules()
        ],
        "state": list(model.state_dict()),
        "metadata": dict(model.state_dict()._metadata),
        "repr": repr(model),
    }


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("family", FAMILIES)
def test_swap_and_back_leaves_nothing(family: str, mode: bool) -> None:
    model = small(family).train(mode)
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    next(model.children()).register_forward_pre_hook(lambda *_: None)
    model.to(memory_format=torch.channels_last)
    before = _fingerprint(model)
    report = lightops.swap_(model)
    assert report.fused
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        model.eval()(_image())
        model.train(mode)
    assert lightops.unswap_(model) is model
    assert _fingerprint(model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_swapping_twice_changes_nothing(family: str) -> None:
    model = small(family)
    lightops.swap_(model)
    before = _fingerprint(model)
    report = lightops.swap_(model)
    assert not report.fused
    assert _fingerprint(model) == before


def test_changes_made_while_swapped_survive_the_way_back() -> None:
    model = small("squeezenet")
    lightops.swap_(model)
    handle = model.features[3].register_forward_hook(lambda _, __, y: y * 2)
    model.features[4].squeeze = nn.Conv2d(128, 16, 1)
    model.classifier[1] = nn.Conv2d(512, 3, 1)
    model.features[6].train()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        want = model(_image())
    lightops.unswap_(model)
    assert handle.id in model.features[3]._forward_hooks
    assert model.features[6].training
    with torch.no_grad():
        got = model(_image())
    assert got.shape == (2, 3)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoints_load_both_ways(family: str) -> None:
    stock, swapped = small(family), small(family)
    lightops.swap_(swapped)
    for p in stock.parameters():
        p.data.mul_(1.1)
    with torch.no_grad():
        swapped(_image())
        swapped.load_state_dict(stock.state_dict(), strict=True)
        torch.testing.assert_close(swapped(_image()), stock(_image()), rtol=1e-3, atol=1e-4)
        swapped.features[0].apply(lambda m: nn.init.normal_(m.weight, std=0.1) if isinstance(m, nn.Conv2d) else None)
        stock.load_state_dict(swapped.state_dict(), strict=True)
        torch.testing.assert_close(swapped(_image()), stock(_image()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_optimizer_made_before_the_swap_stays_right(family: str) -> None:
    stock, swapped = small(family).double(), small(family).double()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (stock, swapped)]
    lightops.swap_(swapped)
    target = torch.tensor([1, 7])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        for _ in range(2):
            for model, optimizer in zip((stock, swapped), optimizers, strict=True):
                model.train()
                torch.manual_seed(0)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(_image().double()), target).backward()
                optimizer.step()
    for (key, a), (_, b) in zip(stock.state_dict().items(), swapped.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=key)
    with torch.no_grad():
        x = _image().double()
        check_network(swapped.eval()(x), stock.eval()(x))


def _fused_calls(model: nn.Module) -> None:
    reasons = {n: m.last_reason for n, m in model.named_modules() if isinstance(m, FusedModule) and m.last_reason}
    assert not reasons


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_of_a_swapped_model(family: str) -> None:
    model = small(family)
    lightops.swap_(model)
    with torch.no_grad():
        want = model(_image())
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
            assert torch.equal(twin(_image()), want)
            _fused_calls(twin)
            lightops.unswap_(twin)
            assert not any(isinstance(m, FusedModule) for m in twin.modules())
            torch.testing.assert_close(twin(_image()), want, rtol=1e-3, atol=1e-4)
        _fused_calls(model)


def test_an_ema_copy_follows_its_updates() -> None:
    """Written the way EMA codes do it: through `.data`, in evaluation, between two forwards."""
    stock, model = small("mobilenet"), small("mobilenet")
    lightops.swap_(model)
    ema, stock_ema = copy.deepcopy(model), copy.deepcopy(stock)
    with torch.no_grad():
        for step in range(3):
            for p in (*model.parameters(), *stock.parameters()):
                p.mul_(1 + 0.1 * step)
            for average, source in ((ema, model), (stock_ema, stock)):
                for p, q in zip(average.parameters(), source.parameters(), strict=True):
                    p.data.mul_(0.5).add_(q.data, alpha=0.5)
            torch.testing.assert_close(ema(_image()), stock_ema(_image()), rtol=1e-3, atol=1e-4)
    _fused_calls(ema)


def test_averaged_model_of_torch() -> None:
    model = small("squeezenet")
    lightops.swap_(model)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        averaged(_image())
        for p in model.parameters():
            p.mul_(0.9)
        averaged.update_parameters(model)
        averaged.update_parameters(model)
        stock = small("squeezenet")
        stock.load_state_dict(averaged.module.state_dict())
        torch.testing.assert_close(averaged(_image()), stock(_image()), rtol=1e-3, atol=1e-4)


def test_sharing_one_block_under_two_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            fire = small("squeezenet").features[4]
            self.a = self.b = fire
            self.c = nn.Sequential(fire, fire)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.a(x)))

    model = Twice().eval()
    x = torch.randn(1, 128, 9, 9)
    fire = model.a
    with torch.no_grad():
        want = model(x)
        lightops.swap_(model)
        assert model.a is model.b is model.c[0] is model.c[1]
        assert isinstance(model.a, FusedModule)
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-4)
        lightops.unswap_(model)
    assert model.a is model.b is model.c[0] is model.c[1] is fire


def test_layout_outside_follows_stock() -> None:
    for family in FAMILIES:
        stock, model = small(family), small(family)
        lightops.swap_(model)
        seen: list[tuple] = []
        for m in (stock, model):
            m.features.register_forward_hook(lambda _, args, y, seen=seen: seen.append((args[0].stride(), y.stride())))
        with torch.no_grad():
            for x in (_image(), _image().to(memory_format=torch.channels_last)):
                stock(x)
                model(x)
                assert seen[-1] == seen[-2], family
            for m in (stock, model):
                m.to(memory_format=torch.channels_last)
                m(_image())
            assert seen[-1] == seen[-2], family


def test_dtype_changes_after_the_swap() -> None:
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.bfloat16, 0.1)):
        stock, model = small("densenet"), small("densenet")
        lightops.swap_(model)
        with torch.no_grad():
            model(_image())
            stock.to(dtype)
            model.to(dtype)
            x = _image().to(dtype)
            want = stock(x)
            torch.testing.assert_close(model(x), want, rtol=tolerance, atol=tolerance * want.abs().max().item())
        _fused_calls(model)


def test_sync_batch_norm_conversion_after_the_swap() -> None:
    stock, model = small("mobilenet"), small("mobilenet")
    lightops.swap_(model)
    with torch.no_grad():
        model(_image())
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            assert torch.equal(model(_image()), stock(_image()))
    reasons = {m.last_reason for m in model.modules() if isinstance(m, FusedModule)} - {None}
    assert reasons
    assert all("SyncBatchNorm" in reason for reason in reasons)


def test_feature_views_outlive_the_forward() -> None:
    """What a hook keeps is not written by the next batch, and editing it does not reach the model's result."""
    stock, model = small("densenet"), small("densenet")
    lightops.swap_(model)
    with torch.no_grad():
        model(_image())
        kept: list[torch.Tensor] = []
        for m in (stock, model):
            m.features.transition1.register_forward_hook(lambda _, __, y, kept=kept: kept.append(y))
            m.features.denseblock1.register_forward_hook(lambda _, __, y, kept=kept: kept.append(y))
        stock(_image())
        want = model(_image()).clone()
        copies = [t.clone() for t in kept[2:]]
        model(torch.zeros(2, 3, 64, 64))
        for kept_now, was, stock_was in zip(kept[2:4], copies, kept[:2], strict=True):
            assert torch.equal(kept_now, was)
            torch.testing.assert_close(kept_now, stock_was, rtol=1e-3, atol=1e-3)
        for t in kept:
            t.zero_()
        torch.testing.assert_close(model(_image()), want, rtol=1e-4, atol=1e-4)


def test_in_place_edits_between_producer_and_block_act_as_in_stock() -> None:
    stock, model = small("densenet"), small("densenet")
    lightops.swap_(model)
    with torch.no_grad():
        model(_image())
        for m in (stock, model):
            m.features.transition1.register_forward_hook(lambda _, __, y: y.mul_(0.5))
            m.features.denseblock1.register_forward_pre_hook(lambda _, args: (args[0].add_(0.1),))
        torch.testing.assert_close(model(_image()), stock(_image()), rtol=1e-3, atol=1e-3)


def test_rooms_are_used_and_claimed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("densenet")
    lightops.swap_(model)
    assert isinstance(model.features, FusedSequential)
    seen: list[torch.Tensor] = []
    produce = Runner.run_into_room
    monkeypatch.setattr(Runner, "run_into_room", lambda *args: seen.append(produce(*args)) or seen[-1])
    with torch.no_grad():
        want = model(_image())
        for _ in range(3):
            seen.clear()
            assert torch.equal(model(_image()), want)
            # The stem's input and the first block's buffer would be the largest pair of tensors: that block copies.
            assert len(seen) == 1, "the transition writes into the second block's buffer"
            assert all(not prefix._lightops_room for prefix in seen), "and the blocks took them"
        x = seen[0]
        again, twice = model.features.denseblock2(x), model.features.denseblock2(x)
    assert torch.equal(again, twice)
    assert len({t.data_ptr() for t in (again, twice, x)}) == 3
