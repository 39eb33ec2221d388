"""Every training op in CUDA against the fp64 truth through the emulator, as test_kernels.py does for inference."""

import pytest
from judge import gpu_of
from training_cases import CASES
from training_cases.case import run

BATCH = 25
QUICK, LONG = 200, 1000


def check(emulator, op, first):
    for seed in range(first, first + BATCH):
        case = CASES[op](seed)
        assert run(emulator, case, gpu_of(case), seed)


@pytest.mark.parametrize("first", range(0, QUICK, BATCH))
@pytest.mark.parametrize("op", CASES)
def test_training_op_matches_the_truth(emulator, op, first):
    check(emulator, op, first)


@pytest.mark.long
@pytest.mark.parametrize("first", range(QUICK, LONG, BATCH))
@pytest.mark.parametrize("op", CASES)
def test_training_op_matches_the_truth_long(emulator, op, first):
    check(emulator, op, first)
