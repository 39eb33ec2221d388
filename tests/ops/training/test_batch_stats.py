import pytest
import torch

from lightops.reference import training as reference
from tests.ops.training.oracle import DTYPES, ISAS, bounded, check_threads, draw, exact, isa, run, sliced, whole

SHAPES = ((1, 1, 1, 2), (2, 3, 5, 7), (3, 17, 4, 3), (2, 64, 9, 11), (1, 130, 33, 2), (4, 100, 16, 16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
class TestBatchStats:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_bounded(self, name, dtype, shape):
        x, _ = draw(shape, dtype, "none")
        guarded = sliced(x)
        with isa(name):
            results = run("batch_stats", x), run("batch_stats", guarded.tensor)
        guarded.check_unchanged("x")
        mean, var = reference.batch_stats(x.double())
        s_mean = x.double().abs().mean((0, 2, 3))
        # The mean is rounded once; what that moves the variance by is of second order.
        for got_mean, got_var in results:
            bounded(got_mean, mean, s_mean)
            bounded(got_var, var, var + 1e-6 * s_mean**2)

    def test_exact(self, name, dtype):
        """Means and deviations are whole: 0 and 6 about 3."""
        x = whole((2, 37, 8, 16), 1, 1, dtype)
        x[0], x[1] = 3 + 3 * x[0].sign(), 3 - 3 * x[0].sign()
        with isa(name):
            mean, var = run("batch_stats", x)
        exact(mean, x.double().mean((0, 2, 3)))
        expected = (x.double() - 3).square().mean((0, 2, 3))
        bounded(var, expected, expected, factor=0.25)


def test_large_mean_and_small_variance():
    """Where E[x^2] - E[x]^2 has no digit left."""
    g = torch.Generator().manual_seed(0)
    x = (1e4 + torch.randn(4, 20, 31, 29, generator=g)).contiguous(memory_format=torch.channels_last)
    _, var = run("batch_stats", x)
    expected = x.double().var((0, 2, 3), correction=0)
    # x itself lies on a grid of 1e-3 there, and so do the means that the chunks are merged by.
    assert ((var.double() - expected) / expected).abs().max() < 1e-4
    constant = torch.full((2, 5, 7, 7), 1e4).contiguous(memory_format=torch.channels_last)
    mean, var = run("batch_stats", constant)
    assert (var == 0).all()
    assert (mean == 1e4).all()


def test_does_not_depend_on_threads():
    for shape in ((8, 64, 56, 56), (3, 17, 61, 59), (16, 512, 7, 7)):
        check_threads("batch_stats", torch.randn(shape).contiguous(memory_format=torch.channels_last))


def test_not_finite():
    x = torch.randn(2, 5, 6, 6).contiguous(memory_format=torch.channels_last)
    x[0, 1, 2, 3], x[1, 3, 0, 0] = float("nan"), float("inf")
    mean, var = run("batch_stats", x)
    assert mean.isnan().tolist() == [False, True, False, False, False]
    assert mean.isinf().tolist() == [False, False, False, True, False]
    assert var.isnan().tolist() == [False, True, False, True, False]


def test_errors():
    with pytest.raises(RuntimeError, match=r"batch_stats.*'x' of shape.*no statistics"):
        torch.ops.lightops.batch_stats(torch.empty(0, 3, 4, 4))
    with pytest.raises(RuntimeError, match=r"batch_stats.*channels innermost"):
        torch.ops.lightops.batch_stats(torch.empty(2, 3, 4, 4))
