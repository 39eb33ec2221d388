import pytest
import torch

from lightops.reference import ACTIVATIONS
from lightops.reference import training as reference
from tests.ops.training.oracle import (
    DTYPES,
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
    magnitude_u,
    run,
    upstream,
    whole,
)

SHAPES = ((1, 1, 1, 2), (2, 3, 5, 7), (3, 17, 4, 3), (2, 64, 9, 11), (1, 130, 7, 7))


def forward(n: Norm):
    n = n.double()
    return lambda x, gamma, beta: reference.bn_act_mean(x, n.mean, n.var, gamma, beta, n.eps, n.act, n.batch)


def value(x: torch.Tensor, n: Norm) -> torch.Tensor:
    n = n.double()
    return reference.bn_act_mean(x.double(), n.mean, n.var, n.gamma, n.beta, n.eps, n.act, False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
class TestBnActMean:
    @pytest.mark.parametrize("act", ACTIVATIONS)
    @pytest.mark.parametrize("batch", [False, True])
    def test_bounded(self, name, dtype, act, batch):
        for seed, shape in enumerate(SHAPES):
            x, n = draw(shape, dtype, act, seed=seed, batch=batch, affine=seed % 2 == 0)
            dy = upstream(shape[:2], dtype)
            with isa(name):
                out = run("bn_act_mean", x, *n.flat())
                back = run("bn_act_mean_backward", dy, x, *n.flat(), n.batch)
            pixels = shape[2] * shape[3]
            bounded(out, value(x, n), magnitude_u(x, n).mean((2, 3)), pixels)
            expected = gradients(forward(n), [x, n.gamma, n.beta], dy)
            s_du = (dy.double().abs() / pixels)[:, :, None, None].expand(shape)
            check_norm_gradients(back, expected, x, n, s_du, judge_bounded)

    @pytest.mark.parametrize("act", ["none", "relu", "relu6"])
    def test_exact(self, name, dtype, act):
        """Maps of a power of two pixels: the average of whole numbers is exact."""
        for shape in ((2, 33, 4, 4), (1, 64, 2, 8)):
            x, dy = whole(shape, 7, 1, dtype), whole(shape[:2], 3, 2, dtype)
            n = exact_norm(shape[1], act, dtype)
            with isa(name):
                out = run("bn_act_mean", x, *n.flat())
                back = run("bn_act_mean_backward", dy, x, *n.flat(), False)
            exact(out, value(x, n))
            expected = gradients(forward(n), [x, n.gamma, n.beta], dy)
            for actual, want in zip(back, expected, strict=True):
                exact(actual, want)


def test_does_not_depend_on_threads():
    for shape in ((8, 512, 14, 14), (3, 17, 61, 59), (16, 1024, 7, 7)):
        x, n = draw(shape, torch.float32, "relu")
        check_threads("bn_act_mean", x, *n.flat())
        check_threads("bn_act_mean_backward", upstream(shape[:2], torch.float32), x, *n.flat(), True)


def test_errors():
    x, n = draw((2, 5, 4, 4), torch.float32, "relu")
    with pytest.raises(RuntimeError, match="bn_act_mean_backward: 'dy' has shape"):
        torch.ops.lightops.bn_act_mean_backward(x, x, *n.flat(), True)
    with pytest.raises(RuntimeError, match=r"bn_act_mean: 'x' of shape .* no pixels"):
        torch.ops.lightops.bn_act_mean(x[:, :, :0], *n.flat())
