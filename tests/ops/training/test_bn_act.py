import pytest
import torch

from lightops.reference import ACTIVATIONS
from lightops.reference import training as reference
from tests.ops.training.oracle import (
    DTYPES,
    DX_FACTOR,
    ISAS,
    Norm,
    bounded,
    check_norm_gradients,
    check_threads,
    draw,
    exact,
    exact_norm,
    gradients,
    isa,
    judge_bounded,
    magnitude_norm_backward,
    magnitude_u,
    run,
    sliced,
    upstream,
    whole,
)

SHAPES = ((1, 1, 1, 2), (2, 3, 5, 7), (3, 17, 4, 3), (2, 64, 9, 11), (1, 130, 33, 2))


def forward(n: Norm):
    """The reference as a function of what it is differentiated in."""
    n = n.double()
    return lambda x, gamma, beta: reference.bn_act(x, n.mean, n.var, gamma, beta, n.eps, n.act, None, n.batch)


def value(x: torch.Tensor, n: Norm) -> torch.Tensor:
    """The reference with the statistics that the kernel is given."""
    n = n.double()
    return reference.bn_act(x.double(), n.mean, n.var, n.gamma, n.beta, n.eps, n.act, None, False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
class TestBnAct:
    @pytest.mark.parametrize("act", ACTIVATIONS)
    @pytest.mark.parametrize("batch", [False, True])
    def test_bounded(self, name, dtype, act, batch):
        for seed, shape in enumerate(SHAPES):
            x, n = draw(shape, dtype, act, seed=seed, batch=batch, affine=seed % 2 == 0)
            residual = upstream(shape, dtype, 3) if seed % 3 == 0 else None
            dy = upstream(shape, dtype)
            guarded = sliced(dy)
            with isa(name):
                out = run("bn_act", x, *n.flat(), residual)
                back = run("bn_act_backward", guarded.tensor, x, *n.flat(), n.batch)
            guarded.check_unchanged("dy")
            added = torch.zeros((), dtype=torch.float64) if residual is None else residual.double()
            bounded(out, value(x, n) + added, magnitude_u(x, n) + added.abs())
            expected = gradients(forward(n), [x, n.gamma, n.beta], dy)
            check_norm_gradients(back, expected, x, n, dy.double().abs(), judge_bounded)

    @pytest.mark.parametrize("act", ["none", "relu", "relu6"])
    def test_exact(self, name, dtype, act):
        for shape in SHAPES:
            x, dy = whole(shape, 7, 1, dtype), whole(shape, 3, 2, dtype)
            n = exact_norm(shape[1], act, dtype)
            with isa(name):
                out = run("bn_act", x, *n.flat(), dy)
                back = run("bn_act_backward", dy, x, *n.flat(), False)
            exact(out, value(x, n) + dy.double())
            expected = gradients(forward(n), [x, n.gamma, n.beta], dy)
            for actual, want in zip(back, expected, strict=True):
                exact(actual, want)

    def test_without_norm(self, name, dtype):
        x, n = draw((2, 37, 5, 6), dtype, "relu", norm=False)
        dy = upstream(x.shape, dtype)
        with isa(name):
            out = run("bn_act", x, *n.flat(), None)
            dx, dgamma, dbeta = run("bn_act_backward", dy, x, *n.flat(), True)
        exact(out, x.double().relu())
        exact(dx, dy.double() * (x > 0))
        assert dgamma.numel() == dbeta.numel() == 0


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_does_not_depend_on_threads(act):
    for shape in ((4, 64, 28, 28), (3, 17, 61, 59), (16, 512, 7, 7)):
        x, n = draw(shape, torch.float32, act)
        check_threads("bn_act", x, *n.flat(), None)
        check_threads("bn_act_backward", upstream(shape, torch.float32), x, *n.flat(), True)


def test_nan_and_infinity():
    """NaN stays NaN and keeps its gradient under ReLU, as in torch; its channel is lost, others are not."""
    x, n = draw((2, 20, 6, 6), torch.float32, "relu", batch=False)
    x[0, 3, 1, 1] = float("nan")
    out = run("bn_act", x, *n.flat(), None)
    assert torch.equal(out.isnan(), x.isnan())
    dy = upstream(x.shape, torch.float32)
    dx, _, dbeta = run("bn_act_backward", dy, x, *n.flat(), False)
    expected = gradients(forward(n), [x, n.gamma, n.beta], dy)
    assert torch.equal(dx.isnan(), expected[0].isnan())
    assert torch.equal(dbeta.isnan(), expected[2].isnan())
    dx, _, _ = run("bn_act_backward", dy, x, *n.flat(), True)
    assert dx[:, 3].isnan().all()
    assert not dx[:, 4:].isnan().any()


def test_constant_channel():
    """Variance zero: finite, and the gradient of the statistics takes all of dz away."""
    x = torch.full((2, 5, 4, 4), 3.0).contiguous(memory_format=torch.channels_last)
    n = Norm(torch.full((5,), 3.0), torch.zeros(5), torch.ones(5), torch.ones(5), 1e-5, "relu", True)
    dy = upstream(x.shape, torch.float32)
    dx, dgamma, dbeta = run("bn_act_backward", dy, x, *n.flat(), True)
    expected = gradients(forward(n), [x, n.gamma, n.beta], dy)
    s_dx, _, _ = magnitude_norm_backward(x, n, dy.double().abs())
    bounded(dx, expected[0], s_dx, factor=DX_FACTOR)
    assert (dgamma == 0).all()
    assert torch.allclose(dbeta, dy.sum((0, 2, 3)), atol=1e-4)


def test_empty_batch():
    x, n = draw((2, 5, 4, 4), torch.float32, "relu")
    out = run("bn_act", x[:0], *n.flat(), None)
    dx, dgamma, dbeta = run("bn_act_backward", x[:0], x[:0], *n.flat(), True)
    assert out.shape == dx.shape == (0, 5, 4, 4)
    assert (dgamma == 0).all()
    assert (dbeta == 0).all()


def test_errors():
    x, n = draw((2, 5, 4, 4), torch.float32, "relu")
    flat = n.flat()
    op, back = torch.ops.lightops.bn_act, torch.ops.lightops.bn_act_backward
    with pytest.raises(RuntimeError, match=r"bn_act: 'mean' must be .* 5 elements, got 4"):
        op(x, flat[0][:4], *flat[1:], None)
    with pytest.raises(RuntimeError, match="bn_act: 'mean' and 'var' must both"):
        op(x, None, *flat[1:], None)
    with pytest.raises(RuntimeError, match="bn_act: 'residual' has shape"):
        op(x, *flat, x[:1])
    with pytest.raises(RuntimeError, match="bn_act_backward: 'dy' has scalar type"):
        back(x.double(), x, *flat, True)
    with pytest.raises(RuntimeError, match="bn_act_backward: 'dy' has shape"):
        back(x[:, :4], x, *flat, True)
