"""Blocks of unknown class: recognised by structure, proven, and declined where they compute something else."""

import copy

import pytest
import torch
from torch import Tensor, nn

import lightops
from lightops.testing.compare import check_network

from .nets import untrivial
from .strangers import STRANGERS


class Wrapper(nn.Module):
    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) * 2


def test_blocks_are_proven_in_inference_mode_too() -> None:
    model = Wrapper(STRANGERS["separable"][0]().eval())
    with torch.inference_mode():
        report = lightops.swap_(model)
    assert [(r.name, r.op) for r in report.fused] == [("block", "depthwise_pointwise")], report


def test_blocks_without_storage_are_proven_too() -> None:
    with torch.device("meta"):
        model = Wrapper(STRANGERS["separable"][0]().eval())
    report = lightops.swap_(model)
    assert [(r.name, r.op) for r in report.fused] == [("block", "depthwise_pointwise")], report
    assert all(p.is_meta for p in model.parameters())
    model.load_state_dict(untrivial(Wrapper(STRANGERS["separable"][0]())).state_dict(), assign=True)
    x = torch.randn(2, 16, 9, 12)
    stock = lightops.unswap_(copy.deepcopy(model))
    with torch.no_grad():
        torch.testing.assert_close(model(x), stock(x), rtol=1e-4, atol=1e-5)
    assert model.block.last_reason is None


@pytest.mark.parametrize("root", [False, True], ids=["child", "root"])
@pytest.mark.parametrize("name", STRANGERS)
def test_stranger(name: str, root: bool) -> None:
    make, channels, ops, reason = STRANGERS[name]
    block = untrivial(make()).eval().double()
    model = block if root else Wrapper(block)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modules = dict(model.named_modules())
    cls = type(model)
    x = torch.randn(2, channels, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = model(x.clone())
        report = lightops.swap_(model)
        assert sorted(r.op for r in report.fused) == sorted(ops), report
        assert [reason in r.reason for r in report.declined] == ([True] if reason else []), report
        for _ in range(2):
            got = model(x.clone())
            check_network(got, want)
            assert got.stride() == want.stride()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    lightops.unswap_(model)
    assert type(model) is cls
    assert all(module is modules[name] for name, module in model.named_modules())
    with torch.no_grad():
        assert torch.equal(model(x.clone()), want)
