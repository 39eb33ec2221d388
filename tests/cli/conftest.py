"""Small networks and an empty cache folder, so that no test depends on what was downloaded or exported before."""

from pathlib import Path

import pytest
import torch

NETWORKS = '''
import torch
from torch import nn

from lightops import networks


def squeeze():
    """Two fire blocks' worth of SqueezeNet at a quarter of its width."""
    return networks.squeezenet(base_e=32, incr_e=32, num_classes=7)


def mobile():
    return networks.mobilenet_v1(width_mult=0.25, num_classes=7)


def opaque():
    """Nothing here can be swapped."""
    return nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 7), nn.GELU())
'''


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LIGHTOPS_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def width(monkeypatch):
    """Tables are as wide as they are: pytest-xdist announces a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(autouse=True)
def threads():
    """The thread count is given back."""
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


@pytest.fixture
def networks_file(tmp_path) -> Path:
    """A user's file of network factories."""
    path = tmp_path / "nets.py"
    path.write_text(NETWORKS)
    return path
