"""Collects what became of every mutant and prints the table at the end of the run."""

import pytest

_CAUGHT = pytest.StashKey[list[tuple[str, str]]]()


def pytest_configure(config):
    config.stash[_CAUGHT] = []


@pytest.fixture
def record_mutant(request):
    """`record_mutant(name, catcher)`: one row of the table; an empty catcher is a survivor."""
    return lambda name, catcher: request.config.stash[_CAUGHT].append((name, catcher))


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[_CAUGHT]
    if not rows:
        return
    width = max(len(name) for name, _ in rows)
    terminalreporter.section("mutants")
    for name, catcher in rows:
        terminalreporter.write_line(f"{name:<{width}}  {catcher or 'SURVIVED'}")
    terminalreporter.write_line(f"{sum(bool(catcher) for _, catcher in rows)} of {len(rows)} caught")
