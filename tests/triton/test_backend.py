"""Triton beside another GPU backend, and the measured choice between them, on a CPU: the kernels run in the
interpreter, registered for CPU tensors, and stand in for the CUDA library's as well, whose packed weights they read."""

import copy
import importlib
import itertools
import pickle

import pytest
import torch
from torch import nn

pytest.importorskip("triton", reason="triton is not installed: pip install 'lightops[triton]'")
if torch.cuda.is_available():
    pytest.skip("tests/gpu measures on the device", allow_module_level=True)

import lightops
from lightops import networks, ops
from lightops.kernels import cuda
from lightops.modules import FusedModule
from lightops.modules._runner import Choice
from lightops.networks.densenet import DenseNet
from lightops.networks.squeezenet import Fire
from lightops.ops import _dispatch, _native, _triton
from lightops.swap import measure

_REGISTERED = torch.library.Library(_triton.NAMESPACE, "IMPL")
for _module, _names in _triton.OPERATORS.items():
    for _name in _names:
        _REGISTERED.impl(_name, _triton.kernel(_module, _name), "CPU")

OP_MODULES = ("bn_relu_conv2d", "conv1x1_bn_act", "dense_block", "depthwise_pointwise", "fire", "head",
              "inverted_residual", "max_pool2d", "stem", "transition")  # fmt: skip


@pytest.fixture
def gpu(monkeypatch):
    """The CPU as a GPU: "cuda" and "triton" serve it, "cpu" does not. Returns the set of backends that serve."""
    serving = {"cuda", "triton"}

    def reasons(library, args, kwargs):
        return [] if library() in serving else ["does not serve here"]

    monkeypatch.setattr(_dispatch, "_gpu_reasons", reasons)
    monkeypatch.setattr(_dispatch._ext, "cuda_reason", lambda: "cuda")
    monkeypatch.setattr(_triton, "reason", lambda: "triton")
    monkeypatch.setattr(_dispatch, "_CPU_REASON", "this CPU stands in for a GPU")
    monkeypatch.setattr(_native, "_for_gpu", lambda weight: True)
    for stem in OP_MODULES:
        module = importlib.import_module(f"lightops.ops.{stem}")
        for table in (v for k, v in vars(module).items() if k.startswith("_ops")):
            monkeypatch.setitem(table, "cuda", table["triton"])
    # By its context manager: torch's own test helpers, in the same process, forbid plain assignment.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield serving


@pytest.fixture
def packs(monkeypatch):
    """Counts weights packed for a GPU."""
    calls = []
    for name in ("pack_conv2d", "pack_depthwise"):
        genuine = getattr(cuda, name)

        def counted(*args, genuine=genuine, **kwargs):
            calls.append(genuine.__name__)
            return genuine(*args, **kwargs)

        monkeypatch.setattr(cuda, name, counted)
    return calls


@pytest.fixture
def clock(monkeypatch):
    """Replaces the timer: `clock.seconds[op][backend]`, 1 where nothing is set. Counts what was timed."""

    class Clock:
        def __init__(self):
            self.seconds, self.timed = {}, []

        def times(self, runs, device):
            self.timed.append(list(runs))
            return {name: self.seconds.get(name, 1.0) for name in runs}

    made = Clock()
    monkeypatch.setattr(measure, "_times", made.times)
    return made


def tiny() -> nn.Module:
    """Fire modules of which two are of one shape."""
    torch.manual_seed(0)
    fires = [Fire(16, 4, 8, 8) for _ in range(2)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), *fires, Fire(16, 4, 8, 16)).eval()


X = torch.randn(1, 3, 17, 15)


def runners(model: nn.Module) -> list:
    return [r for m in model.modules() if isinstance(m, FusedModule) for r in m._runners]


def same(model: nn.Module, want: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model(X), want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(X), want, rtol=1e-4, atol=1e-5)  # the second call runs a program


@pytest.fixture
def want():
    with torch.no_grad():
        return tiny()(X)


def test_without_an_example_the_rule_decides(gpu, want):
    model = tiny()
    report = lightops.swap_(model)
    assert {r.backend for r in report.fused} == {"cuda"}
    assert all(r.note == "cuda before triton by rule; swap_(model, example) measures" for r in report.fused)
    same(model, want)
    gpu.discard("cuda")
    model = tiny()
    assert {(r.backend, r.note) for r in lightops.swap_(model).fused} == {("triton", "")}
    same(model, want)


def test_the_fastest_backend_is_kept_and_the_times_are_said(gpu, clock, want):
    clock.seconds = {"cuda": 2e-3, "triton": 1e-3, "stock": 3e-3}
    model = tiny()
    report = lightops.swap_(model, X)
    assert {r.backend for r in report.fused} == {"triton"}
    assert not report.declined
    for record in report.fused:
        assert record.note.startswith("triton 1 ms, cuda 2 ms, stock 3 ms")
        assert dict(record.seconds) == clock.seconds
    same(model, want)
    assert {r.backend for r in runners(model)} == {"triton"}
    assert "triton 1 ms, cuda 2 ms, stock 3 ms" in str(lightops.explain(model))


def test_a_shape_is_timed_once(gpu, clock):
    clock.seconds = {"stock": 3.0}
    report = lightops.swap_(tiny(), X)
    assert [set(runs) for runs in clock.timed] == [{"cuda", "triton", "stock"}] * 3
    notes = [r.note for r in report.fused if r.op == "fire"]
    assert len(notes) == 3
    assert [("(timed at 2" in note) for note in notes] == [False, True, False]


def test_what_is_slower_than_stock_is_left_out(gpu, clock, want):
    clock.seconds = {"cuda": 2.0, "triton": 3.0, "stock": 1.0}
    model = tiny()
    report = lightops.swap_(model, X)
    assert not report.fused
    assert all(r.reason.startswith("slower on this machine: cuda 2e+03 ms, triton 3e+03") for r in report.declined)
    same(model, want)


def test_weights_are_packed_once_for_both(gpu, clock, packs):
    clock.seconds = {"triton": 0.5}
    model = tiny()
    lightops.swap_(model, X)
    timed = len(packs)
    assert timed == 1 + 3 * 3, "the stem and three Fires of three weights"
    with torch.no_grad():
        model(X)
    assert len(packs) == timed, "and not again for the backend that was chosen"
    for runner in runners(model):
        runner.choose(Choice("cuda"))
    with torch.no_grad():
        model[2].squeeze.weight.mul_(2)
        model(X)
    assert len(packs) == timed + 3, "a weight that changed meanwhile is"


def test_a_backend_that_fails_on_a_block_is_passed_over(gpu, clock, want, monkeypatch):
    def refuse(*args):
        raise RuntimeError("no CUDA kernel serves x\nmore")

    fire = importlib.import_module("lightops.ops.fire")
    monkeypatch.setitem(fire._ops, "cuda", refuse)
    clock.seconds = {"cuda": 0.1, "triton": 0.5}
    model = tiny()
    report = lightops.swap_(model, X)
    assert {r.op: r.backend for r in report.fused} == {"stem": "cuda", "fire": "triton"}
    assert all("cuda failed: RuntimeError: no CUDA kernel serves x" in r.note for r in report.fused if r.op == "fire")
    same(model, want)
    monkeypatch.setitem(fire._ops, "triton", refuse)
    report = lightops.swap_(tiny(), X)
    assert {r.op for r in report.declined} == {"fire"}


def test_kernels_are_tuned_before_they_are_timed(gpu, monkeypatch):
    from lightops.kernels.triton import _autotune

    tuned_before = []

    def times(runs, device):
        tuned_before.append((_autotune._depth, len(_autotune._tuned)))
        return dict.fromkeys(runs, 1.0)

    monkeypatch.setattr(measure, "_times", times)
    monkeypatch.setattr(measure, "tuning", _autotune.tuning)
    monkeypatch.setattr(_autotune, "seconds", lambda run: 1.0)
    monkeypatch.setattr(_autotune, "_remember", lambda *args: None)
    monkeypatch.setattr(_autotune, "_known", lambda problem: None)
    monkeypatch.setattr(_autotune, "_tuned", {})
    lightops.swap_(tiny(), X)
    assert [depth for depth, _ in tuned_before] == [0, 0, 0]
    assert [tuned for _, tuned in tuned_before] == [3, 4, 5], "of a Fire; the stem; the one that the wider Fire adds"
    _autotune._chosen.clear()


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_the_environment_decides_for_all(gpu, clock, want, monkeypatch, backend):
    monkeypatch.setenv("LIGHTOPS_BACKEND", backend)
    for example in (None, X):
        clock.seconds = {"stock": 2.0}
        model = tiny()
        report = lightops.swap_(model, example)
        assert {r.backend for r in report.fused} == {backend}
        same(model, want)
        assert {r.backend for r in runners(model)} == {backend}
    assert {frozenset(runs) for runs in clock.timed} == {frozenset({backend, "stock"})}


def test_a_choice_gives_way_where_it_does_not_serve(gpu, clock, want):
    clock.seconds = {"triton": 0.5}
    model = tiny()
    lightops.swap_(model, X)
    gpu.discard("triton")
    for module in model.modules():
        module.train(False)  # drops what is packed
    same(model, want)
    assert {r.backend for r in runners(model)} == {"cuda"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_the_choice(gpu, clock, want, copied):
    clock.seconds = {"triton": 0.5}
    model = tiny()
    lightops.swap_(model, X)
    other = copied(model)
    same(other, want)
    assert {r.backend for r in runners(other)} == {"triton"}
    lightops.unswap_(other)
    assert not runners(other)


@pytest.mark.parametrize("name", ["densenet", "mobilenet_v1", "mobilenet_v2"])
def test_whole_networks_run_on_triton_alone(gpu, monkeypatch, name):
    monkeypatch.setenv("LIGHTOPS_BACKEND", "triton")
    torch.manual_seed(0)
    make = {
        "densenet": lambda: DenseNet(8, (2, 2), 16, num_classes=5),
        "mobilenet_v1": lambda: networks.mobilenet_v1(width_mult=0.25, num_classes=5),
        "mobilenet_v2": lambda: networks.mobilenet_v2(width_mult=0.25, num_classes=5),
    }[name]
    model, x = make().eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        want = model(x)
        report = lightops.swap_(model)
        assert report.fused
        assert not report.declined
        assert {r.backend for r in report.fused} == {"triton"}
        for _ in range(2):
            torch.testing.assert_close(model(x), want, rtol=1e-3, atol=1e-4)


def test_the_public_function_takes_the_backend(gpu):
    x, w = torch.randn(2, 8, 5, 5), torch.randn(6, 8, 1, 1)
    want = ops.conv1x1_bn_act(x, w, backend="reference")
    for backend in ("triton", "cuda"):
        torch.testing.assert_close(ops.conv1x1_bn_act(x, w, backend=backend), want, rtol=1e-4, atol=1e-5)
    gpu.discard("cuda")
    with pytest.raises(ops.BackendUnavailable, match="'cuda' cannot serve this call: does not serve here"):
        ops.conv1x1_bn_act(x, w, backend="cuda")


@pytest.mark.parametrize(("chosen", "namespace"), [("triton", "lightops_triton"), ("cuda", "lightops_triton")])
def test_compile_and_export_take_the_choice(gpu, clock, want, chosen, namespace):
    clock.seconds = {chosen: 0.5}
    model = tiny()
    lightops.swap_(model, X)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(X), want, rtol=1e-4, atol=1e-5)
        program = torch.export.export(model, (X,))
        torch.testing.assert_close(program.module()(X), want, rtol=1e-4, atol=1e-5)
    spaces = {n.target.namespace for n in program.graph.nodes if isinstance(n.target, torch._ops.OpOverload)}
    assert namespace in spaces
    torch._dynamo.reset()


def test_the_fake_of_every_operator_has_the_kernels_shape(gpu):
    x = torch.randn(2, 8, 7, 7).contiguous(memory_format=torch.channels_last)
    w, b = torch.randn(6, 8, 3, 3), torch.randn(6)
    packed = ops.bn_relu_conv2d.__globals__["pack_bn_relu_conv2d"](None, w, b, x.dtype, stride=(2, 2), padding=(1, 1))
    from lightops.ops.bn_relu_conv2d import run_bn_relu_conv2d

    real = run_bn_relu_conv2d(x, packed, "triton")
    torch.library.opcheck(torch.ops.lightops_triton.bn_relu_conv2d.default, (x, *packed[:-1]))
    assert real.shape == (2, 6, 4, 4)


def test_turns_are_taken_by_all_and_the_least_counts(monkeypatch):
    order, ticks = [], itertools.count()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(ticks) * 1.0)
    runs = {name: (lambda name=name: order.append(name)) for name in ("cuda", "triton", "stock")}
    times = measure._times(runs, torch.device("cpu"))
    assert order == ["cuda", "triton", "stock"] * measure._LEAST_ROUNDS
    assert times == dict.fromkeys(runs, 1.0)
