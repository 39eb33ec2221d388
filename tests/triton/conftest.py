"""Triton kernels through Triton's interpreter, on the cases of tests/emulator."""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "emulator"))

if not torch.cuda.is_available():
    # Read when a kernel is decorated, so before the first import of one. Where there is a device, torch.compile of the
    # same process needs the compiler, and tests/gpu runs the kernels on the device.
    os.environ["TRITON_INTERPRET"] = "1"
