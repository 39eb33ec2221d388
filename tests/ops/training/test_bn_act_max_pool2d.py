import itertools
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightops.reference import ACTIVATIONS
from lightops.reference import training as reference
from tests.ops.training.oracle import (
    DTYPES,
    ISAS,
    Judge,
    Norm,
    accumulate,
    bounded,
    check_norm_gradients,
    check_threads,
    draw,
    exact,
    exact_norm,
    gradients,
    isa,
    judge_bounded,
    judge_exact,
    magnitude_u,
    run,
    sliced,
    upstream,
    whole,
)

NAN, INF = float("nan"), float("inf")


class Pool(NamedTuple):
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    def flat(self) -> tuple:
        return list(self.kernel), list(self.stride), list(self.padding), self.ceil_mode


STEM, FIRE = Pool(), Pool(padding=(0, 0), ceil_mode=True)
CASES = (
    ((1, 1, 1, 2), Pool(padding=(1, 1))),
    ((2, 33, 9, 11), STEM),
    ((2, 64, 8, 8), STEM),
    ((1, 17, 13, 12), FIRE),
    ((1, 40, 7, 9), Pool((2, 2), (2, 2), (0, 0))),
    ((2, 19, 9, 8), Pool((3, 2), (1, 3), (1, 0), True)),
    ((1, 130, 6, 5), Pool((5, 5), (1, 1), (2, 2))),
    ((1, 5, 70, 6), Pool((3, 3), (4, 1), (0, 1))),
)
NO_NORM = Norm(None, None, None, None, 0.0, "none", False)


def forward(n: Norm, pool: Pool, batch: bool):
    n = n.double()
    return lambda x, gamma, beta: reference.bn_act_max_pool2d(
        x, n.mean, n.var, gamma, beta, n.eps, n.act, *pool.flat(), batch
    )


def value(x: Tensor, n: Norm, pool: Pool) -> Tensor:
    """The reference with the statistics that the kernel is given."""
    n = n.double()
    return forward(n, pool, False)(x.double(), n.gamma, n.beta)


def call_forward(x: Tensor, n: Norm, pool: Pool) -> Tensor:
    return run("bn_act_max_pool2d", x, *n.flat(), *pool.flat())


def call_backward(dy: Tensor, x: Tensor, n: Norm, pool: Pool) -> tuple[Tensor, Tensor, Tensor]:
    return run("bn_act_max_pool2d_backward", dy, x, *n.flat(), *pool.flat(), n.batch)


def routed(x: Tensor, n: Norm, pool: Pool, dy: Tensor) -> Tensor:
    """|dy| at the maxima of u, in float64."""
    n = n.double()
    u = reference.bn_act(x.double(), n.mean, n.var, n.gamma, n.beta, n.eps, n.act, None, False).requires_grad_()
    return torch.autograd.grad(F.max_pool2d(u, pool.kernel, pool.stride, pool.padding, 1, pool.ceil_mode), u, dy)[0]


def apart(shape: tuple[int, ...], dtype: torch.dtype, act: str, batch: bool) -> tuple[Tensor, Norm]:
    """Values far enough from each other that no rounding changes which one of a window is the largest, where the
    activation is not flat."""
    g = torch.Generator().manual_seed(sum(shape))
    n, c, h, w = shape
    ranks = torch.stack([torch.randperm(h * w, generator=g) for _ in range(n * c)]).view(shape).double()
    x = ((ranks - (h * w - 1) / 2) / max(1, h * w / 4)).to(dtype)
    to = accumulate(dtype)
    gamma = ((torch.rand(c, generator=g) + 0.5) * (torch.randint(0, 2, (c,), generator=g) * 2 - 1)).to(to)
    beta = (torch.rand(c, generator=g) - 0.5).to(to)
    mean, var = torch.zeros(c), torch.full((c,), 1.3)
    if batch:
        mean, var = x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), correction=0)
    made = Norm(mean.to(to), var.to(to), gamma, beta, 1e-5, act, batch)
    return x.contiguous(memory_format=torch.channels_last), made


def check(x: Tensor, n: Norm, pool: Pool, judge: Judge) -> None:
    guarded = sliced(x)
    out = call_forward(x, n, pool)
    assert torch.equal(out, call_forward(guarded.tensor, n, pool))
    judge(out, value(x, n, pool), F.max_pool2d(magnitude_u(x, n), *pool[:3], 1, pool.ceil_mode), 1, 1.0)
    dy = upstream(tuple(out.shape), x.dtype) if judge is judge_bounded else whole(tuple(out.shape), 3, 4, x.dtype)
    guarded_dy = sliced(dy)
    expected = gradients(forward(n, pool, n.batch), [x, n.gamma, n.beta], dy)
    s_du = routed(x, n, pool, dy.double().abs())
    for a, b in ((dy, x), (guarded_dy.tensor, guarded.tensor)):
        check_norm_gradients(call_backward(a, b, n, pool), expected, x, n, s_du, judge)
    guarded.check_unchanged("x")
    guarded_dy.check_unchanged("dy")


@pytest.mark.parametrize("name", ISAS)
class TestBnActMaxPool2d:
    @pytest.mark.parametrize("act", ACTIVATIONS)
    @pytest.mark.parametrize("batch", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_bounded(self, name, dtype, act, batch):
        with isa(name):
            for seed, (shape, pool) in enumerate(CASES):
                x, n = draw(shape, dtype, act, seed=seed, batch=batch, affine=seed % 2 == 0)
                check(x, n, pool, judge_bounded)

    @pytest.mark.parametrize("act", ["none", "relu", "relu6"])
    @pytest.mark.parametrize("batch", [False, True])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_bounded_in_16_bits(self, name, dtype, act, batch):
        with isa(name):
            for shape, pool in CASES:
                if shape[2] * shape[3] < 120:
                    check(*apart(shape, dtype, act, batch), pool, judge_bounded)

    @pytest.mark.parametrize("act", ["none", "relu", "relu6"])
    @pytest.mark.parametrize("normed", [False, True])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_exact(self, name, dtype, act, normed):
        """Whole numbers: most windows have several maxima, and the first gets the gradient."""
        with isa(name):
            for seed, (shape, pool) in enumerate(CASES):
                n = exact_norm(shape[1], act, dtype) if normed else NO_NORM._replace(act=act)
                check(whole(shape, 2 if seed % 2 else 7, seed, dtype), n, pool, judge_exact)

    @pytest.mark.parametrize("kernel", [1, 2, 3])
    def test_sizes(self, name, kernel):
        """Every geometry of small maps."""
        paddings = range(kernel // 2 + 1)
        with isa(name):
            for size, stride, padding, ceil_mode in itertools.product(range(1, 10), (1, 2, 3), paddings, (False, True)):
                pool = Pool((kernel, kernel), (stride, stride), (padding, padding), ceil_mode)
                shape = (2, 3 + size, size, (size * 3 + stride) % 11 + 2)
                if min(shape[2:]) + 2 * padding + (stride - 1) * ceil_mode >= kernel:
                    check(whole(shape, 3, size, torch.float32), NO_NORM._replace(act="relu"), pool, judge_exact)

    def test_channels(self, name):
        with isa(name):
            for channels in range(1, 34):
                check(whole((1, channels, 5, 6), 3, channels, torch.float32), NO_NORM, STEM, judge_exact)


class TestContract:
    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    @pytest.mark.parametrize("pool", [STEM, FIRE], ids=["stem", "fire"])
    def test_non_finite(self, value, pool):
        """A NaN is the maximum of its windows, the last one where there are several; as torch's gradient."""
        generator = torch.Generator().manual_seed(5)
        for seed in range(6):
            x = whole((1, 18, 9, 10), 4, seed, torch.float32)
            x[torch.rand(x.shape, generator=generator) < (0.05, 0.3, 0.9)[seed % 3]] = value
            out = call_forward(x, NO_NORM, pool)
            leaf = x.clone().requires_grad_()
            expected = F.max_pool2d(leaf, *pool[:3], 1, pool.ceil_mode)
            exact(out, expected.detach().double())
            dy = whole(tuple(out.shape), 3, 1, torch.float32)
            exact(call_backward(dy, x, NO_NORM, pool)[0], torch.autograd.grad(expected, leaf, dy)[0].double())

    def test_does_not_depend_on_threads(self):
        for shape, act in (((4, 64, 57, 56), "relu"), ((1, 96, 55, 55), "silu")):
            x, n = draw(shape, torch.float32, act)
            check_threads("bn_act_max_pool2d", x, *n.flat(), *STEM.flat())
            dy = upstream(tuple(call_forward(x, n, STEM).shape), torch.float32)
            check_threads("bn_act_max_pool2d_backward", dy, x, *n.flat(), *STEM.flat(), True)
            check(x, n, STEM, bounded)

    def test_rounds_before_it_compares(self):
        """Values that are equal once u is stored in 16 bits share no gradient: the first takes it all."""
        x = torch.tensor([1.0, 1.0, 1.0, 1.0]).view(1, 1, 2, 2).to(torch.bfloat16)
        x[0, 0, 1, 1] = 1.0078125  # the next number
        n = Norm(
            torch.tensor([-100.0]), torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([0.0]), 0.0, "none", False
        )
        dx, dgamma, dbeta = call_backward(
            torch.ones(1, 1, 1, 1, dtype=torch.bfloat16), x, n, Pool((2, 2), (2, 2), (0, 0))
        )
        assert dx.flatten().tolist() == [1, 0, 0, 0]
        assert dbeta.item() == 1
        assert dgamma.item() == 101

    def test_empty_batch(self):
        x, n = draw((2, 5, 6, 7), torch.float32, "relu")
        y = call_forward(x[:0], n, STEM)
        assert y.shape == (0, 5, 3, 4)
        dx, dgamma, dbeta = call_backward(y, x[:0], n, STEM)
        assert dx.shape == (0, 5, 6, 7)
        assert (dgamma == 0).all()
        assert (dbeta == 0).all()

    def test_errors(self):
        x, n = draw((2, 5, 6, 7), torch.float32, "relu")
        op, back = torch.ops.lightops.bn_act_max_pool2d, torch.ops.lightops.bn_act_max_pool2d_backward
        with pytest.raises(RuntimeError, match="bn_act_max_pool2d: 'padding' is 2; want at most half of 'kernel', 3"):
            op(x, *n.flat(), [3, 3], [2, 2], [2, 2], False)
        with pytest.raises(
            RuntimeError, match="bn_act_max_pool2d: the kernel covers 9 rows but the padded input has 6"
        ):
            op(x, *n.flat(), [9, 3], [2, 2], [0, 0], False)
        with pytest.raises(RuntimeError, match="'gamma' and 'beta' need 'mean' and 'var'"):
            op(x, None, None, *n.flat()[2:], *STEM.flat())
        with pytest.raises(RuntimeError, match=r"bn_act_max_pool2d_backward: 'dy' has shape .* want \[2, 5, 3, 4\]"):
            back(x, x, *n.flat(), *STEM.flat(), True)
        with pytest.raises(RuntimeError, match="bn_act_max_pool2d_backward: 'dy' has scalar type"):
            back(x[..., :3, :4].double(), x, *n.flat(), *STEM.flat(), True)

    def test_rows_that_no_window_covers(self):
        x = whole((1, 3, 40, 9), 5, 0, torch.float32)
        pool = Pool((1, 1), (7, 5), (0, 0))
        check(x, exact_norm(3, "relu", torch.float32), pool, judge_exact)

    def test_norm_without_affine(self):
        x, n = draw((2, 20, 9, 8), torch.float32, "relu", affine=False)
        _, dgamma, dbeta = call_backward(upstream((2, 20, 5, 4), torch.float32), x, n, STEM)
        assert dgamma.shape == dbeta.shape == (20,)
        assert dgamma.isfinite().all()
