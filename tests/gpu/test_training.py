"""Training on the device: every op on the cases of tests/emulator and on those of tests/ops/training through autograd,
whole networks against stock in float64; streams, graphs, no synchronisation, determinism."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map
from training_cases import CASES
from training_cases.case import TrainingCase, check

import lightops
from lightops import _ext, networks
from lightops.ops import training
from tests.gpu.seeds import seeds
from tests.gpu.test_kernels import on_device
from tests.ops.training.calls import calls

OPS = [name for name, make in CASES.items() if make(0).schema]
CALLS = calls(torch.float32)
# Whole networks in float32 against float64, relative to the largest gradient of a tensor: stock channels_last itself
# reaches 2% (lightops.bench.training).
GRADIENT_LIMIT = 0.03


@pytest.fixture(autouse=True)
def exact_float32():
    if why := _ext.cuda_reason():
        pytest.fail(f"the CUDA library is not there: {why}")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def call(case: TrainingCase, arguments: tuple) -> list[torch.Tensor]:
    return tree_leaves(getattr(torch.ops.lightops, case.op)(*arguments))


@pytest.mark.parametrize("op", OPS)
def test_op_matches_the_truth(op):
    for seed in seeds():
        case = CASES[op](seed)
        torch.backends.cudnn.allow_tf32 = case.draw.tf32
        what = f"{op} seed {seed} {case.text}"
        made = [t for t in call(case, on_device(case.schema)) if t.numel()]
        for output, got in zip(case.outputs, made, strict=True):
            output.view.copy_(got)
        for output in case.outputs:
            output.settle()
        for output in case.outputs:
            check(case, output, what)


@pytest.mark.parametrize("op", OPS)
def test_two_runs_agree_bitwise_on_another_stream_and_in_a_graph(op):
    case = CASES[op](3)
    arguments = on_device(case.schema)
    want = call(case, arguments)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = call(case, arguments)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(case, arguments)
    for t in captured:
        t.fill_(float("nan") if t.is_floating_point() else 77)  # the places of a stem are bytes
    graph.replay()
    torch.cuda.synchronize()
    for got in (again, captured):
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_those_of_float64_on_the_cpu(name):
    """Device twins of tests/ops/training/test_autograd.py."""
    here = CALLS[name]()
    exact = [t.detach().double().requires_grad_() for t in here.tensors]
    there = [t.detach().cuda().requires_grad_() for t in here.tensors]
    want = here.run(*exact)
    got = here.run(*there)
    upstream = torch.randn(want.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wants = torch.autograd.grad(want, exact, upstream, allow_unused=True)
    gots = torch.autograd.grad(got, there, upstream.to(got), allow_unused=True)
    torch.testing.assert_close(got.cpu().double(), want, rtol=1e-4, atol=1e-4)
    for a, b in zip(gots, wants, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a.cpu().double(), b, rtol=1e-3, atol=1e-3 * b.abs().max().item() + 1e-6)


def small(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = networks.create(name, num_classes=10).cuda().to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 96, 96, device="cuda").to(memory_format=torch.channels_last)
    return model.train(), x, torch.arange(4, device="cuda")


def gradients(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # dropout
    F.cross_entropy(model(x), labels).backward()
    found = {name: p.grad.double() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v1", "mobilenet_v2", "squeezenet1_1"])
def test_a_network_trains_as_stock_does_in_float64(name):
    model, x, labels = small(name)
    exact, ours = copy.deepcopy(model).double(), copy.deepcopy(model)
    lightops.swap_(ours)
    want, got = gradients(exact, x.double(), labels), gradients(ours, x, labels)
    assert want.keys() == got.keys()
    for key, g in want.items():
        assert (got[key] - g).norm() <= GRADIENT_LIMIT * (g.norm() + 1e-3), key
    for (key, a), b in zip(exact.named_buffers(), ours.buffers(), strict=True):
        torch.testing.assert_close(b.double(), a.double(), rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v1", "squeezenet1_1"])
def test_a_step_never_waits_for_the_device(name, dtype):
    model, x, labels = small(name)
    lightops.swap_(model)

    def step() -> None:
        with torch.autocast("cuda", dtype, enabled=dtype is not torch.float32):
            loss = F.cross_entropy(model(x).float(), labels)
        loss.backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_whole_step_in_a_graph_gives_the_same_gradients():
    model, x, labels = small("densenet121")
    lightops.swap_(model)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        want = gradients(model, x, labels)
        gradients(model, x, labels)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        F.cross_entropy(model(x), labels).backward()
    graph.replay()
    torch.cuda.synchronize()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad.double(), want[name], rtol=0, atol=0, msg=name)


def test_every_op_that_has_a_kernel_is_served_by_it():
    x = torch.randn(2, 16, 9, 9, device="cuda").to(memory_format=torch.channels_last)
    mean, var = training.batch_stats(x)
    w = torch.randn(8, 16, 1, 1, device="cuda")
    arguments = (x, mean, var, None, None, 1e-5, 1, w, None, [1, 1], [0, 0], [1, 1], 1, False, True, True)
    assert training.explain("bn_act_conv2d", *arguments) == ""
    assert "float64" in training.explain("bn_act_conv2d", *tree_map(double, arguments))
    deep = torch.randn(16, 1, 7, 7, device="cuda")
    depthwise = (*arguments[:7], deep, None, [1, 1], [3, 3], [1, 1], 16, False, True, True)
    assert training.explain("bn_act_conv2d", *depthwise) == ""
    y = training.bn_act_conv2d(x, training.Prologue(), deep, padding=(3, 3), groups=16)[0]
    torch.testing.assert_close(y, F.conv2d(x, deep, padding=3, groups=16), rtol=1e-3, atol=1e-3)


def double(value):
    return value.double() if isinstance(value, torch.Tensor) else value
