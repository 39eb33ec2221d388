"""Whole networks in training, stock against swapped, in float64 (tier T3): output, input gradient, every parameter's
gradient and every buffer over three SGD steps.
"""

import pytest
import torch
from torch import nn

from lightops import networks
from lightops.networks.published import FAMILIES

from .nets import make, untrivial
from .test_networks import LONG, NETWORKS
from .train_oracle import assert_trains_alike

# Those that `make test` runs: one or two of each family and library.
QUICK = (
    "torchvision:densenet121",
    "torchvision:squeezenet1_1",
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_small",
    "torchvision:mnasnet0_5",
    "torchvision:resnet18",
    "timm:resnetv2_18",
    "timm:densenet121",
    "timm:mobilenetv1_100",
    "timm:mobilenetv2_100",
    "timm:lcnet_050",
    "timm:mobilenetv4_conv_small",
    "timm:tinynet_e",
)
# Many batch norms over 1x1 maps, one after the other: of three images a last digit of the input moves efficientvit_m0's
# answer by 1.7e-10 of its largest value, stock and swapped are 3e-10 apart; of sixteen 1.5e-13 and 4e-13. With three
# images ghostnetv3_050's first gradient is off by three times the limit.
FEW_VALUES = ("timm:efficientvit_m0", "timm:ghostnetv3_050")
LIBRARIES = [name for name in NETWORKS | LONG if ":" in name and name.split(":")[0] in ("torchvision", "timm")]

# Rows differ in figures and sources; a configuration is trained once.
PUBLISHED = list(
    {(row.name, *map(str, row.kwargs.items())): row for rows in FAMILIES.values() for row in rows}.values()
)
QUICK_PUBLISHED = {"mobilenet_v1", "mobilenet_v2", "squeezenet1_0", "squeezenet1_1", "densenet121"}


def _inputs(channels: int, resolution: int, n: int):
    def make_input(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        return torch.randn(n, channels, resolution, resolution, dtype=torch.float64, generator=generator)

    return make_input


def _cases(names, quick) -> list:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", _cases(LIBRARIES, QUICK))
def test_library_network(name: str) -> None:
    model = make(name).double()
    channels = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels
    # timm's drop path and efficientnet's norms in between are stock's.
    few = name in FEW_VALUES
    assert_trains_alike(model, _inputs(channels, 64, 16 if few else 3), deep=few)


def _published_cases() -> list:
    quick, cases = set(QUICK_PUBLISHED), []
    for row in PUBLISHED:
        name = "-".join([row.name, *map(str, row.kwargs.values())])
        marks = () if row.name in quick and not row.kwargs else pytest.mark.long
        cases.append(pytest.param(row, id=name, marks=marks))
    return cases


@pytest.mark.parametrize("row", _published_cases())
def test_published_configuration(row) -> None:
    torch.manual_seed(0)
    model = untrivial(networks.create(row.name, **row.kwargs)).double()
    channels, side, _ = row.input_size
    deep = row.name.startswith("preact_resnet")
    assert_trains_alike(model, _inputs(channels, 16 if side <= 32 else 64, 3), deep=deep)


@pytest.mark.parametrize("resolution", [33, 47])
@pytest.mark.parametrize("name", ["torchvision:densenet121", "torchvision:squeezenet1_1", "torchvision:mobilenet_v2"])
def test_odd_resolutions(name: str, resolution: int) -> None:
    assert_trains_alike(make(name).double(), _inputs(3, resolution, 8))


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "torchvision:densenet121", "mobilenet_v1"])
def test_channels_last(name: str) -> None:
    model = make(name).double().to(memory_format=torch.channels_last)
    images = _inputs(3, 64, 3)
    assert_trains_alike(model, lambda step: images(step).contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("name", ["torchvision:densenet121", "torchvision:mobilenet_v2", "mobilenet_v1"])
def test_frozen_norms(name: str) -> None:
    """Fine-tuning with norms in evaluation: their running statistics are constants, their weights learn."""

    class Frozen(nn.Module):
        def __init__(self, inner: nn.Module):
            super().__init__()
            self.inner = inner

        def train(self, mode: bool = True):
            super().train(mode)
            for m in self.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.eval()
            return self

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    assert_trains_alike(Frozen(make(name).double()), _inputs(3, 64, 2))


@pytest.mark.parametrize("name", ["torchvision:densenet121", "torchvision:mobilenet_v2", "torchvision:squeezenet1_1"])
def test_evaluation_with_gradients(name: str) -> None:
    model = make(name).double()
    model.train = lambda mode=True: model
    assert_trains_alike(model.eval(), _inputs(3, 64, 2))


DROPPING = {
    "densenet": lambda: networks.densenet.DenseNet(8, (3, 2), 16, drop_rate=0.3, num_classes=7),
    "densenet everywhere": lambda: networks.densenet_cifar(22, 8, drop_rate=0.3),
    "torchvision densenet": lambda: _torchvision("DenseNet", 8, (3, 2), 16, 4, 0.3),
    "squeezenet": lambda: networks.squeezenet1_1(num_classes=7),
    "mobilenet_v1": lambda: networks.mobilenet_v1(0.25, drop_rate=0.4, num_classes=7),
    "mobilenet_v2": lambda: networks.mobilenet_v2(0.35, num_classes=7),
}


def _torchvision(name: str, *args) -> nn.Module:
    import torchvision.models

    return getattr(torchvision.models, name)(*args)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", DROPPING)
def test_dropout_draws_what_stock_draws(name: str, channels_last: bool) -> None:
    """At one seed the masks are the same, so that the numbers are."""
    torch.manual_seed(0)
    model = untrivial(DROPPING[name]()).double()
    images, layout = _inputs(3, 64, 3), torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    assert_trains_alike(model, lambda step: images(step).contiguous(memory_format=layout), allowed="dropout")
