"""Triton kernels through Triton's interpreter (tests/conftest.py), on the cases of tests/emulator."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "emulator"))
