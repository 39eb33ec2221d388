"""The suite against planted faults: each must make a test of `tests/ops` fail. A survivor is a hole in the suite."""

import pytest
import torch

from tests.mutants.faults import FAULTS
from tests.mutants.suite_run import run_suite

pytestmark = pytest.mark.long

MUTANTS = [(fault, op) for fault, (_, ops) in FAULTS.items() for op in ops]


@pytest.fixture(autouse=True)
def one_thread():
    """A forked process must not inherit a running thread pool."""
    torch.set_num_threads(1)


@pytest.mark.parametrize("op", sorted({op for _, op in MUTANTS}))
def test_suite_passes_without_a_fault(op):
    outcome = run_suite(op, lambda: None)
    assert not outcome.catcher, outcome.log[-3000:]
    assert outcome.passed > 50


@pytest.mark.parametrize(("fault", "op"), MUTANTS, ids=[f"{fault}-{op}" for fault, op in MUTANTS])
def test_fault_is_caught(fault, op, record_mutant):
    outcome = run_suite(op, lambda: FAULTS[fault][0](op))
    record_mutant(f"{fault}:{op}", outcome.catcher)
    assert outcome.catcher, f"no test of {op} notices {fault}\n{outcome.log[-1000:]}"
