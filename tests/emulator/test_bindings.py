"""The CUDA bindings and the Python layer above them, end to end on the CPU: csrc/torch/cuda compiled for the emulator.

In a process of its own, because the emulated operators take the names of the real ones.
"""

import subprocess
import sys

import harness
import pytest


@pytest.fixture(scope="module")
def library():
    return harness.build_bindings()


@pytest.mark.parametrize("part", ["ops", "training", "gradients", "networks", "errors", "public"])
def test_bindings(library, part):
    script = harness.HERE / "run_bindings.py"
    done = subprocess.run([sys.executable, str(script), str(library), part], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.endswith("passed\n")
