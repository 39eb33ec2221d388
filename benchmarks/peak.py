"""The peak multiply-add rate of one core, measured here and now: what a kernel's own arithmetic is held against."""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_name("fma_peak.c")


@cache
def peak_gmacs(seconds: float = 0.5) -> tuple[float, str]:
    """GMAC/s of one core in float32, and how it was measured.

    With a C compiler: independent chains of vector multiply-adds (fma_peak.c). Without one: a 2048^3 `torch.mm` on one
    thread stands in, which lies some percent below the true peak.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc") or ""]
    if compiler[0]:
        with tempfile.TemporaryDirectory() as folder:
            program = f"{folder}/fma_peak"
            flags = ["-O3", "-march=native", "-ffp-contract=fast", str(_SOURCE), "-o", program]
            if subprocess.run([*compiler, *flags], capture_output=True, check=False).returncode == 0:
                done = subprocess.run([program, str(seconds)], capture_output=True, text=True, check=True)
                return float(done.stdout), "vector multiply-adds, fma_peak.c"
    return _matrix_product(seconds), "torch.mm 2048^3 as a stand-in (no C compiler)"


def _matrix_product(seconds: float, size: int = 2048) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a, b = torch.randn(size, size), torch.randn(size, size)
        best, end = 0.0, time.perf_counter() + seconds
        while not best or time.perf_counter() < end:
            start = time.perf_counter()
            torch.mm(a, b)
            best = max(best, size**3 / (time.perf_counter() - start) * 1e-9)
        return best
    finally:
        torch.set_num_threads(before)
