"""Our counts against every figure the papers print, and the generated page."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lightops.networks import count, mobilenet_v1, squeezenet
from lightops.networks.__main__ import table
from lightops.networks.published import FAMILIES, Printed, exact

ROWS = [row for rows in FAMILIES.values() for row in rows]
PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join([row.name, *map(str, row.kwargs.values()), row.source]))
def test_figures_relate_as_the_row_says(row):
    counted = row.counted
    for printed, total, by_kind in (
        (row.parameters, counted.parameters, counted.parameters_by_kind),
        (row.multiply_adds, counted.multiply_adds, counted.multiply_adds_by_kind),
    ):
        if printed is not None:
            assert printed.relation_to(exact(printed, total, by_kind)) == printed.relation


@pytest.mark.parametrize(
    ("text", "value", "relation"),
    [
        ("4.2 M", 4_231_976, "rounded"),
        ("4.2 M", 4_149_999, "differs"),
        ("4.2 M", 4_250_001, "cut"),
        ("4.2 M", 4_300_000, "differs"),
        ("290 M", 290_675_200, "cut"),
        ("7,978,856", 7_978_856, "rounded"),
        ("7,978,856", 7_978_857, "differs"),
        ("4.8 MB", 1_248_424, "rounded"),
        ("4.8 MB", 1_200_000, "differs"),
    ],
)
def test_relation(text, value, relation):
    assert Printed(text).relation_to(value) == relation


def test_page_is_the_scripts_output():
    assert PAGE.read_text(encoding="utf-8") == table(), "run: python -m lightops.networks > docs/networks.md"


def test_mobilenet_v1_shares():
    """arXiv:1704.04861 table 2. Trap: its parameter shares leave batch norm and the classifier's bias out."""
    with torch.device("meta"):
        counted = count(mobilenet_v1(), (3, 224, 224))
    adds = {kind: round(100 * n / counted.multiply_adds, 2) for kind, n in counted.multiply_adds_by_kind.items()}
    # Trap: the paper prints 1.19 for the stem; with the other three, 1.91 is what adds up to 100.
    assert adds == {"pointwise": 94.86, "depthwise": 3.06, "conv": 1.91, "linear": 0.18}
    weights = dict(counted.parameters_by_kind)
    del weights["other"]
    weights["linear"] -= 1000
    total = sum(weights.values())
    shares = {kind: round(100 * n / total, 2) for kind, n in weights.items()}
    assert shares == {"pointwise": 74.59, "depthwise": 1.06, "linear": 24.33, "conv": 0.02}


@pytest.mark.parametrize(
    ("channels", "pixels", "separable", "multiply_adds", "parameters"),
    [
        (512, 14, False, 462, 2.36),
        (512, 14, True, 52.3, 0.27),
        (384, 14, True, 29.6, 0.15),
        (384, 10, True, 15.1, 0.15),
    ],
    ids=["convolution", "separable", "alpha 0.75", "rho 0.714"],
)
def test_mobilenet_v1_resource_example(channels, pixels, separable, multiply_adds, parameters):
    """arXiv:1704.04861 table 3: one internal layer, 512 -> 512 channels at 14x14, in millions."""
    layers = [nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
    if separable:
        layers = [
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
        ]
    counted = count(nn.Sequential(*layers), (channels, pixels, pixels))
    digits = 0 if multiply_adds == 462 else 1
    assert round(counted.multiply_adds / 1e6, digits) == multiply_adds
    assert round(counted.parameters / 1e6, 2) == parameters


@pytest.mark.parametrize(
    ("squeeze_ratio", "pct_3x3", "parameters"),
    [
        (0.125, 0.5, 1_248_424),
        (0.25, 0.5, 1_967_080),
        (0.5, 0.5, 3_404_392),
        (0.75, 0.5, 4_841_704),
        (1.0, 0.5, 6_279_016),
        (0.5, 0.01, 1_478_248),
        (0.5, 0.125, 1_929_832),
        (0.5, 0.25, 2_421_352),
        (0.5, 0.75, 4_387_432),
        (0.5, 0.99, 5_330_536),
    ],
)
def test_squeezenet_sweeps(squeeze_ratio, pct_3x3, parameters):
    """The nets of arXiv:1602.07360 figure 3; the counts by the closed formula over fire modules, not by our code."""
    expand = [128, 128, 256, 256, 384, 384, 512, 512]
    total = 96 * 3 * 49 + 96 + 512 * 1000 + 1000
    for c, e in zip([96, *expand], expand, strict=False):
        s, e3 = round(squeeze_ratio * e), round(pct_3x3 * e)
        total += c * s + s + s * (e - e3) + s * e3 * 9 + e
    assert total == parameters
    with torch.device("meta"):
        assert count(squeezenet(squeeze_ratio=squeeze_ratio, pct_3x3=pct_3x3), (3, 224, 224)).parameters == parameters
