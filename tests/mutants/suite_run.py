"""Runs an op's tests in a forked process: a fault dies with it, and torch is imported once for all mutants."""

import io
import multiprocessing
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest


class Outcome(NamedTuple):
    """`catcher` is the first test that failed, "" when all passed; `passed` counts those that did before."""

    catcher: str
    passed: int
    log: str


class _FirstFailure:
    """A pytest plugin that remembers what failed first."""

    def __init__(self) -> None:
        self.failed, self.passed = "", 0

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid.removeprefix("tests/ops/")
        self.passed += report.passed and report.when == "call"


def run_suite(op: str, plant: Callable[[], None]) -> Outcome:
    """The quick tests of `tests/ops/test_<op>.py` after `plant()`, stopped at the first failure."""
    # The compiler tests are slow to start and look at tracing, not at numbers.
    return run_tests(f"tests/ops/test_{op}.py", "not compile and not export", plant)


def run_tests(path: str, keywords: str, plant: Callable[[], None]) -> Outcome:
    """The quick tests of a file, chosen by a -k expression, after `plant()`; stopped at the first failure."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(path, keywords, plant, sender))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        # A fault that kills the process (by a signal) is noticed too; one that could not be planted proves nothing.
        process.join()
        ended = f"process ended with code {process.exitcode}"
        outcome = Outcome(ended if process.exitcode < 0 else "", 0, ended)
    process.join()
    return outcome


def _child(path: str, keywords: str, plant: Callable[[], None], sender) -> None:
    log, plugin = io.StringIO(), _FirstFailure()
    with redirect_stdout(log), redirect_stderr(log):
        plant()
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:terminalreporter", "-m", "not long"]
        code = pytest.main([*options, "-k", keywords, path], plugins=[plugin])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        plugin.failed, plugin.passed = "", 0
        log.write(f"pytest ended with {code}")
    sender.send(Outcome(plugin.failed, plugin.passed, log.getvalue()))
