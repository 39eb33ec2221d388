"""bn_act_conv2d with groups == 1. The depthwise case is in test_bn_act_depthwise.py."""

import pytest
import torch

from tests.ops.training.conv import (
    EVERYTHING,
    Case,
    check_any_threads,
    check_boundedly,
    check_empty_batch,
    check_exactly,
    check_needs,
    check_without_statistics,
    drawn,
    expected_y,
)
from tests.ops.training.oracle import DTYPES, ISAS, isa

CASES = (
    Case((1, 1, 1, 2), 1),
    Case((2, 3, 5, 7), 5, bias=True),
    Case((2, 64, 9, 11), 33, act="relu6"),
    Case((3, 17, 4, 3), 130, batch=False),
    Case((2, 40, 6, 5), 64, act="none"),
    Case((2, 20, 6, 5), 24, act="hardswish", bias=True),
    Case((1, 37, 8, 8), 16, act="silu", batch=False),
    Case((2, 33, 6, 6), 20, norm=False),
    Case((2, 33, 6, 6), 20, norm=False, act="none"),
    Case((2, 24, 8, 6), 17, pool=True),
    Case((2, 70, 7, 9), 33, pool=True, bias=True),
    Case((1, 8, 4, 4), 8, pool=True, batch=False, act="none"),
    Case((2, 3, 13, 11), 32, (3, 3), (2, 2), (1, 1), norm=False, act="none"),
    Case((1, 3, 20, 17), 24, (7, 7), (2, 2), (3, 3), norm=False, act="none", bias=True),
    Case((2, 4, 9, 9), 20, (3, 3), (2, 2), (0, 0)),
    Case((2, 18, 9, 8), 21, (3, 3), padding=(1, 1)),
    Case((2, 32, 7, 7), 33, (3, 3), padding=(1, 1), act="relu6", bias=True),
    Case((1, 5, 6, 7), 6, (3, 3), padding=(2, 0)),
    Case((2, 20, 8, 9), 17, (3, 3), (2, 2), (1, 1)),
    Case((2, 20, 8, 9), 17, (1, 1), (2, 2)),
    Case((1, 16, 7, 7), 9, (1, 1), padding=(1, 1)),
    Case((1, 18, 9, 9), 5, (3, 3), padding=(2, 2), dilation=(2, 2)),
    Case((1, 3, 9, 9), 17, (3, 3), padding=(2, 2), dilation=(2, 2), batch=False),
    Case((1, 6, 9, 8), 7, (5, 2), (1, 3), (2, 1)),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bounded(name, dtype, case):
    with isa(name):
        check_boundedly(case, dtype)


# In 16 bits dz is stored, and whole numbers beyond 256 round there.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("case", [c for c in CASES if c.act in ("none", "relu", "relu6")], ids=str)
def test_exact(name, dtype, case):
    with isa(name):
        check_exactly(case, dtype)


class TestContract:
    @pytest.mark.parametrize("case", [CASES[2], CASES[9], CASES[15], CASES[18], CASES[14]], ids=str)
    def test_needs(self, case):
        check_needs(case, torch.float32)

    def test_without_statistics(self):
        check_without_statistics(CASES[1])

    @pytest.mark.parametrize(
        "case",
        [
            Case((4, 64, 56, 56), 128),
            Case((8, 256, 7, 7), 512),
            Case((8, 480, 14, 14), 240, pool=True),
            Case((4, 3, 65, 63), 32, (3, 3), (2, 2), (1, 1), norm=False, act="none"),
            Case((4, 64, 28, 28), 64, (3, 3), padding=(1, 1)),
            Case((4, 64, 28, 28), 128, (3, 3), (2, 2), (1, 1)),
            Case((3, 17, 37, 41), 19, bias=True),
        ],
        ids=str,
    )
    def test_does_not_depend_on_threads(self, case):
        check_any_threads(case)

    def test_nan(self):
        """A NaN pixel reaches exactly what its window covers."""
        call = drawn(Case((1, 18, 7, 7), 20, (3, 3), padding=(1, 1), batch=False))
        call.x[0, 4, 3, 3] = float("nan")
        y, mean, _ = call.forward()
        assert torch.equal(y.isnan(), expected_y(call).isnan())
        assert mean.isnan().all()

    def test_empty_batch(self):
        check_empty_batch(CASES[2])

    def test_errors(self):
        _, x, n, weight, _ = drawn(CASES[2])
        op, flat, geometry = torch.ops.lightops.bn_act_conv2d, n.flat(), CASES[2].geometry()
        with pytest.raises(RuntimeError, match=r"bn_act_conv2d: 'weight' of shape .* expects 63 channels, got 64"):
            op(x, *flat, weight[:, :63], None, *geometry, True)
        with pytest.raises(RuntimeError, match="bn_act_conv2d: 'weight' has scalar type"):
            op(x, *flat, weight.double(), None, *geometry, True)
        with pytest.raises(RuntimeError, match="bn_act_conv2d: 'pool' needs a 1x1"):
            op(x, *flat, weight, None, [2, 2], [0, 0], [1, 1], 1, True, True)
        with pytest.raises(RuntimeError, match="bn_act_conv2d: 'groups' is 2"):
            op(x, *flat, weight[:, :32], None, [1, 1], [0, 0], [1, 1], 2, False, True)
        with pytest.raises(RuntimeError, match=r"bn_act_conv2d_backward: 'dy' has shape .* want \[2, 33, 9, 11\]"):
            torch.ops.lightops.bn_act_conv2d_backward(x, x, *flat, weight, *geometry, True, list(EVERYTHING))
