"""One emulator per test process."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def emulator():
    import harness

    return harness.Emulator()
