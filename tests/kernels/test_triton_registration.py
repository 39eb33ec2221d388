"""Triton's kernels as operators of their own, beside the native ones: names, schemas, shapes, laziness."""

import importlib
import inspect
import subprocess
import sys

import pytest
import torch

from lightops import _ext, ops
from lightops.ops import _native, _triton

NAMES = [name for names in _triton.OPERATORS.values() for name in names]
built = pytest.mark.skipif(bool(_ext.cpu_reason()), reason="the operators are not built")


def test_every_op_has_every_backend():
    assert set(ops.OPS) == set(_triton.OPERATORS)
    for table in ops.OPS.values():
        assert [b.name for b in table.backends] == ["cuda", "triton", "cpu", "reference"]


@built
@pytest.mark.parametrize("name", NAMES)
def test_an_operator_is_the_native_one_in_its_own_namespace(name):
    native, triton = (getattr(getattr(torch.ops, space), name).default for space in ("lightops", _triton.NAMESPACE))
    assert str(triton._schema) == str(native._schema).replace("lightops::", "lightops_triton::")
    assert _native.backend_ops(name) == {"cpu": native, "cuda": native, "triton": triton}
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"lightops_triton::{name}", "CUDA")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"lightops_triton::{name}", "Meta"), "its fake"


@built
@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in _triton.OPERATORS.items() for n in names])
def test_signatures_are_the_schemas(module, name):
    pytest.importorskip("triton", reason="triton is not installed: pip install 'lightops[triton]'")
    kernels = importlib.import_module(f"lightops.kernels.triton.{module}")
    schema = getattr(torch.ops.lightops, name).default._schema
    assert list(inspect.signature(getattr(kernels, name)).parameters) == [a.name for a in schema.arguments]


LAZY = """
import sys
import lightops.ops
assert "triton" not in sys.modules
import lightops.swap  # with torch's compiler, which may import triton
assert not [name for name in sys.modules if name.startswith("lightops.kernels.triton")]
"""


def test_triton_is_not_imported_before_the_first_call():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_the_reason_is_given():
    assert _triton.reason()
    x = torch.randn(1, 4, 3, 3)
    with pytest.raises(ops.BackendUnavailable, match="backend 'triton' cannot serve this call: input is on cpu"):
        ops.conv1x1_bn_act(x, torch.randn(4, 4, 1, 1), backend="triton")
