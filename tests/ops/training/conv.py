"""A call of `bn_act_conv2d` and its derivative, and what their results are judged by: for the dense kernels
(test_bn_act_conv2d.py) and the depthwise ones (test_bn_act_depthwise.py) alike.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightops.reference import training as reference
from tests.ops.training.oracle import (
    Judge,
    Norm,
    bounded,
    check_norm_gradients,
    check_threads,
    draw,
    exact_norm,
    gradients,
    judge_bounded,
    judge_exact,
    magnitude_u,
    run,
    sliced,
    upstream,
    whole,
)

# Winograd F(2x2, 3x3) sums other terms than the direct form: this many times their magnitude (testing/oracle.py has it
# exactly; here an upper bound is enough).
WINOGRAD = 4.0
# The gradients that a backward call can be asked for: of x, of gamma and beta, of the weight, of the bias.
EVERYTHING = (True, True, True, True)

Pair = tuple[int, int]


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    outputs: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pool: bool = False
    bias: bool = False
    act: str = "relu"
    norm: bool = True
    batch: bool = True

    def geometry(self) -> tuple:
        return list(self.stride), list(self.padding), list(self.dilation), self.groups, self.pool

    def weight_shape(self) -> tuple[int, ...]:
        return (self.outputs, self.shape[1] // self.groups, *self.kernel)

    def factor(self) -> float:
        winograd = self.groups == 1 and self.kernel == (3, 3) and self.stride == self.dilation == (1, 1)
        return WINOGRAD if winograd else 1.0

    def fits(self) -> bool:
        sizes = zip(self.shape[2:], self.padding, self.dilation, self.kernel, strict=True)
        return all(size + 2 * p > d * (k - 1) for size, p, d, k in sizes)

    def __str__(self) -> str:
        rest = [f"{k}={v}" for k, v in self._asdict().items() if v != self._field_defaults.get(k)]
        return " ".join(rest)


def depthwise(
    shape: tuple[int, int, int, int],
    kernel: Pair = (3, 3),
    stride: Pair = (1, 1),
    padding: Pair = (1, 1),
    dilation: Pair = (1, 1),
    **options: Any,
) -> Case:
    return Case(shape, shape[1], kernel, stride, padding, dilation, shape[1], **options)


class Call(NamedTuple):
    """The tensors of a case."""

    case: Case
    x: Tensor
    norm: Norm
    weight: Tensor
    bias: Tensor | None

    def forward(self, stats: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        return run("bn_act_conv2d", *self.forward_arguments(stats))

    def forward_arguments(self, stats: bool = True) -> tuple:
        return self.x, *self.norm.flat(), self.weight, self.bias, *self.case.geometry(), stats

    def backward(self, dy: Tensor, needs: Sequence[bool] = EVERYTHING) -> tuple[Tensor, ...]:
        return run("bn_act_conv2d_backward", *self.backward_arguments(dy, needs))

    def backward_arguments(self, dy: Tensor, needs: Sequence[bool] = EVERYTHING) -> tuple:
        n = self.norm
        return dy, self.x, *n.flat(), self.weight, *self.case.geometry(), n.batch, list(needs)


def drawn(case: Case, dtype: torch.dtype = torch.float32) -> Call:
    """Real numbers."""
    x, n = draw(case.shape, dtype, case.act, batch=case.batch, norm=case.norm)
    g = torch.Generator().manual_seed(50)
    weight = torch.randn(case.weight_shape(), generator=g, dtype=torch.float64).to(dtype)
    bias = torch.randn(case.outputs, generator=g, dtype=torch.float64).to(dtype) if case.bias else None
    return Call(case, x, n, weight, bias)


def exactly_drawn(case: Case, dtype: torch.dtype) -> Call:
    """Whole numbers, a norm whose scale is a power of two: nothing rounds."""
    n = exact_norm(case.shape[1], case.act, dtype)
    if not case.norm:
        n = Norm(None, None, None, None, 0.0, case.act, False)
    weight = whole(case.weight_shape(), 2, 2, dtype).contiguous()
    bias = whole((case.outputs,), 3, 3, dtype) if case.bias else None
    return Call(case, whole(case.shape, 7, 1, dtype), n, weight, bias)


def expected_forward(call: Call, batch: bool) -> Callable[..., Tensor]:
    """The reference as a function of what it is differentiated in."""
    n = call.norm.double()

    def forward(x: Tensor, gamma: Tensor | None, beta: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
        rest = (n.eps, n.act, weight, bias, *call.case.geometry(), False, batch)
        return reference.bn_act_conv2d(x, n.mean, n.var, gamma, beta, *rest)[0]

    return forward


def expected_y(call: Call) -> Tensor:
    """With the statistics that the kernel is given."""
    inputs = (call.x, call.norm.gamma, call.norm.beta, call.weight, call.bias)
    return expected_forward(call, False)(*(None if t is None else t.double() for t in inputs))


def magnitude_conv(case: Case, s_u: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if case.pool:
        s_u = F.avg_pool2d(s_u, 2)
    bias = None if bias is None else bias.double().abs()
    return F.conv2d(s_u, weight.double().abs(), bias, case.stride, case.padding, case.dilation, case.groups)


def check_forward(call: Call, results: tuple[Tensor, Tensor, Tensor], judge: Judge) -> None:
    case, weight = call.case, call.weight
    y, mean, var = results
    assert y.is_contiguous(memory_format=torch.channels_last)
    magnitude = magnitude_conv(case, magnitude_u(call.x, call.norm), weight, call.bias)
    judge(y, expected_y(call), magnitude, weight[0].numel(), case.factor())
    # The statistics are those of the y that was stored.
    stored = y.double()
    expected_mean, expected_var = reference.batch_stats(stored)
    bounded(mean, expected_mean, stored.abs().mean((0, 2, 3)))
    bounded(var, expected_var, expected_var + 1e-6 * stored.square().mean((0, 2, 3)))


def check_backward(call: Call, results: tuple[Tensor, ...], dy: Tensor, judge: Judge) -> None:
    case, x, n, weight, bias = call
    *norm_gradients, dweight, dbias = results
    expected = gradients(expected_forward(call, n.batch), [x, n.gamma, n.beta, weight, bias], dy)
    s_u = magnitude_u(x, n).requires_grad_()
    s_w = weight.double().abs().requires_grad_()
    s_du, s_dw = torch.autograd.grad(magnitude_conv(case, s_u, s_w), [s_u, s_w], dy.double().abs())
    # A du is a sum over the taps and output channels that read its pixel.
    pixels, terms = x.numel() // x.shape[1], weight.numel() // (weight.shape[1] * case.groups)
    check_norm_gradients(norm_gradients, expected, x, n, s_du, judge, terms=terms, factor=case.factor())
    judge(dweight, expected[3], s_dw, pixels, case.factor())
    if bias is not None:
        judge(dbias, expected[4], dy.double().abs().sum((0, 2, 3)), pixels, 1.0)


def check_boundedly(case: Case, dtype: torch.dtype) -> None:
    """Real numbers against float64, dense and as slices of wider buffers that are NaN elsewhere."""
    call = drawn(case, dtype)
    guarded = sliced(call.x)
    slices = call._replace(x=guarded.tensor)
    results, again = call.forward(), slices.forward()
    dy = upstream(tuple(results[0].shape), dtype)
    guarded_dy = sliced(dy)
    back, from_slices = call.backward(dy), slices.backward(guarded_dy.tensor)
    guarded.check_unchanged("x")
    guarded_dy.check_unchanged("dy")
    for found in (results, again):
        check_forward(call, found, judge_bounded)
    for found in (back, from_slices):
        check_backward(call, found, dy, judge_bounded)


def check_exactly(case: Case, dtype: torch.dtype) -> None:
    call = exactly_drawn(case, dtype)
    results = call.forward()
    dy = whole(tuple(results[0].shape), 3, 4, dtype)
    back = call.backward(dy)
    check_forward(call, results, judge_exact)
    check_backward(call, back, dy, judge_exact)


def check_needs(case: Case, dtype: torch.dtype) -> None:
    """Only what is wanted comes back, and it does not depend on what else is wanted."""
    call = drawn(case, dtype)
    dy = upstream(tuple(call.forward(stats=False)[0].shape), dtype)
    everything = call.backward(dy)
    for needs in itertools.product([False, True], repeat=4):
        wanted = (needs[0], needs[1], needs[1], needs[2], needs[3])
        for got, full, want in zip(call.backward(dy, needs), everything, wanted, strict=True):
            assert torch.equal(got, full) if want else got.numel() == 0


def check_without_statistics(case: Case) -> None:
    with_them, without = (drawn(case).forward(stats) for stats in (True, False))
    assert torch.equal(with_them[0], without[0])
    assert without[1].numel() == without[2].numel() == 0


def check_empty_batch(case: Case) -> None:
    call = drawn(case)
    call = call._replace(x=call.x[:0])
    y, mean, _ = call.forward(stats=False)
    assert y.shape[0] == 0
    assert mean.numel() == 0
    assert all((t == 0).all() for t in call.backward(y))


def check_any_threads(case: Case) -> None:
    """The same bits with any number of threads, and right ones."""
    call = drawn(case)
    check_threads("bn_act_conv2d", *call.forward_arguments())
    dy = upstream(tuple(call.forward()[0].shape), torch.float32)
    check_threads("bn_act_conv2d_backward", *call.backward_arguments(dy))
    check_backward(call, call.backward(dy), dy, judge_bounded)
