"""Triton's kernels as CUDA implementations of the operators: registered where the CUDA library is not there."""

import inspect
import subprocess
import sys

import pytest
import torch

from lightops import _ext, ops
from lightops.ops import _triton

SCRIPT = """
import torch
from lightops.ops import _triton
_triton.register()
names = [n for ns in _triton.OPERATORS.values() for n in ns]
missing = [n for n in names if not torch._C._dispatch_has_kernel_for_dispatch_key(f"lightops::{n}", "CUDA")]
assert not missing, missing
"""


# Compositions of the other kernels, and a pool: on a machine without the CUDA library stock computes them.
WITHOUT_TRITON = {"inverted_residual", "max_pool2d"}


def test_every_op_with_a_triton_backend_has_triton_kernels():
    with_cuda = {name for name, table in ops.OPS.items() if any(b.name == "cuda" for b in table.backends)}
    assert with_cuda == set(_triton.OPERATORS) | WITHOUT_TRITON
    for name in with_cuda:
        triton = [] if name in WITHOUT_TRITON else ["triton"]
        assert [b.name for b in ops.OPS[name].backends] == ["cuda", *triton, "cpu", "reference"]


@pytest.mark.skipif(bool(_ext.cpu_reason()), reason="the operators are not built")
def test_registration_reaches_the_dispatcher():
    pytest.importorskip("triton", reason="triton is not installed: pip install 'lightops[triton]'")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(bool(_ext.cpu_reason()), reason="the operators are not built")
def test_signatures_are_the_schemas():
    pytest.importorskip("triton", reason="triton is not installed: pip install 'lightops[triton]'")
    for module, names in _triton.OPERATORS.items():
        for name in names:
            kernels = __import__(f"lightops.kernels.triton.{module}", fromlist=[name])
            schema = getattr(torch.ops.lightops, name).default._schema
            assert list(inspect.signature(getattr(kernels, name)).parameters) == [a.name for a in schema.arguments]
