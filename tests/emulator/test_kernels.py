"""Every CUDA op against the fp64 truth through the emulator: exact on integers, within c * u * S on real data, and no
fault."""

import pytest
from cases import CASES
from judge import gpu_of, run_case

# A test runs a batch of seeds, so that the suite stays a few hundred items; the batch names the seed that failed.
BATCH = 50
QUICK, LONG = 400, 2100
# Shares of refused cases measured over 2,000 seeds stay below 6%.
REFUSED_AT_MOST = 0.15


def check(emulator, op, first):
    ran = sum(run_case(emulator, op, seed) for seed in range(first, first + BATCH))
    assert ran >= BATCH * (1 - REFUSED_AT_MOST), f"{op}: the planner refused {BATCH - ran} of {BATCH} cases"


@pytest.mark.parametrize("first", range(0, QUICK, BATCH))
@pytest.mark.parametrize("op", CASES)
def test_op_matches_the_truth(emulator, op, first):
    check(emulator, op, first)


@pytest.mark.long
@pytest.mark.parametrize("first", range(QUICK, LONG, BATCH))
@pytest.mark.parametrize("op", CASES)
def test_op_matches_the_truth_long(emulator, op, first):
    check(emulator, op, first)


def test_the_quick_cases_run_every_kernel(emulator):
    """Every instantiated kernel is met by the quick seeds: one that no case reaches is proven by nothing."""
    with emulator.dry():
        for op in CASES:
            for seed in range(QUICK):
                case = CASES[op](seed)
                emulator.run(op, case.fields, case.regions, gpu_of(case))
    built = emulator.kernels_built()
    assert len(built) > 50
    assert built - emulator.kernels_run() == set()
