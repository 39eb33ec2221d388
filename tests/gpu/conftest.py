"""The GPU suite: the cases of tests/emulator on the device. `make gpu` runs it, elsewhere it is skipped, aloud."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "emulator"))


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        here = Path(__file__).parent
        skip = pytest.mark.skip(reason="needs a CUDA device: `make gpu`")
        for item in items:
            if here in Path(item.path).parents:
                item.add_marker(skip)
