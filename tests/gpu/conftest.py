"""The GPU suite: the cases of tests/emulator on the device. `make gpu` runs it, elsewhere it is skipped, aloud."""

import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.seeds import SECONDS, SEEDS, cut_short

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "emulator"))


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        here = Path(__file__).parent
        skip = pytest.mark.skip(reason="needs a CUDA device: `make gpu`")
        for item in items:
            if here in Path(item.path).parents:
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter):
    if cut_short:
        few = f"{min(cut_short)} to {max(cut_short)} of {SEEDS} seeds"
        terminalreporter.write_line(f"{len(cut_short)} tests stopped after {SECONDS:g} s each, with {few}")
