"""bn_act_conv2d with groups == 1. The depthwise case is in test_bn_act_depthwise.py."""

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

# Winograd F(2x2, 3x3) sums other terms than the direct form: this many times their magnitude (testing/oracle.py has it
# exactly; here an upper bound is enough).
WINOGRAD = 4.0


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    pool: bool = False
    bias: bool = False
    act: str = "relu"
    norm: bool = True
    batch: bool = True

    def geometry(self) -> tuple:
        return list(self.stride), list(self.padding), list(self.dilation), 1, self.pool

    def weight_shape(self) -> tuple[int, ...]:
        return (self.outputs, self.shape[1], *self.kernel)

    def factor(self) -> float:
        return WINOGRAD if self.kernel == (3, 3) and self.stride == self.dilation == (1, 1) else 1.0

    def __str__(self) -> str:
        rest = [f"{k}={v}" for k, v in self._asdict().items() if v != self._field_defaults.get(k)]
        return " ".join(rest)


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


def setup(case: Case, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Norm, Tensor, Tensor | None]:
    x, n = draw(case.shape, dtype, case.act, seed=seed, batch=case.batch, norm=case.norm)
    g = torch.Generator().manual_seed(seed + 50)
    weight = torch.randn(case.weight_shape(), generator=g, dtype=torch.float64).to(dtype)
    bias = torch.randn(case.outputs, generator=g, dtype=torch.float64).to(dtype) if case.bias else None
    return x, n, weight, bias


def forward(case: Case, n: Norm, batch: bool):
    n = n.double()

    def call(x, gamma, beta, weight, bias):
        return reference.bn_act_conv2d(
            x, n.mean, n.var, gamma, beta, n.eps, n.act, weight, bias, *case.geometry(), False, batch
        )[0]

    return call


def magnitude_conv(case: Case, s_u: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if case.pool:
        s_u = F.avg_pool2d(s_u, 2)
    bias = None if bias is None else bias.double().abs()
    return F.conv2d(s_u, weight.double().abs(), bias, case.stride, case.padding, case.dilation)


def optional(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.double()


def check_forward(case: Case, results, x, n, weight, bias, judge) -> None:
    y, mean, var = results
    expected = forward(case, n, False)(x.double(), optional(n.gamma), optional(n.beta), weight.double(), optional(bias))
    judge(y, expected, magnitude_conv(case, magnitude_u(x, n), weight, bias), weight[0].numel())
    # The statistics are those of the y that was stored.
    stored = y.double()
    expected_mean, expected_var = reference.batch_stats(stored)
    bounded(mean, expected_mean, stored.abs().mean((0, 2, 3)))
    bounded(var, expected_var, expected_var + 1e-6 * stored.square().mean((0, 2, 3)))


def check_backward(case: Case, results, dy, x, n, weight, bias, judge) -> None:
    dx, dgamma, dbeta, dweight, dbias = results
    expected = gradients(forward(case, n, n.batch), [x, n.gamma, n.beta, weight, bias], dy)
    s_u = magnitude_u(x, n).requires_grad_()
    s_w = weight.double().abs().requires_grad_()
    s_y = magnitude_conv(case, s_u, s_w)
    s_du, s_dw = torch.autograd.grad(s_y, [s_u, s_w], dy.double().abs(), allow_unused=True)
    s_du = torch.zeros_like(s_u) if s_du is None else s_du
    s_dx, s_gamma, s_beta = magnitude_norm_backward(x, n, s_du)
    pixels, terms = x.numel() // x.shape[1], weight.numel() // weight.shape[1]
    judge(dx, expected[0], s_dx, terms + pixels, DX_FACTOR * case.factor())
    if n.mean is not None:
        judge(dgamma, expected[1], s_gamma, terms + pixels, case.factor())
        judge(dbeta, expected[2], s_beta, terms + pixels, case.factor())
    else:
        assert dgamma.numel() == dbeta.numel() == 0
    judge(dweight, expected[3], s_dw.detach(), pixels)
    if bias is not None:
        judge(dbias, expected[4], dy.double().abs().sum((0, 2, 3)), pixels)


def call_forward(case: Case, x, n, weight, bias, stats: bool = True):
    return run("bn_act_conv2d", x, *n.flat(), weight, bias, *case.geometry(), stats)


def call_backward(case: Case, dy, x, n, weight, needs=(True, True, True, True)):
    return run("bn_act_conv2d_backward", dy, x, *n.flat(), weight, *case.geometry(), n.batch, list(needs))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
class TestBnActConv2d:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_bounded(self, name, dtype, case):
        x, n, weight, bias = setup(case, dtype)
        guarded = sliced(x)

        def judge(actual, expected, magnitude, terms, factor=None):
            bounded(actual, expected, magnitude.detach(), terms, factor or case.factor())

        with isa(name):
            results = call_forward(case, x, n, weight, bias)
            again = call_forward(case, guarded.tensor, n, weight, bias)
            dy = upstream(tuple(results[0].shape), dtype)
            back = call_backward(case, dy, x, n, weight)
            from_slices = call_backward(case, sliced(dy).tensor, guarded.tensor, n, weight)
        guarded.check_unchanged("x")
        check_forward(case, results, x, n, weight, bias, judge)
        check_forward(case, again, x, n, weight, bias, judge)
        check_backward(case, back, dy, x, n, weight, bias, judge)
        check_backward(case, from_slices, dy, x, n, weight, bias, judge)


# In 16 bits dz is stored, and whole numbers beyond 256 round there.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("case", [c for c in CASES if c.act in ("none", "relu", "relu6")], ids=str)
def test_exact(name, dtype, case):
    """Whole numbers, a norm whose scale is a power of two: nothing rounds."""
    x, weight = whole(case.shape, 7, 1, dtype), whole(case.weight_shape(), 2, 2, dtype).contiguous()
    n = exact_norm(case.shape[1], case.act, dtype)
    if not case.norm:
        n = Norm(None, None, None, None, 0.0, case.act, False)
    bias = whole((case.outputs,), 3, 3, dtype) if case.bias else None

    def judge(actual, expected, magnitude, terms, factor=1.0):
        exact(actual, expected)

    with isa(name):
        results = call_forward(case, x, n, weight, bias)
        dy = whole(tuple(results[0].shape), 3, 4, dtype)
        back = call_backward(case, dy, x, n, weight)
    check_forward(case, results, x, n, weight, bias, judge)
    check_backward(case, back, dy, x, n, weight, bias, judge)


class TestContract:
    @pytest.mark.parametrize("case", [CASES[2], CASES[9], CASES[15], CASES[18], CASES[14]], ids=str)
    def test_needs(self, case):
        """Only what is wanted comes back, and it does not depend on what else is wanted."""
        x, n, weight, bias = setup(case, torch.float32)
        y, _, _ = call_forward(case, x, n, weight, bias, stats=False)
        dy = upstream(tuple(y.shape), torch.float32)
        everything = call_backward(case, dy, x, n, weight)
        for bits in range(16):
            needs = [bool(bits >> i & 1) for i in range(4)]
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
        x, n, weight, bias = setup(case, torch.float32)
        check_threads("bn_act_conv2d", x, *n.flat(), weight, bias, *case.geometry(), True)
        y, _, _ = call_forward(case, x, n, weight, bias)
        dy = upstream(tuple(y.shape), torch.float32)
        check_threads(
            "bn_act_conv2d_backward", dy, x, *n.flat(), weight, *case.geometry(), n.batch, [True, True, True, True]
        )

    def test_nan(self):
        """A NaN pixel reaches exactly what its window covers."""
        case = Case((1, 18, 7, 7), 20, (3, 3), padding=(1, 1), batch=False)
        x, n, weight, bias = setup(case, torch.float32)
        x[0, 4, 3, 3] = float("nan")
        y, mean, _ = call_forward(case, x, n, weight, bias)
        expected = forward(case, n, False)(x.double(), n.gamma.double(), n.beta.double(), weight.double(), None)
        assert torch.equal(y.isnan(), expected.isnan())
        assert mean.isnan().all()

    def test_empty_batch(self):
        case = CASES[2]
        x, n, weight, bias = setup(case, torch.float32)
        y, mean, _ = call_forward(case, x[:0], n, weight, bias, stats=False)
        assert y.shape[0] == 0
        assert mean.numel() == 0
        back = call_backward(case, y, x[:0], n, weight)
        assert all((t == 0).all() for t in back)

    def test_errors(self):
        case = CASES[2]
        x, n, weight, _ = setup(case, torch.float32)
        op, flat, geometry = torch.ops.lightops.bn_act_conv2d, n.flat(), case.geometry()
        with pytest.raises(RuntimeError, match=r"bn_act_conv2d: 'weight' of shape .* expects 63 channels, got 64"):
            op(x, *flat, weight[:, :63], None, *geometry, True)
        with pytest.raises(RuntimeError, match="bn_act_conv2d: 'weight' has scalar type"):
            op(x, *flat, weight.double(), None, *geometry, True)
        with pytest.raises(RuntimeError, match="bn_act_conv2d: 'pool' needs a 1x1"):
            op(x, *flat, weight, None, [2, 2], [0, 0], [1, 1], 1, True, True)
        with pytest.raises(RuntimeError, match="bn_act_conv2d: 'groups' is 2"):
            op(x, *flat, weight[:, :32], None, [1, 1], [0, 0], [1, 1], 2, False, True)
        with pytest.raises(RuntimeError, match=r"bn_act_conv2d_backward: 'dy' has shape .* want \[2, 33, 9, 11\]"):
            torch.ops.lightops.bn_act_conv2d_backward(x, x, *flat, weight, *geometry, True, [True] * 4)
