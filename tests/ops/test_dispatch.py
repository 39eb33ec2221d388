"""The choice of a backend: argument, environment, reasons, and that a fallback is said once."""

import warnings

import pytest
import torch

from lightops import ops
from lightops.ops import _dispatch
from lightops.testing.calls import OPS, Case
from lightops.testing.cases import sized
from lightops.testing.draw import real_call


@pytest.fixture
def call():
    return real_call(Case("fire", "small", (1, 6, 5, 4), sized("fire", out=6, inner=5)), torch.float32, 0)


def test_every_op_has_a_table():
    assert set(ops.OPS) == set(OPS)
    for table in ops.OPS.values():
        assert [backend.name for backend in table.backends] == sorted(
            (b.name for b in table.backends), key=_dispatch.ORDER.index
        )


def test_auto_takes_the_kernels(call):
    assert ops.explain("fire", *call.args, **call.kwargs).backend == "cpu"
    assert ops.explain(ops.fire, *call.args, **call.kwargs).backend == "cpu"


def test_explain_gives_the_reasons(call):
    call.args[0].requires_grad_()
    decision = ops.explain("fire", *call.args, backend="cpu", **call.kwargs)
    assert decision.backend == "reference"
    assert decision.reasons["cpu"] == ["gradients required"]
    assert "gradients required" in str(decision)


def test_explain_of_an_unknown_op():
    with pytest.raises(ValueError, match="conv3d"):
        ops.explain("conv3d")


def test_disabled_by_environment(call, monkeypatch):
    monkeypatch.setenv("LIGHTOPS_DISABLE", "1")
    assert ops.explain("fire", *call.args, **call.kwargs).backend == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.fire(*call.args, **call.kwargs)
    with pytest.raises(ops.BackendUnavailable, match="LIGHTOPS_DISABLE"):
        ops.fire(*call.args, backend="cpu", **call.kwargs)


def test_forced_by_environment(call, monkeypatch):
    monkeypatch.setenv("LIGHTOPS_BACKEND", "reference")
    reference = ops.fire(*call.args, backend="reference", **call.kwargs)
    assert torch.equal(ops.fire(*call.args, **call.kwargs), reference)
    monkeypatch.setenv("LIGHTOPS_BACKEND", "cuda")
    with pytest.raises(ops.BackendUnavailable, match="cuda"):
        ops.fire(*call.args, **call.kwargs)


def test_fallback_warns_once(call):
    call.args[0].requires_grad_()
    _dispatch._warned.clear()
    with pytest.warns(UserWarning, match="falling back to the reference"):
        ops.fire(*call.args, **call.kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.fire(*call.args, **call.kwargs)


def test_an_op_has_every_backend_in_order():
    before = dict(_dispatch.OPS)
    try:
        table = _dispatch.op_table("probe", lambda x, backend: torch.neg(x), torch.neg)
        assert tuple(backend.name for backend in table.backends) == _dispatch.ORDER
        assert ops.explain("probe", torch.ones(1)).reasons["cuda"] == ["input is on cpu, wants cuda"]
        assert table.call("cpu", torch.ones(1)) == table.call("reference", torch.ones(1)) == -1
    finally:
        _dispatch.OPS.clear()
        _dispatch.OPS.update(before)
