"""The report, strict, filters, options, and the ways to say no."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import lightops
from lightops.modules import FallbackWarning, FusedModule
from lightops.swap import SwapError

from .nets import FAMILIES, small, torchvision


def test_report_prints_a_table() -> None:
    model = small("squeezenet")
    model.features[3].squeeze.register_forward_hook(lambda *_: None)
    report = lightops.swap_(model)
    text = str(report)
    assert text.splitlines()[0].split() == ["module", "op", "backend"]
    assert "features.4" in text
    assert "declined: squeeze has a hook" in text
    assert text.endswith(f"{len(report.fused)} fused, 1 declined")
    record = next(r for r in report.fused if r.name == "features.4")
    assert (record.op, record.backend) == ("fire", "cpu")
    assert report.declined[0].name == "features.3"


def test_records_are_in_model_order() -> None:
    model = small("densenet")
    names = [r.name for r in lightops.swap_(model).fused]
    assert names == ["features.conv0..pool0", "features.denseblock1", "features.transition1", "features.denseblock2"]


@pytest.mark.parametrize("family", FAMILIES)
def test_explain_changes_nothing_and_says_the_same(family: str) -> None:
    model = small(family)
    before = [(n, id(m)) for n, m in model.named_modules()]
    said = lightops.explain(model)
    assert [(n, id(m)) for n, m in model.named_modules()] == before
    assert said.fused == lightops.swap_(model).fused


def test_explain_of_a_swapped_model_gives_the_last_reason() -> None:
    model = small("squeezenet")
    lightops.swap_(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        handle = model.features[3].squeeze.register_forward_hook(lambda *_: None)
        model(torch.randn(1, 3, 64, 64))
        handle.remove()
    notes = {r.name: r.note for r in lightops.explain(model).fused}
    assert "squeeze has a hook" in notes["features.3"]
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    notes = {r.name: r.note for r in lightops.explain(model).fused}
    assert not notes["features.3"]


def test_filter() -> None:
    model = small("squeezenet")
    report = lightops.swap_(model, filter_fn=lambda module, name: name != "features.4")
    assert "features.4" not in [r.name for r in report.fused]
    assert "features.3" in [r.name for r in report.fused]
    assert not isinstance(model.features[4], FusedModule)
    seen = []
    lightops.explain(small("squeezenet"))
    lightops.swap_(small("squeezenet"), filter_fn=lambda m, n: seen.append((type(m).__name__, n)) or False)
    assert ("Fire", "features.3") in seen
    assert ("Conv2d", "features.3.squeeze") in seen


def _hook(block: nn.Module) -> None:
    block.squeeze.register_forward_hook(lambda *_: None)


def _parametrized(block: nn.Module) -> None:
    parametrize.register_parametrization(block.squeeze, "weight", nn.Identity())


def _group_norm(block: nn.Module) -> None:
    block.squeeze = nn.Sequential(block.squeeze, nn.GroupNorm(2, 16))


def _leaky(block: nn.Module) -> None:
    block.expand3x3_activation = nn.LeakyReLU()


def _padding_mode(block: nn.Module) -> None:
    block.expand3x3 = nn.Conv2d(16, 64, 3, padding=1, padding_mode="circular")


def _odd_padding(block: nn.Module) -> None:
    block.expand3x3.padding = (2, 2)


def _groups(block: nn.Module) -> None:
    block.expand3x3 = nn.Conv2d(16, 64, 3, padding=1, groups=2)


def _subclass(block: nn.Module) -> None:
    class Conv(nn.Conv2d):
        pass

    block.expand3x3 = Conv(16, 64, 3, padding=1)


def _integers(block: nn.Module) -> None:
    block.to(torch.float8_e4m3fn)


OBSTACLES = {
    "hook": (_hook, "squeeze has a hook"),
    "parametrization": (_parametrized, "parametrised"),
    "group norm": (_group_norm, "squeeze is Sequential, not Conv2d"),
    "leaky": (_leaky, "LeakyReLU, which has no fused form"),
    "padding mode": (_padding_mode, "padding_mode='circular'"),
    "odd padding": (_odd_padding, "stride 1 and padding 1"),
    "groups": (_groups, "3x3 convolution"),
    "subclass": (_subclass, "expand3x3 is Conv, not Conv2d"),
    "dtype": (_integers, "float8"),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_declined_with_reason(obstacle: str) -> None:
    put, words = OBSTACLES[obstacle]
    model = small("squeezenet")
    put(model.features[3])
    report = lightops.swap_(model)
    assert [(r.name, words in r.reason) for r in report.declined] == [("features.3", True)], report
    assert type(model.features[3]).__name__ == "Fire"
    assert not isinstance(model.features[3], FusedModule)


NORMS = {
    "SyncBatchNorm": nn.SyncBatchNorm,
    "GroupNorm": lambda c: nn.GroupNorm(1, c),
    "InstanceNorm2d": nn.InstanceNorm2d,
    "LazyBatchNorm2d": lambda c: nn.LazyBatchNorm2d(),
    "FrozenBatchNorm2d": lambda c: torchvision.ops.FrozenBatchNorm2d(c),
    "MyNorm": type("MyNorm", (nn.BatchNorm2d,), {}),
}


@pytest.mark.parametrize("norm", NORMS)
def test_other_norms_are_declined(norm: str) -> None:
    model = small("densenet")
    layer = model.features.denseblock1.denselayer2
    layer.norm1 = NORMS[norm](layer.norm1.num_features).eval()
    reasons = {r.name: r.reason for r in lightops.swap_(model).declined}
    # A lazy one has a hook that makes its parameters at the first call.
    words = "has a hook" if norm.startswith("Lazy") else f"is {norm}, not BatchNorm2d"
    assert f"denselayer2.norm1 {words}" in reasons["features.denseblock1"]


def test_strict_raises_and_changes_nothing() -> None:
    model = small("squeezenet")
    _hook(model.features[3])
    before = [(n, id(m)) for n, m in model.named_modules()]
    with pytest.raises(SwapError, match="squeeze has a hook"):
        lightops.swap_(model, strict=True)
    assert [(n, id(m)) for n, m in model.named_modules()] == before
    lightops.swap_(small("squeezenet"), strict=True)


def test_no_match() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    report = lightops.swap_(model)
    assert not report.fused
    assert not report.declined
    assert str(report).endswith("0 fused, 0 declined")
    with pytest.raises(SwapError, match="nothing was recognised"):
        lightops.swap_(model, strict=True)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"argument 'model' got int, wants a torch\.nn\.Module"):
        lightops.swap_(3)
    with pytest.raises(ValueError, match="argument 'winograd' got 3"):
        lightops.swap_(small("squeezenet"), winograd=3)
    with pytest.raises(TypeError, match="argument 'example' got list"):
        lightops.swap_(small("squeezenet"), [1])


@pytest.mark.parametrize("family", FAMILIES)
def test_example_times_each_block(family: str) -> None:
    model = small(family).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    report = lightops.swap_(model, torch.randn(1, 3, 64, 64))
    assert all("ms, stock" in r.note for r in report.fused), report
    assert all("slower on this machine" in r.reason for r in report.declined)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), "statistics are not touched"
    assert all(model.get_submodule(n).training for n, _ in model.named_modules())
    assert all(flags)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_lone_block_is_timed_with_its_conversions(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightops.swap import measure

    class Lone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x)

    given: list[torch.Tensor] = []

    def times(runs: dict, device: torch.device) -> dict[str, float]:
        given.append(runs["cpu"].args[-1])
        return {"stock": 2.0, "cpu": 1.0}

    monkeypatch.setattr(measure, "_times", times)
    x = torch.randn(1, 8, 5, 6)
    lightops.swap_(Lone().eval(), x)
    lightops.swap_(nn.Sequential(Lone().block, nn.Conv2d(12, 9, 1), nn.ReLU()).eval(), x)
    assert [x.is_contiguous() for x in given] == [True, False, False]


def test_example_leaves_out_what_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightops.swap import measure

    times = iter([{"stock": 1.0, "cpu": 2.0}, {"stock": 2.0, "cpu": 1.0}] * 50)
    monkeypatch.setattr(measure, "_times", lambda runs, device: next(times))
    model = small("squeezenet")
    kinds = {r.name for r in lightops.explain(model).fused}
    report = lightops.swap_(model, torch.randn(1, 3, 64, 64))
    declined = {r.name for r in report.declined}
    assert declined
    assert {r.name for r in report.fused} == kinds - declined
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        got = model(x)
        lightops.unswap_(model)
        torch.testing.assert_close(got, model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("winograd", [0, 2, 4])
def test_winograd_reaches_the_blocks(winograd: int) -> None:
    model = small("squeezenet")
    lightops.swap_(model, winograd=winograd)
    assert {r.winograd for m in model.modules() if isinstance(m, FusedModule) for r in m._runners} == {winograd}


def _in_new_process(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


_PROGRAM = """
import torch, lightops
from lightops import networks
m = networks.squeezenet1_1(num_classes=4).eval()
x = torch.randn(1, 3, 64, 64)
with torch.no_grad():
    want = m(x)
    r = lightops.swap_(m)
    close = torch.allclose(m(x), want, atol=1e-4)
    print(len(r.fused), {d.reason for d in r.declined}, {f.backend for f in r.fused}, close)
"""


def test_disable_turns_everything_off() -> None:
    assert _in_new_process(_PROGRAM, LIGHTOPS_DISABLE="1").strip() == "0 {'LIGHTOPS_DISABLE is set'} set() True"


def test_backend_reference_by_name() -> None:
    assert _in_new_process(_PROGRAM, LIGHTOPS_BACKEND="reference").strip() == "13 set() {'reference'} True"


def test_the_reason_names_the_layers() -> None:
    """A block of a known class without any run says of each layer what keeps it out of one."""
    block = torchvision.models.resnet.BasicBlock(12, 12)
    block.conv1 = nn.Conv2d(12, 12, 3, padding=1, groups=3, bias=False)
    block.conv2 = nn.Conv2d(12, 12, 3, padding=1, padding_mode="reflect", bias=False)
    report = lightops.swap_(nn.Sequential(block, nn.Identity()).eval())
    assert [record.name for record in report.declined] == ["0"]
    assert report.declined[0].reason == (
        "conv1 is a grouped 3x3 convolution (3 groups), which has no fused form; conv2 has padding_mode='reflect'"
    )
