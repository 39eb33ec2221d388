"""Every CUDA op against the fp64 truth through the emulator: exact on integers, within c * u * S on real data, and no
fault."""

import pytest
import torch
from cases import CASES
from drawing import pack, pack_depthwise
from harness import ACT_CODES, DTYPE_CODES, Gpu, nhwc_fields, pointer, window_fields
from judge import gpu_of, run_case
from torch.nn import functional as F
from training_cases import CASES as TRAINING_CASES

# A test runs a batch of seeds, so that the suite stays a few hundred items; the batch names the seed that failed.
BATCH = 50
QUICK, LONG = 400, 2100
TRAINING_QUICK = 200  # of test_training.py
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


# A warp convolves two chunks of 8 channels at a time.
@pytest.mark.parametrize("channel", [3, 11])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_one_channel_that_is_not_finite_stays_one(emulator, bad, channel):
    """Depthwise products on the tensor cores multiply neighbouring channels by zeros, which an infinity would turn into
    NaN; ReLU6 makes the infinity a 6, as stock does, and a NaN reaches the pixels of its own windows only."""
    torch.manual_seed(0)
    x = torch.randn(1, 16, 7, 9)
    x[0, channel, 2, 4] = bad
    dw, pw = torch.rand(16, 1, 3, 3) + 0.5, torch.randn(24, 16, 1, 1)
    half = [t.half().double() for t in (x, dw, pw)]
    want = F.conv2d(F.relu6(F.conv2d(half[0], half[1], padding=1, groups=16)), half[2])
    xs = x.half().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    out = torch.empty(1, 7, 9, 24, dtype=torch.float16).permute(0, 3, 1, 2)
    packed = pack_depthwise(half[1], torch.float16), pack(half[2], torch.float16)
    fields = [DTYPE_CODES[torch.float16], *nhwc_fields(xs), *nhwc_fields(out), *nhwc_fields(None), pointer(packed[0]),
              0, ACT_CODES["relu6"], *window_fields(3, 1, 1), pointer(packed[1]), 0, ACT_CODES["none"]]  # fmt: skip
    regions = [(xs, False, "x"), (out, True, "out"), (packed[0], False, "dw"), (packed[1], False, "pw")]
    assert emulator.run("depthwise_pointwise", fields, regions, Gpu()).faults == []
    assert torch.equal(out.isfinite(), want.isfinite())
    torch.testing.assert_close(out.double(), want, rtol=5e-3, atol=2e-2, equal_nan=True)


def test_the_quick_cases_run_every_kernel(emulator):
    """Every instantiated kernel is met by the quick seeds: one that no case reaches is proven by nothing."""
    with emulator.dry():
        for op in CASES:
            for seed in range(QUICK):
                case = CASES[op](seed)
                emulator.run(op, case.fields, case.regions, gpu_of(case))
        for draw in TRAINING_CASES.values():
            for seed in range(TRAINING_QUICK):
                case = draw(seed)
                emulator.run(case.op, case.fields, case.regions, gpu_of(case))
    built = emulator.kernels_built()
    assert len(built) > 50
    assert built - emulator.kernels_run() == set()
