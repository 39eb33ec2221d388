"""The training tests against planted faults: each must make one of them fail. A survivor is a hole in the tests."""

import pytest
import torch

from tests.mutants.suite_run import run_tests
from tests.mutants.training_faults import FAULTS

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def one_thread():
    """A forked process must not inherit a running thread pool."""
    torch.set_num_threads(1)


@pytest.mark.parametrize(("path", "keywords"), sorted({(path, keywords) for _, path, keywords in FAULTS.values()}))
def test_tests_pass_without_a_fault(path, keywords):
    outcome = run_tests(path, keywords, lambda: None)
    assert not outcome.catcher, outcome.log[-3000:]
    assert outcome.passed > 1


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught(fault, record_mutant):
    plant, path, keywords = FAULTS[fault]
    outcome = run_tests(path, keywords, plant)
    record_mutant(f"training:{fault}", outcome.catcher)
    assert outcome.catcher, f"{path} -k {keywords!r} does not notice {fault}\n{outcome.log[-1000:]}"
