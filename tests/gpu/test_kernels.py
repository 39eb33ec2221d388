"""Both GPU backends against the fp64 truth; streams, graphs, devices, determinism."""

import importlib
import importlib.util

import pytest
import torch
from block_cases import dense_block_truth
from cases import CASES, Case
from drawing import compare

from lightops import _ext
from tests.gpu.seeds import seeds

HAS_TRITON = importlib.util.find_spec("triton") is not None


def on_device(value):
    """Tensors as they lie, slices of wider buffers included."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(on_device, value))
    if not isinstance(value, torch.Tensor):
        return value
    whole = value if value._base is None else value._base
    return whole.cuda().as_strided(value.shape, value.stride(), value.storage_offset())


def native(op: str, args):
    name = "dense_block_" if op == "dense_block" else op
    return getattr(torch.ops.lightops, name)(*args)


def triton(op: str, args):
    module = importlib.import_module(f"lightops.kernels.triton.{op}")
    return getattr(module, "dense_block_" if op == "dense_block" else op)(*args)


def run(op: str, case: Case, call) -> None:
    args = on_device(case.schema)
    torch.backends.cudnn.allow_tf32 = case.draw.tf32
    out = call(op, args)
    torch.cuda.synchronize()
    what = f"{op} {case.text}"
    if op == "dense_block":
        case.out.copy_(args[0])
        compare(case.draw, *dense_block_truth(case), what)
    else:
        compare(case.draw, out.cpu(), case.want, case.magnitude, what)


@pytest.fixture(autouse=True)
def tf32_restored():
    before = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = before


def need(backend: str) -> None:
    if backend == "cuda" and (why := _ext.cuda_reason()):
        pytest.fail(f"the CUDA library is not there: {why}")
    if backend == "triton" and not HAS_TRITON:
        pytest.skip("triton is not installed")


@pytest.mark.parametrize("op", CASES)
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_op_matches_the_truth(op, backend):
    need(backend)
    for seed in seeds():
        run(op, CASES[op](seed), native if backend == "cuda" else triton)


@pytest.mark.parametrize("op", CASES)
def test_two_runs_agree_bitwise(op):
    need("cuda")
    for seed in range(20):
        outs = []
        for _ in range(2):
            args = on_device(CASES[op](seed).schema)
            out = native(op, args)
            outs.append(args[0] if op == "dense_block" else out)
        assert torch.equal(outs[0].nan_to_num(), outs[1].nan_to_num())


@pytest.mark.parametrize("op", [op for op in CASES if op != "dense_block"])
def test_another_stream_and_a_graph_give_the_same(op):
    need("cuda")
    args = on_device(CASES[op](3).schema)
    want = native(op, args)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = native(op, args)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(got.nan_to_num(), want.nan_to_num())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = native(op, args)
    for _ in range(3):
        out.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out.nan_to_num(), want.nan_to_num())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_tensors_device_is_used_and_the_current_one_restored():
    need("cuda")
    x = torch.randn(1, 8, 5, 5, device="cuda:1", dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    w = torch.randn(1, 8, 8, device="cuda:1", dtype=torch.float16)
    with torch.cuda.device(0):
        out = torch.ops.lightops.conv1x1_bn_act(x, w, None, 8, 0, None)
        assert torch.cuda.current_device() == 0
    assert out.device == x.device


def test_tensors_on_two_devices_are_refused_before_any_launch():
    need("cuda")
    x = torch.randn(1, 8, 5, 5, device="cuda", dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="'w' must be on cuda"):
        torch.ops.lightops.conv1x1_bn_act(x, torch.randn(1, 8, 8, dtype=torch.float16), None, 8, 0, None)
