"""bn_act_conv2d with groups == C. The dense case is in test_bn_act_conv2d.py."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.ops.training.conv import (
    EVERYTHING,
    Case,
    check_any_threads,
    check_boundedly,
    check_empty_batch,
    check_exactly,
    check_needs,
    check_without_statistics,
    depthwise,
    drawn,
    magnitude_conv,
)
from tests.ops.training.oracle import DTYPES, ISAS, isa, upstream

CASES = (
    depthwise((1, 1, 1, 2)),
    depthwise((2, 3, 5, 7), bias=True),
    depthwise((2, 33, 9, 11), act="relu6"),
    depthwise((3, 64, 7, 7), bias=True),
    depthwise((2, 48, 14, 14), stride=(2, 2), act="relu6"),
    depthwise((2, 40, 13, 15), stride=(2, 2), act="none", bias=True),
    depthwise((1, 17, 28, 30), batch=False),
    depthwise((2, 20, 6, 5), act="hardswish"),
    depthwise((1, 37, 8, 8), act="silu", batch=False, bias=True),
    depthwise((2, 33, 6, 6), norm=False),
    depthwise((2, 33, 6, 6), norm=False, act="none"),
    depthwise((2, 32, 12, 9), stride=(2, 2), norm=False, act="none", bias=True),
    depthwise((2, 24, 11, 12), (5, 5), padding=(2, 2), act="hardswish"),
    depthwise((1, 24, 12, 11), (5, 5), (2, 2), (2, 2)),
    depthwise((1, 18, 9, 10), (7, 7), padding=(3, 3)),
    depthwise((1, 18, 15, 10), (7, 7), (2, 2), (3, 3), batch=False),
    depthwise((2, 20, 9, 9), padding=(2, 2), dilation=(2, 2), bias=True),
    depthwise((1, 19, 9, 9), (5, 5), (2, 2), (4, 4), (2, 2)),
    depthwise((2, 20, 8, 9), stride=(1, 2)),
    depthwise((2, 20, 8, 9), stride=(2, 1), padding=(0, 1)),
    depthwise((1, 16, 10, 11), stride=(3, 3)),
    depthwise((1, 17, 5, 6), (1, 1), padding=(0, 0)),
    depthwise((1, 17, 5, 6), (1, 1), (2, 2), (1, 0)),
    depthwise((1, 6, 9, 8), (5, 2), (1, 3), (2, 1)),
    depthwise((1, 6, 12, 12), (9, 9), padding=(4, 4)),
    depthwise((1, 130, 3, 4), padding=(2, 0)),
    depthwise((1, 8, 41, 7), padding=(5, 6), batch=False),
    # Whole vectors of channels: the norm's part is taken beside the gradients.
    depthwise((2, 32, 9, 8), (5, 5), padding=(2, 2), act="relu6"),
    depthwise((1, 32, 12, 11), (5, 5), (2, 2), (2, 2), act="none"),
    depthwise((2, 32, 10, 9), stride=(1, 2), act="relu6"),
    depthwise((2, 64, 66, 66), stride=(2, 2), act="none"),  # dx goes past the caches in float64
    # Pixels that share few sets of L1: rows of dy are copied side by side.
    depthwise((2, 1024, 6, 5), act="relu6"),
    depthwise((1, 512, 7, 9), norm=False, act="none", bias=True),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bounded(name, dtype, case):
    with isa(name):
        check_boundedly(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("case", [c for c in CASES if c.act in ("none", "relu", "relu6")], ids=str)
def test_exact(name, dtype, case):
    with isa(name):
        check_exactly(case, dtype)


@pytest.mark.parametrize("name", ISAS)
class TestTails:
    def test_channels(self, name):
        """From one channel to two vectors of the widest kind and one, both strides."""
        with isa(name):
            for channels, stride in itertools.product(range(1, 34), (1, 2)):
                check_exactly(depthwise((1, channels, 5, 8), stride=(stride, stride)), torch.float32)
            for channels in (127, 128, 129, 256, 257):
                check_exactly(depthwise((1, channels, 4, 7)), torch.float32)

    @pytest.mark.parametrize("kernel", [3, 5])
    def test_maps(self, name, kernel):
        """Every width up to 17, both strides, every padding; heights cycle beside them."""
        with isa(name):
            for width, stride, padding in itertools.product(range(1, 18), (1, 2), range(kernel)):
                height = (5 * width + 3 * padding + stride) % 17 + 1
                case = depthwise((2, 19, height, width), (kernel, kernel), (stride, stride), (padding, padding))
                if case.fits():
                    check_exactly(case, torch.float32)

    @pytest.mark.parametrize("channels", [32, 1024])
    def test_walked_maps(self, name, channels):
        """Every width and height up to 8 where whole vectors of channels walk along rows, both strides."""
        with isa(name):
            for height, width, stride in itertools.product(range(1, 9), range(1, 9), (1, 2)):
                check_exactly(depthwise((1, channels, height, width), stride=(stride, stride)), torch.float32)
                check_exactly(
                    depthwise((1, channels, height, width), stride=(stride, stride), norm=False, act="none"),
                    torch.float32,
                )
            check_exactly(depthwise((1, 64, 3, 195), stride=(2, 2)), torch.float32)


class TestContract:
    @pytest.mark.parametrize("case", [CASES[2], CASES[6], CASES[9], CASES[11], CASES[12]], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_needs(self, case, dtype):
        check_needs(case, dtype)

    def test_without_statistics(self):
        check_without_statistics(CASES[1])

    @pytest.mark.parametrize(
        "case",
        [
            depthwise((4, 64, 56, 56)),
            depthwise((2, 96, 57, 55), stride=(2, 2), bias=True),
            depthwise((8, 512, 7, 7), act="relu6"),
            depthwise((1, 32, 112, 112), bias=True),
            depthwise((4, 72, 28, 28), (5, 5), (2, 2), (2, 2), act="hardswish"),
            depthwise((4, 64, 28, 28), norm=False, act="none"),
            # Gradients that are written past the caches, and sums long enough to be taken chunk by chunk.
            depthwise((4, 64, 56, 56), norm=False, act="none"),
            depthwise((6, 64, 50, 47), stride=(2, 2), norm=False, act="none"),
            depthwise((3, 64, 66, 66), stride=(2, 2)),
            depthwise((11, 16, 56, 57)),
            depthwise((11, 17, 56, 57), norm=False, act="none", bias=True),
        ],
        ids=str,
    )
    def test_does_not_depend_on_threads(self, case):
        check_any_threads(case)

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize(("kernel", "channels"), [(3, 18), (3, 32), (3, 512), (5, 18)])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_non_finite(self, stride, kernel, channels, value):
        """A value that is not finite reaches what its window covers and nothing else; padding never multiplies it."""
        shape = (1, channels, 9, 9)
        case = depthwise(shape, (kernel, kernel), (stride, stride), (kernel // 2,) * 2, norm=False, act="none")
        call = drawn(case)
        others = [c for c in range(channels) if c != 4]
        for place in (0, 4, 8):
            x = call.x.clone()
            x[0, 4, place, place] = value
            spoiled = call._replace(x=x)
            y, _, _ = spoiled.forward()
            assert torch.equal(y.isfinite(), self.finite(case, x))
            dy = upstream(tuple(y.shape), torch.float32)
            dweight = spoiled.backward(dy)[3]
            assert dweight[others].isfinite().all()
            assert torch.equal(dweight[4].isfinite(), self.untouched(case, place))
            dy[0, 4, place // stride, place // stride] = value
            dx, _, _, dweight, _ = call.backward(dy)
            assert torch.equal(dx.isfinite(), self.finite_gradient(case, dy))
            assert dweight[others].isfinite().all()

    @staticmethod
    def finite(case: Case, x: Tensor) -> Tensor:
        return magnitude_conv(case, (~x.isfinite()).double(), torch.ones(case.weight_shape())) == 0

    @staticmethod
    def finite_gradient(case: Case, dy: Tensor) -> Tensor:
        x = torch.zeros(case.shape, dtype=torch.float64, requires_grad=True)
        y = magnitude_conv(case, x, torch.ones(case.weight_shape()))
        return torch.autograd.grad(y, x, (~dy.isfinite()).double())[0] == 0

    @staticmethod
    def untouched(case: Case, place: int) -> Tensor:
        """Taps of the weight that no output uses at pixel (place, place)."""
        weight = torch.ones(case.weight_shape(), dtype=torch.float64, requires_grad=True)
        x = torch.zeros(case.shape, dtype=torch.float64)
        x[0, 4, place, place] = 1
        y = F.conv2d(x, weight, None, case.stride, case.padding, case.dilation, case.shape[1])
        return torch.autograd.grad(y.sum(), weight)[0][4] == 0

    def test_empty_batch(self):
        check_empty_batch(CASES[2])

    def test_weight_layouts(self):
        """channels_last and stepped weights are read by their strides; the gradient is dense."""
        call = drawn(CASES[2])
        weight = call.weight
        results = call.forward()
        dy = upstream(tuple(results[0].shape), torch.float32)
        back = call.backward(dy)
        stepped = torch.stack([weight, weight], -1)[..., 0]
        for other in (weight.contiguous(memory_format=torch.channels_last), stepped):
            strided = call._replace(weight=other)
            for a, b in zip((*results, *back), (*strided.forward(), *strided.backward(dy)), strict=True):
                assert torch.equal(a, b)

    def test_errors(self):
        _, x, n, weight, _ = drawn(CASES[2])
        op, flat, geometry = torch.ops.lightops.bn_act_conv2d, n.flat(), CASES[2].geometry()
        with pytest.raises(RuntimeError, match="bn_act_conv2d: 'groups' is 33 with 33 input and 32 output channels"):
            op(x, *flat, weight[:32], None, *geometry, True)
        with pytest.raises(RuntimeError, match="bn_act_conv2d: 'pool' needs a 1x1"):
            op(x, *flat, weight, None, [1, 1], [1, 1], [1, 1], 33, True, True)
        with pytest.raises(RuntimeError, match="'mean' must be a contiguous CPU tensor of float32 with 33"):
            op(x, flat[0][:4], *flat[1:], weight, None, *geometry, True)
        with pytest.raises(RuntimeError, match=r"bn_act_conv2d_backward: 'dy' has shape .* want \[2, 33, 9, 11\]"):
            torch.ops.lightops.bn_act_conv2d_backward(x[..., :5], x, *flat, weight, *geometry, True, list(EVERYTHING))
