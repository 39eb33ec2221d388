"""What is fused only beside or behind something fused: max-pools, and the classifier's linear layer."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

import lightops
from lightops.modules import FallbackWarning, FusedModule, Linear
from lightops.networks.squeezenet import Fire

from .nets import make


def _blocks(*pools: nn.Module) -> nn.Sequential:
    layers = [Fire(8, 4, 8, 8), *pools, Fire(16, 4, 8, 8)]
    torch.manual_seed(0)
    for p in nn.Sequential(*layers).parameters():
        nn.init.normal_(p, std=0.3)
    return nn.Sequential(*layers).eval()


def _fused(model: nn.Module, op: str) -> list[str]:
    return [record.name for record in lightops.swap_(model).fused if record.op == op]


def _agree(model: nn.Module, stock: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        for given in (x, x.contiguous(memory_format=torch.channels_last), torch.cat([x, x])):
            for _ in range(3):  # walked, learned, run as a program
                got, want = model(given), stock(given)
                assert got.stride() == want.stride()
                torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert all(m.last_reason is None for m in model.modules() if isinstance(m, FusedModule))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d((3, 2), (1, 2), (1, 0)),
        nn.MaxPool2d(3, 1, 1),
    ],
    ids=str,
)
def test_pool_between_fused_blocks(pool: nn.MaxPool2d) -> None:
    stock = _blocks(pool).double()
    model = copy.deepcopy(stock)
    assert _fused(model, "max_pool2d") == ["1"]
    _agree(model, stock, torch.randn(1, 8, 11, 13, dtype=torch.float64))
    before = [type(m) for m in stock.modules()]
    assert [type(m) for m in lightops.unswap_(model).modules()] == before


def test_program_of_squeezenet_has_the_pools() -> None:
    stock = make("torchvision:squeezenet1_1").double()
    model = copy.deepcopy(stock)
    assert _fused(model, "max_pool2d") == ["features.5", "features.8"]
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    _agree(model, stock, x)
    programs = model.features._programs.values()
    assert programs
    for program in programs:
        ops = [leaf.runner.piece.op for leaf in program._leaves if leaf.runner is not None]
        assert ops.count("max_pool2d") == 2
        assert len(ops) == len(program._leaves)


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(2, return_indices=True), nn.MaxPool2d(2, dilation=2), nn.AvgPool2d(3), nn.LPPool2d(2, 2)],
    ids=str,
)
def test_pools_without_a_fused_form(pool: nn.Module) -> None:
    assert not _fused(_blocks(pool), "max_pool2d")


def test_lone_pools_stay_stock() -> None:
    lone = nn.Sequential(nn.MaxPool2d(2), nn.Sigmoid(), nn.MaxPool2d(2))
    report = lightops.swap_(lone)
    assert not report.fused
    assert not report.declined
    apart = _blocks(nn.Sigmoid(), nn.MaxPool2d(2), nn.Sigmoid())
    assert not _fused(apart, "max_pool2d")


def test_a_pool_edited_after_the_swap() -> None:
    stock = _blocks(nn.MaxPool2d(2)).double()
    model = copy.deepcopy(stock)
    lightops.swap_(model)
    x = torch.randn(1, 8, 12, 12, dtype=torch.float64)
    _agree(model, stock, x)
    for net in (model, stock):
        net[1].kernel_size = 3
    _agree(model, stock, x)
    seen = []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad(), pytest.warns(FallbackWarning, match="1 has a hook"):
        model(x)
    assert seen == [1]


class _Net(nn.Module):
    """Fused features, a functional average, a classifier of any kind under any name."""

    def __init__(self, classifier: nn.Module, name: str = "classifier", channels: int = 16):
        super().__init__()
        self.features = _blocks(nn.MaxPool2d(2), nn.Sequential(nn.Conv2d(16, channels, 1), nn.ReLU())).append(
            nn.Conv2d(16, 800, 1)
        )
        self.last = name
        self.add_module(name, classifier)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.last)(self.features(x).mean((2, 3)))


CLASSIFIERS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "bare": (lambda: nn.Linear(800, 700), ["classifier"]),
    "behind dropout": (lambda: nn.Sequential(nn.Dropout(), nn.Linear(800, 700)), ["classifier.0..1"]),
    "alone in a Sequential": (lambda: nn.Sequential(nn.Linear(800, 700)), ["classifier.0"]),
    "two": (
        lambda: nn.Sequential(nn.Linear(800, 720), nn.Hardswish(), nn.Dropout(), nn.Linear(720, 740)),
        ["classifier.0", "classifier.2..3"],
    ),
    "small": (lambda: nn.Linear(800, 10), []),
    "small in a Sequential": (lambda: nn.Sequential(nn.Dropout(), nn.Linear(800, 10)), []),
    "another class": (lambda: type("Odd", (nn.Linear,), {})(800, 700), []),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifier(kind: str) -> None:
    build, names = CLASSIFIERS[kind]
    stock = _Net(build()).double().eval()
    model = copy.deepcopy(stock)
    report = lightops.swap_(model)
    assert [record.name for record in report.fused if record.op == "head"] == names
    assert not report.declined
    _agree(model, stock, torch.randn(1, 8, 11, 13, dtype=torch.float64))
    modules = list(lightops.unswap_(model).modules())
    assert [type(m) for m in modules] == [type(m) for m in stock.modules()]


@pytest.mark.parametrize(("name", "wanted"), [("classifier", True), ("fc", True), ("embedding", False)])
def test_bare_classifiers_go_by_name(name: str, wanted: bool) -> None:
    model = _Net(nn.Linear(800, 700), name).eval()
    lightops.swap_(model)
    assert isinstance(getattr(model, name), Linear) is wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_classifiers_stay_stock(dtype: torch.dtype) -> None:
    model = _Net(nn.Linear(800, 700)).to(dtype).eval()
    assert not _fused(model, "head")


def test_linear_layers_behind_nothing_fused_stay_stock() -> None:
    for net in (
        nn.Sequential(nn.Linear(800, 700), nn.ReLU(), nn.Linear(700, 800)),
        nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(800, 700)),
    ):
        report = lightops.swap_(net)
        assert not report.fused
        assert not report.declined


def test_filter_keeps_a_classifier() -> None:
    model = _Net(nn.Linear(800, 700)).eval()
    lightops.swap_(model, filter_fn=lambda module, name: name != "classifier")
    assert type(model.classifier) is nn.Linear


def test_swapping_twice_changes_nothing() -> None:
    model = _Net(nn.Linear(800, 700)).eval()
    assert lightops.swap_(model).fused
    before = [id(m) for m in model.modules()]
    assert not lightops.swap_(model).fused
    assert [id(m) for m in model.modules()] == before


def test_an_example_times_pools_and_classifiers() -> None:
    model = _Net(CLASSIFIERS["behind dropout"][0]()).eval()
    report = lightops.swap_(model, torch.randn(1, 8, 24, 24))
    records = {record.name: record.op for record in (*report.fused, *report.declined)}
    assert records["features.1"] == "max_pool2d"
    assert records["classifier.0..1"] == "head"
    assert all("ms" in record.note for record in report.fused if record.op in ("head", "max_pool2d"))


@pytest.mark.parametrize(
    ("net", "names"),
    [
        ("torchvision:mobilenet_v2", ["classifier.0..1"]),
        ("torchvision:mnasnet0_5", ["classifier.0..1"]),
        ("torchvision:densenet121", ["classifier"]),
        ("timm:mobilenetv2_050", ["classifier"]),
        ("timm:densenet121", ["classifier"]),
    ],
)
def test_library_classifiers(net: str, names: list[str]) -> None:
    model = make(net).double()
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        want = model(x)
        report = lightops.swap_(model)
        assert [record.name for record in report.fused if record.op == "head"] == names
        torch.testing.assert_close(model(x), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("flat", [False, True])
def test_linear_behind_layers_that_may_keep_a_map(flat: bool) -> None:
    """As in ConvNeXt's blocks: between convolution and linear layer the map keeps its four dimensions."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    between = [nn.LayerNorm(1024), nn.Flatten()] if flat else [nn.Flatten(2), nn.LayerNorm(1024)]
    model = nn.ModuleDict({"stem": stem, "head": nn.Sequential(*between, nn.Linear(1024, 1024))}).eval()
    named = [record.name for record in lightops.swap_(model).fused if record.op == "head"]
    assert named == (["head.2"] if flat else [])


def test_dilation_that_reaches_beyond_the_map_is_declined() -> None:
    def unit(dilation: int) -> nn.Sequential:
        conv = nn.Conv2d(16, 16, 3, padding=dilation, dilation=dilation, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU())

    report = lightops.swap_(nn.ModuleList([unit(1), unit(2), unit(12)]).eval())
    assert [record.name for record in report.fused] == ["0.0..2", "1.0..2"]
    assert [(r.name, "stock skips the taps" in r.reason) for r in report.declined] == [("2.0..2", True)]
