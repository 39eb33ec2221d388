"""One emulator per test process."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def emulator():
    import harness

    # The truths are small convolutions in float64: threads would only wait for each other.
    torch.set_num_threads(1)
    return harness.Emulator()
