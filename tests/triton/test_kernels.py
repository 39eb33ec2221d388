"""Every Triton op against the fp64 truth, on the random cases of the CUDA kernels: tails, slices and every window."""

import importlib

import pytest
import torch
from block_cases import dense_block_truth
from cases import CASES, Case
from drawing import SENTINEL, compare

pytest.importorskip("triton", reason="triton is not installed: pip install 'lightops[triton]'")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the Triton kernels on the device")

BATCH = 20
QUICK, LONG = 60, 300


def run(op: str, case: Case) -> torch.Tensor:
    module = importlib.import_module(f"lightops.kernels.triton.{op}")
    if op == "dense_block":
        module.dense_block_(*case.schema)
        return case.out
    if op == "transition":
        module.transition_out(*case.schema[:-1], case.out)
        return case.out
    if op == "stem":
        x, w, bias, _, *rest = case.schema
        module.stem_out(x, w, bias, *rest, case.out)
        return case.out
    return getattr(module, op)(*case.schema)


def check(op: str, seed: int) -> None:
    case = CASES[op](seed)
    # The interpreter multiplies in full precision; where torch would allow tf32, the kernels ask for it, so it is
    # forbidden.
    case.draw.tf32 = False
    what = f"{op} seed {seed} ({'exact' if case.draw.exact else 'real'}) {case.text}"
    out = run(op, case)
    truth = dense_block_truth(case) if op == "dense_block" else (out, case.want, case.magnitude)
    compare(case.draw, *truth, what)
    if out is case.out:
        case.out.fill_(SENTINEL)
        assert (case.out_whole == SENTINEL).all(), f"{what}: channels beside the output slice were written"


@pytest.fixture(autouse=True)
def full_precision():
    # The context manager: torch's own test helpers, once imported into the process, forbid plain assignment.
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.mark.parametrize("first", range(0, QUICK, BATCH))
@pytest.mark.parametrize("op", CASES)
def test_op_matches_the_truth(op, first):
    for seed in range(first, first + BATCH):
        check(op, seed)


@pytest.mark.long
@pytest.mark.parametrize("first", range(QUICK, LONG, BATCH))
@pytest.mark.parametrize("op", CASES)
def test_op_matches_the_truth_long(op, first):
    for seed in range(first, first + BATCH):
        check(op, seed)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("act", [0, 1, 2])
def test_activations_keep_nan(value, act):
    from lightops.kernels.triton.conv1x1_bn_act import conv1x1_bn_act

    x = torch.ones(1, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    x[0, 2, 1, 1] = value
    out = conv1x1_bn_act(x, torch.ones(1, 8, 8), None, 8, act, None)
    stock = torch.nn.functional.conv2d(x, torch.ones(8, 8, 1, 1))
    want = {0: stock, 1: stock.relu(), 2: torch.nn.functional.relu6(stock)}[act]
    assert torch.equal(out.isnan(), want.isnan())
    assert torch.equal(out.nan_to_num(), want.nan_to_num())


def test_max_pool_keeps_nan():
    from lightops.kernels.triton.stem import stem

    x = torch.ones(1, 3, 20, 20)
    x[0, 0, 9, 9] = float("nan")
    w = torch.ones(8, 28)
    w[:, 27] = 0
    out = stem(x, w, None, 8, [3, 3], [2, 2], [1, 1], 0, [3, 2, 1, 0])
    stock = torch.nn.functional.max_pool2d(
        torch.nn.functional.conv2d(x, torch.ones(8, 3, 3, 3), stride=2, padding=1), 3, 2, 1
    )
    assert torch.equal(out.isnan(), stock.isnan())
    assert torch.equal(out.nan_to_num(), stock.nan_to_num())
