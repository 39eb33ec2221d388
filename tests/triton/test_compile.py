"""Triton kernels compile for GPUs that are not there, and the products land on the tensor cores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install 'lightops[triton]'")


@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_every_kernel_compiles(capability, tmp_path):
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_offline.py")
    done = subprocess.run([sys.executable, str(script), capability], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 7
    for line in lines:
        assert line["cubin_bytes"] > 0
        assert line["multiplies"] == line["expects"], line
        assert line["shared_bytes"] <= 99 * 1024, line
