"""bn_act_conv2d with groups == C. The dense case is in test_bn_act_conv2d.py."""

import itertools
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightops.reference import training as reference
from tests.ops.training.oracle import (
    DTYPES,
    DX_FACTOR,
    ISAS,
    Norm,
    bounded,
    check_threads,
    draw,
    exact,
    exact_norm,
    gradients,
    isa,
    magnitude_norm_backward,
    magnitude_u,
    run,
    sliced,
    upstream,
    whole,
)

EVERYTHING = [True, True, True, True]


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    bias: bool = False
    act: str = "relu"
    norm: bool = True
    batch: bool = True

    def geometry(self) -> tuple:
        return list(self.stride), list(self.padding), list(self.dilation), self.shape[1], False

    def weight_shape(self) -> tuple[int, ...]:
        return (self.shape[1], 1, *self.kernel)

    def fits(self) -> bool:
        sizes = zip(self.shape[2:], self.padding, self.dilation, self.kernel, strict=True)
        return all(size + 2 * p > d * (k - 1) for size, p, d, k in sizes)

    def __str__(self) -> str:
        rest = [f"{k}={v}" for k, v in self._asdict().items() if v != self._field_defaults.get(k)]
        return " ".join(rest)


CASES = (
    Case((1, 1, 1, 2)),
    Case((2, 3, 5, 7), bias=True),
    Case((2, 33, 9, 11), act="relu6"),
    Case((3, 64, 7, 7), bias=True),
    Case((2, 48, 14, 14), stride=(2, 2), act="relu6"),
    Case((2, 40, 13, 15), stride=(2, 2), act="none", bias=True),
    Case((1, 17, 28, 30), batch=False),
    Case((2, 20, 6, 5), act="hardswish"),
    Case((1, 37, 8, 8), act="silu", batch=False, bias=True),
    Case((2, 33, 6, 6), norm=False),
    Case((2, 33, 6, 6), norm=False, act="none"),
    Case((2, 32, 12, 9), stride=(2, 2), norm=False, act="none", bias=True),
    Case((2, 24, 11, 12), (5, 5), padding=(2, 2), act="hardswish"),
    Case((1, 24, 12, 11), (5, 5), (2, 2), (2, 2)),
    Case((1, 18, 9, 10), (7, 7), padding=(3, 3)),
    Case((1, 18, 15, 10), (7, 7), (2, 2), (3, 3), batch=False),
    Case((2, 20, 9, 9), padding=(2, 2), dilation=(2, 2), bias=True),
    Case((1, 19, 9, 9), (5, 5), (2, 2), (4, 4), (2, 2)),
    Case((2, 20, 8, 9), stride=(1, 2)),
    Case((2, 20, 8, 9), stride=(2, 1), padding=(0, 1)),
    Case((1, 16, 10, 11), stride=(3, 3)),
    Case((1, 17, 5, 6), (1, 1), padding=(0, 0)),
    Case((1, 17, 5, 6), (1, 1), (2, 2), (1, 0)),
    Case((1, 6, 9, 8), (5, 2), (1, 3), (2, 1)),
    Case((1, 6, 12, 12), (9, 9), padding=(4, 4)),
    Case((1, 130, 3, 4), padding=(2, 0)),
    Case((1, 8, 41, 7), padding=(5, 6), batch=False),
)


def setup(case: Case, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Norm, Tensor, Tensor | None]:
    x, n = draw(case.shape, dtype, case.act, seed=seed, batch=case.batch, norm=case.norm)
    g = torch.Generator().manual_seed(seed + 50)
    weight = torch.randn(case.weight_shape(), generator=g, dtype=torch.float64).to(dtype)
    bias = torch.randn(case.shape[1], generator=g, dtype=torch.float64).to(dtype) if case.bias else None
    return x, n, weight, bias


def forward(case: Case, n: Norm, batch: bool):
    n = n.double()

    def call(x, gamma, beta, weight, bias):
        return reference.bn_act_conv2d(
            x, n.mean, n.var, gamma, beta, n.eps, n.act, weight, bias, *case.geometry(), False, batch
        )[0]

    return call


def magnitude_conv(case: Case, s_u: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    bias = None if bias is None else bias.double().abs()
    return F.conv2d(s_u, weight.double().abs(), bias, case.stride, case.padding, case.dilation, case.shape[1])


def optional(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.double()


def check_forward(case: Case, results, x, n, weight, bias, judge) -> None:
    y, mean, var = results
    assert y.is_contiguous(memory_format=torch.channels_last)
    expected = forward(case, n, False)(x.double(), optional(n.gamma), optional(n.beta), weight.double(), optional(bias))
    judge(y, expected, magnitude_conv(case, magnitude_u(x, n), weight, bias), weight[0].numel())
    # The statistics are those of the y that was stored.
    stored = y.double()
    expected_mean, expected_var = reference.batch_stats(stored)
    bounded(mean, expected_mean, stored.abs().mean((0, 2, 3)))
    bounded(var, expected_var, expected_var + 1e-6 * stored.square().mean((0, 2, 3)))


def check_backward(case: Case, results, dy, x, n, weight, bias, judge) -> None:
    dx, dgamma, dbeta, dweight, dbias = results
    assert dx.is_contiguous(memory_format=torch.channels_last)
    expected = gradients(forward(case, n, n.batch), [x, n.gamma, n.beta, weight, bias], dy)
    s_u = magnitude_u(x, n).requires_grad_()
    s_w = weight.double().abs().requires_grad_()
    s_du, s_dw = torch.autograd.grad(magnitude_conv(case, s_u, s_w), [s_u, s_w], dy.double().abs())
    s_dx, s_gamma, s_beta = magnitude_norm_backward(x, n, s_du)
    pixels, terms = x.numel() // x.shape[1], weight[0].numel()
    judge(dx, expected[0], s_dx, terms + pixels, DX_FACTOR)
    if n.mean is not None:
        judge(dgamma, expected[1], s_gamma, terms + pixels)
        judge(dbeta, expected[2], s_beta, terms + pixels)
    else:
        assert dgamma.numel() == dbeta.numel() == 0
    judge(dweight, expected[3], s_dw.detach(), pixels)
    if bias is not None:
        judge(dbias, expected[4], dy.double().abs().sum((0, 2, 3)), pixels)


def call_forward(case: Case, x, n, weight, bias, stats: bool = True):
    return run("bn_act_conv2d", x, *n.flat(), weight, bias, *case.geometry(), stats)


def call_backward(case: Case, dy, x, n, weight, needs=EVERYTHING):
    return run("bn_act_conv2d_backward", dy, x, *n.flat(), weight, *case.geometry(), n.batch, list(needs))


def judge_bounded(actual, expected, magnitude, terms, factor=1.0) -> None:
    bounded(actual, expected, magnitude.detach(), terms, factor)


def judge_exact(actual, expected, magnitude, terms, factor=1.0) -> None:
    exact(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bounded(name, dtype, case):
    """Real numbers against float64, dense and as slices of wider buffers that are NaN elsewhere."""
    x, n, weight, bias = setup(case, dtype)
    guarded = sliced(x)
    with isa(name):
        results = call_forward(case, x, n, weight, bias)
        again = call_forward(case, guarded.tensor, n, weight, bias)
        dy = upstream(tuple(results[0].shape), dtype)
        guarded_dy = sliced(dy)
        back = call_backward(case, dy, x, n, weight)
        from_slices = call_backward(case, guarded_dy.tensor, guarded.tensor, n, weight)
    guarded.check_unchanged("x")
    guarded_dy.check_unchanged("dy")
    for found in (results, again):
        check_forward(case, found, x, n, weight, bias, judge_bounded)
    for found in (back, from_slices):
        check_backward(case, found, dy, x, n, weight, bias, judge_bounded)


def check_exactly(case: Case, dtype: torch.dtype) -> None:
    """Whole numbers, a norm whose scale is a power of two: nothing rounds."""
    x, weight = whole(case.shape, 7, 1, dtype), whole(case.weight_shape(), 2, 2, dtype).contiguous()
    n = exact_norm(case.shape[1], case.act, dtype)
    if not case.norm:
        n = Norm(None, None, None, None, 0.0, case.act, False)
    bias = whole((case.shape[1],), 3, 3, dtype) if case.bias else None
    results = call_forward(case, x, n, weight, bias)
    dy = whole(tuple(results[0].shape), 3, 4, dtype)
    back = call_backward(case, dy, x, n, weight)
    check_forward(case, results, x, n, weight, bias, judge_exact)
    check_backward(case, back, dy, x, n, weight, bias, judge_exact)


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
                check_exactly(Case((1, channels, 5, 8), stride=(stride, stride)), torch.float32)
            for channels in (127, 128, 129, 256, 257):
                check_exactly(Case((1, channels, 4, 7)), torch.float32)

    @pytest.mark.parametrize("kernel", [3, 5])
    def test_maps(self, name, kernel):
        """Every width up to 17, both strides, every padding; heights cycle beside them."""
        with isa(name):
            for width, stride, padding in itertools.product(range(1, 18), (1, 2), range(kernel)):
                height = (5 * width + 3 * padding + stride) % 17 + 1
                case = Case((2, 19, height, width), (kernel, kernel), (stride, stride), (padding, padding))
                if case.fits():
                    check_exactly(case, torch.float32)


class TestContract:
    @pytest.mark.parametrize("case", [CASES[2], CASES[6], CASES[9], CASES[11], CASES[12]], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_needs(self, case, dtype):
        """Only what is wanted comes back, and it does not depend on what else is wanted."""
        x, n, weight, bias = setup(case, dtype)
        y, _, _ = call_forward(case, x, n, weight, bias, stats=False)
        dy = upstream(tuple(y.shape), dtype)
        everything = call_backward(case, dy, x, n, weight)
        for needs in itertools.product([False, True], repeat=4):
            some = call_backward(case, dy, x, n, weight, needs)
            wanted = (needs[0], needs[1], needs[1], needs[2], needs[3])
            for got, full, want in zip(some, everything, wanted, strict=True):
                assert torch.equal(got, full) if want else got.numel() == 0

    def test_without_statistics(self):
        case = CASES[1]
        x, n, weight, bias = setup(case, torch.float32)
        with_them, without = (call_forward(case, x, n, weight, bias, stats) for stats in (True, False))
        assert torch.equal(with_them[0], without[0])
        assert without[1].numel() == without[2].numel() == 0

    @pytest.mark.parametrize(
        "case",
        [
            Case((4, 64, 56, 56)),
            Case((2, 96, 57, 55), stride=(2, 2), bias=True),
            Case((8, 512, 7, 7), act="relu6"),
            Case((1, 32, 112, 112), bias=True),
            Case((4, 72, 28, 28), (5, 5), (2, 2), (2, 2), act="hardswish"),
            Case((4, 64, 28, 28), norm=False, act="none"),
            # Gradients that are written past the caches, and sums long enough to be taken chunk by chunk.
            Case((3, 64, 56, 56), norm=False, act="none"),
            Case((4, 64, 50, 47), stride=(2, 2), norm=False, act="none"),
            Case((11, 16, 56, 57)),
            Case((11, 17, 56, 57), norm=False, act="none", bias=True),
        ],
        ids=str,
    )
    def test_does_not_depend_on_threads(self, case):
        x, n, weight, bias = setup(case, torch.float32)
        check_threads("bn_act_conv2d", x, *n.flat(), weight, bias, *case.geometry(), True)
        y, _, _ = call_forward(case, x, n, weight, bias)
        dy = upstream(tuple(y.shape), torch.float32)
        check_threads("bn_act_conv2d_backward", dy, x, *n.flat(), weight, *case.geometry(), n.batch, EVERYTHING)
        check_backward(case, call_backward(case, dy, x, n, weight), dy, x, n, weight, bias, judge_bounded)

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("kernel", [3, 5])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_non_finite(self, stride, kernel, value):
        """A value that is not finite reaches what its window covers and nothing else; padding never multiplies it."""
        case = Case((1, 18, 9, 9), (kernel, kernel), (stride, stride), (kernel // 2,) * 2, norm=False, act="none")
        x, n, weight, bias = setup(case, torch.float32)
        clean = call_forward(case, x, n, weight, bias)[0]
        for place in (0, 4, 8):
            spoiled = x.clone()
            spoiled[0, 4, place, place] = value
            y, _, _ = call_forward(case, spoiled, n, weight, bias)
            assert torch.equal(y.isfinite(), self.finite(case, spoiled, weight))
            dy = upstream(tuple(clean.shape), torch.float32)
            dweight = call_backward(case, dy, spoiled, n, weight)[3]
            assert dweight[[c for c in range(18) if c != 4]].isfinite().all()
            assert torch.equal(dweight[4].isfinite(), self.untouched(case, place))
            dy[0, 4, place // stride, place // stride] = value
            dx, _, _, dweight, _ = call_backward(case, dy, x, n, weight)
            assert torch.equal(dx.isfinite(), self.finite_gradient(case, dy, weight))
            assert dweight[[c for c in range(18) if c != 4]].isfinite().all()

    @staticmethod
    def finite(case: Case, x: Tensor, weight: Tensor) -> Tensor:
        spoiled = (~x.isfinite()).double()
        return magnitude_conv(case, spoiled, torch.ones_like(weight)) == 0

    @staticmethod
    def finite_gradient(case: Case, dy: Tensor, weight: Tensor) -> Tensor:
        x = torch.zeros(case.shape, dtype=torch.float64, requires_grad=True)
        y = magnitude_conv(case, x, torch.ones_like(weight))
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
        case = CASES[2]
        x, n, weight, bias = setup(case, torch.float32)
        y, mean, _ = call_forward(case, x[:0], n, weight, bias, stats=False)
        assert y.shape[0] == 0
        assert mean.numel() == 0
        assert all((t == 0).all() for t in call_backward(case, y, x[:0], n, weight))

    def test_weight_layouts(self):
        """channels_last and stepped weights are read by their strides; the gradient is dense."""
        case = CASES[2]
        x, n, weight, bias = setup(case, torch.float32)
        dense = call_forward(case, x, n, weight, bias)
        dy = upstream(tuple(dense[0].shape), torch.float32)
        back = call_backward(case, dy, x, n, weight)
        stepped = torch.stack([weight, weight], -1)[..., 0]
        for other in (weight.contiguous(memory_format=torch.channels_last), stepped):
            for a, b in zip(dense, call_forward(case, x, n, other, bias), strict=True):
                assert torch.equal(a, b)
            for a, b in zip(back, call_backward(case, dy, x, n, other), strict=True):
                assert torch.equal(a, b)

    def test_errors(self):
        case = CASES[2]
        x, n, weight, _ = setup(case, torch.float32)
        op, flat, geometry = torch.ops.lightops.bn_act_conv2d, n.flat(), case.geometry()
        with pytest.raises(RuntimeError, match="bn_act_conv2d: 'groups' is 33 with 33 input and 32 output channels"):
            op(x, *flat, weight[:32], None, *geometry, True)
        with pytest.raises(RuntimeError, match="bn_act_conv2d: 'pool' needs a 1x1"):
            op(x, *flat, weight, None, [1, 1], [1, 1], [1, 1], 33, True, True)
        with pytest.raises(RuntimeError, match="'mean' must be a contiguous CPU tensor of float32 with 33"):
            op(x, flat[0][:4], *flat[1:], weight, None, *geometry, True)
        with pytest.raises(RuntimeError, match=r"bn_act_conv2d_backward: 'dy' has shape .* want \[2, 33, 9, 11\]"):
            torch.ops.lightops.bn_act_conv2d_backward(x[..., :5], x, *flat, weight, *geometry, True, EVERYTHING)
