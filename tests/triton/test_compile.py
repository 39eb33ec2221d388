"""Triton kernels compile for GPUs that are not there, and the products land on the tensor cores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightops.kernels.triton._configs import SHARED_BYTES, TABLE

pytest.importorskip("triton", reason="triton is not installed: pip install 'lightops[triton]'")


def compiled(tmp_path: Path, *arguments: str) -> list[dict]:
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_offline.py")
    done = subprocess.run([sys.executable, str(script), *arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        assert line["cubin_bytes"] > 0
        assert line["multiplies"] == line["expects"], line
        assert line["shared_bytes"] <= SHARED_BYTES, line
    return lines


@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_every_kernel_compiles(capability, tmp_path):
    assert len(compiled(tmp_path, capability)) == 7


@pytest.mark.long
@pytest.mark.parametrize("capability", ["80", "90"])
def test_every_configuration_compiles(capability, tmp_path):
    distinct = {(kind, blocks) for (kind, *_), row in TABLE.items() for blocks in row}
    assert len(compiled(tmp_path, capability, "--table")) == len(distinct)
