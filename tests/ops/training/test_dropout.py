"""`dropout` against `F.dropout`: the same bits, the generator left in the same state."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lightops
from lightops.modules._flow import apply_dropout
from lightops.ops import training
from tests.ops.training.oracle import ISAS, isa

module = importlib.import_module("lightops.ops.training.dropout")
pytestmark = pytest.mark.skipif(
    training.explain_dropout(torch.ones(4096), 0.5) == "PyTorch draws in another way on this machine",
    reason="PyTorch draws in another way on this machine",
)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("count", "p", "before"), [(1, 0.5, 0), (311, 0.1, 1), (312, 0.9, 0), (313, 0.3, 623), (5001, 0.25, 3)]
)
def test_draws_what_torch_draws(name, dtype, count, p, before):
    ours, theirs = (torch.Generator().manual_seed(11) for _ in range(2))
    for generator in (ours, theirs):
        torch.empty(before).uniform_(generator=generator)
    with isa(name):
        for _ in range(2):
            noise = torch.empty(count, dtype=dtype)
            module.draw_noise_(noise, p, ours)
            assert torch.equal(noise, torch.empty(count, dtype=dtype).bernoulli_(1 - p, generator=theirs).div_(1 - p))
            assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_same_bits_and_gradient(layout):
    x = torch.randn(2, 24, 11, 13).contiguous(memory_format=layout)
    x[0, 0, 0, 0], x[0, 1, 0, 0] = float("inf"), float("nan")
    assert training.explain_dropout(x, 0.3) == ""
    results = []
    for drop in (training.dropout, F.dropout):
        torch.manual_seed(7)
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = drop(leaf, 0.3)
        out.nansum().backward()
        results.append((out.detach(), leaf.grad, torch.get_rng_state()))
    for got, want in zip(*results, strict=True):
        assert torch.equal(got.nan_to_num(3), want.nan_to_num(3)) if got.is_floating_point() else torch.equal(got, want)
        assert got.stride() == want.stride()


def test_what_is_left_to_torch(monkeypatch):
    x = torch.randn(8, 16, 9, 9)
    assert "too little" in training.explain_dropout(x[:1], 0.5)
    assert "too little" in training.explain_dropout(x, 1.0)
    assert training.explain_dropout(x.transpose(2, 3), 0.5) == "neither contiguous nor channels_last"
    with torch.autocast("cpu", torch.bfloat16):
        assert "plain" in training.explain_dropout(x, 0.5)
    monkeypatch.setattr(module, "_draws_alike", lambda: False)
    assert "another way" in training.explain_dropout(x, 0.5)
    torch.manual_seed(5)
    want = F.dropout(x, 0.5)
    torch.manual_seed(5)
    assert torch.equal(training.dropout(x, 0.5), want)


def test_errors():
    state = torch.Generator().get_state()
    with pytest.raises(RuntimeError, match=r"dropout_noise_: 'state' has shape"):
        torch.ops.lightops.dropout_noise_(torch.empty(8), state[:100], 0.5, 2.0)
    with pytest.raises(RuntimeError, match=r"dropout_noise_: 'keep' is 1.5"):
        torch.ops.lightops.dropout_noise_(torch.empty(8), state, 1.5, 2.0)


def test_opcheck():
    state = torch.Generator().get_state()
    torch.library.opcheck(torch.ops.lightops.dropout_noise_.default, (torch.empty(700), state, 0.5, 2.0))


def test_swapped_networks_drop_what_stock_drops():
    def losses(swap: bool) -> list[float]:
        torch.manual_seed(0)
        model = lightops.networks.squeezenet1_1(num_classes=10).double().train()
        if swap:
            lightops.swap_(model)
        x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        return [model(x).sum().item() for _ in range(2)]

    assert losses(True) == pytest.approx(losses(False), rel=1e-9)


def test_hooked_dropout_is_called():
    seen = []
    drop = nn.Dropout(0.5)
    drop.register_forward_hook(lambda *_: seen.append(1))
    apply_dropout(drop, torch.randn(8192))
    assert seen
