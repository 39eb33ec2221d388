"""`make gpu`'s steps without a GPU: what is stopped takes its children along, rows outlive a crash, the build's time is
counted."""

import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FAKE = """
import os, time
def measure(deadline):
    yield {"error": %s, "limit": 1.0}
    %s
    yield {"error": 0.0, "limit": 1.0}
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return pytest.importorskip("gpu")


@pytest.fixture
def step(gpu, monkeypatch, tmp_path):
    """Runs rows of a made-up step."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(error: float, then: str):
        (tmp_path / "gpu_fake.py").write_text(FAKE % (error, then))
        return gpu.measured("fake")(6.0)

    return run


def test_all_rows_of_a_step_are_recorded(step):
    result = step(0.5, "pass")
    assert (result["exit"], result["stopped"], len(result["rows"])) == ("0", False, 2)


def test_rows_before_a_crash_are_kept_and_the_step_has_failed(step):
    result = step(0.5, "os.abort()")
    assert (result["exit"], len(result["rows"])) == ("-6", 1)


def test_rows_that_the_time_does_not_reach_are_no_failure(step):
    result = step(0.5, "time.sleep(60)")
    assert (result["exit"], result["stopped"], len(result["rows"])) == ("0", True, 1)


def test_a_wrong_row_is_a_failure(step):
    assert step(1.5, "pass")["exit"] == "1"


def test_what_a_stopped_command_has_started_is_stopped_too(gpu, tmp_path):
    alive = tmp_path / "alive"
    child = f"""import pathlib, time
while True:
    pathlib.Path({str(alive)!r}).write_text(str(time.time()))
    time.sleep(0.05)"""
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    result = gpu.call([sys.executable, "-c", parent], 1.5)
    assert result["exit"] == "timed out"
    assert alive.exists()
    before = alive.read_text()
    time.sleep(0.3)
    assert alive.read_text() == before


def test_the_steps_share_what_the_build_leaves_of_twenty_minutes(gpu, monkeypatch):
    names = [name for name, _, _ in gpu.STEPS]
    total = sum(seconds for _, _, seconds in gpu.STEPS)
    monkeypatch.setenv(gpu.STARTED, str(time.time() - 600))
    assert total * gpu.share_left(names) == pytest.approx(gpu.LIMIT_SECONDS - 600, rel=0.01)
    assert gpu.share_left(["triton"]) == 1
    monkeypatch.delenv(gpu.STARTED)
    assert total * gpu.share_left(names) <= gpu.LIMIT_SECONDS
