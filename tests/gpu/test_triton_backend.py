"""Triton beside CUDA on the device: by the environment, by measuring, in a graph, compiled."""

import pytest
import torch
from torch import nn

import lightops
from lightops import _ext, networks
from lightops.modules import FusedModule
from lightops.modules._runner import Choice
from lightops.networks.densenet import DenseNet
from lightops.networks.squeezenet import Fire
from lightops.ops import _triton

LIMIT = 2e-2  # of the largest logit, in fp16


@pytest.fixture(autouse=True)
def setting(tmp_path, monkeypatch):
    if why := _triton.reason():
        pytest.skip(why)
    monkeypatch.setenv("LIGHTOPS_CACHE", str(tmp_path))


def network(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """In fp16 on the device, with its input and the truth in fp64."""
    torch.manual_seed(0)
    made = {
        "densenet": lambda: DenseNet(16, (3, 3), 32, num_classes=10),
        "mobilenet": lambda: networks.mobilenet_v2(width_mult=0.5, num_classes=10),
        "squeezenet": lambda: networks.squeezenet1_1(num_classes=10),
        # Every configuration of a shape is compiled where it is measured: few shapes.
        "fires": lambda: nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), Fire(32, 16, 16, 16), Fire(32, 16, 16, 16)),
    }[name]
    model, x = made().eval().cuda(), torch.randn(4, 3, 96, 96, device="cuda")
    with torch.no_grad():
        want = model.double()(x.double())
    return model.half().to(memory_format=torch.channels_last), x.half(), want


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert (got.double() - want).abs().max() <= LIMIT * want.abs().max()


@pytest.mark.parametrize("name", ["densenet", "mobilenet", "squeezenet"])
def test_the_environment_takes_triton_beside_cuda(name, monkeypatch):
    monkeypatch.setenv("LIGHTOPS_BACKEND", "triton")
    model, x, want = network(name)
    report = lightops.swap_(model)
    assert {r.backend for r in report.fused} == {"triton"}
    with torch.no_grad():
        for _ in range(2):
            close(model(x), want)


def test_measuring_keeps_the_fastest(tmp_path):
    model, x, want = network("fires")
    report = lightops.swap_(model, x)
    expected = {"stock", "triton"} | (set() if _ext.cuda_reason() else {"cuda"})
    for record in report.fused:
        seconds = dict(record.seconds)
        assert set(seconds) == expected, record.note
        assert seconds[record.backend] == min(seconds.values())
    assert list((tmp_path / "triton").glob("*.json")), "tuned configurations are kept"
    with torch.no_grad():
        for _ in range(2):
            close(model(x), want)


def chosen(model: nn.Module, backend: str) -> nn.Module:
    lightops.swap_(model)
    for module in model.modules():
        for runner in module._runners if isinstance(module, FusedModule) else ():
            runner.choose(Choice(backend))
    return model


def test_a_choice_is_captured_in_a_graph():
    model, x, want = network("densenet")
    chosen(model, "triton")
    with torch.no_grad():
        for _ in range(3):
            model(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(x)
        out.fill_(float("nan"))
        graph.replay()
    close(out, want)


def test_a_choice_is_compiled():
    model, x, want = network("squeezenet")
    with torch.no_grad():
        close(torch.compile(chosen(model, "triton"))(x), want)
