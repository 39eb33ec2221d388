import pytest
import torch

from lightops.reference import training as reference
from lightops.testing.compare import bitwise_equal
from tests.ops.training.dense import Block, check_backward, check_forward, draw, without_kinks
from tests.ops.training.oracle import (
    DTYPES,
    ISAS,
    accumulate,
    check_threads,
    exact,
    gradients,
    isa,
    run,
    sliced,
    upstream,
    whole,
)

# N, C, H, W, layers, growth, bottleneck: tails of every vector and tile, odd maps, several strips and slices.
SHAPES = (
    (2, 19, 7, 9, 3, 12, 33),
    (1, 8, 1, 2, 2, 4, 8),
    (2, 40, 5, 4, 3, 12, 0),
    (3, 64, 14, 13, 2, 32, 128),
    (2, 5, 31, 30, 2, 33, 65),
    (1, 1, 3, 3, 1, 1, 1),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
class TestDenseBlock:
    @pytest.mark.parametrize("algo", [0, 2])
    def test_bounded(self, name, dtype, algo):
        for i, shape in enumerate(SHAPES):
            options = {"frozen": i % 3 == 1, "dropout": i % 2 == 1, "affine": i % 3 != 2, "algo": algo}
            with isa(name):
                x, block, saved = without_kinks(shape, dtype, **options)
                check_forward(x, block, saved)
                dbuffer = upstream(saved[0].shape, dtype, i)
                guarded = sliced(dbuffer)
                needs = [True] * (1 + len(block.params))
                dx, dparams = run("dense_block_train_backward", guarded.tensor, *saved, *block, needs)
            guarded.check_unchanged("dbuffer")
            check_backward(dx, dparams, dbuffer, saved, block)

    def test_exact(self, name, dtype):
        """Frozen norms with scales of powers of two: no sum rounds, and every dtype gives the same numbers."""
        limit = 1 if dtype in (torch.bfloat16, torch.float16) else 2
        for algo in (0, 2) if dtype == torch.float32 else (0,):
            for shape in ((2, 5, 6, 7, 1, 3, 4), (1, 17, 4, 5, 1, 18, 0), (2, 3, 9, 4, 2, 2, 2)):
                n, c, h, w, layers, k, b = shape
                to = accumulate(dtype)
                params, frozen = [], []
                for layer in range(layers):
                    width = c + layer * k
                    for i, channels in enumerate((width, b) if b else (width,)):
                        params += [whole((channels,), 1, 3 + i, to), whole((channels,), 1, 5 + i, to)]
                        frozen += [whole((channels,), 1, 7 + i, to), torch.ones(channels, dtype=to)]
                        size = (b, width, 1, 1) if b and i == 0 else (k, channels, 3, 3)
                        params.append(whole(size, 1, 9 + i, dtype).contiguous())
                block = Block(params, [0.0] * (len(frozen) // 2), frozen, [], k, b, algo)
                x = whole((n, c, h, w), limit, 1, dtype)
                dy = whole((n, c + layers * k, h, w), 1, 2, dtype)
                with isa(name):
                    saved = run("dense_block_train", x, None, None, *block)
                    dx, dparams = run("dense_block_train_backward", dy, *saved, *block, [True] * (1 + len(params)))

                def forward(x, *params, rest=block[1:]):
                    frozen = [t.double() for t in rest[1]]
                    return reference.dense_block_train(x, None, None, params, rest[0], frozen, *rest[2:])[0]

                if saved[0].abs().max() < 2.0 / torch.finfo(dtype).eps:
                    exact(saved[0], forward(x.double(), *(p.double() for p in params)))
                    expected = gradients(forward, [x, *params], dy)
                    for actual, want in zip((dx, *dparams), expected, strict=True):
                        exact(actual, want)
                else:
                    assert dtype in (torch.bfloat16, torch.float16)

    def test_unwanted_gradients(self, name, dtype):
        """Each gradient asked for alone has the bits it has among all, and the others come back empty."""
        x, block = draw((2, 9, 5, 6, 2, 7, 11), dtype)
        with isa(name):
            saved = run("dense_block_train", x, None, None, *block)
            dy = upstream(saved[0].shape, dtype)
            dx, dparams = run("dense_block_train_backward", dy, *saved, *block, [True] * 13)
            for i, expected in enumerate((dx, *dparams)):
                needs = [j == i for j in range(13)]
                one, others = run("dense_block_train_backward", dy, *saved, *block, needs)
                for j, actual in enumerate((one, *others)):
                    assert bitwise_equal(actual, expected) if j == i else actual.numel() == 0


@pytest.mark.parametrize("shape", [(8, 64, 14, 14, 2, 32, 128), (5, 30, 33, 17, 2, 12, 0), (2, 100, 7, 7, 2, 32, 128)])
def test_does_not_depend_on_threads(shape):
    x, block = draw(shape, torch.float32)
    check_threads("dense_block_train", x, None, None, *block)
    saved = run("dense_block_train", x, None, None, *block)
    dy = upstream(saved[0].shape, torch.float32)
    check_threads("dense_block_train_backward", dy, *saved, *block, [True] * (1 + len(block.params)))


def test_known_statistics_are_taken():
    """Those of x that the caller has already: the same numbers as computing them, and a wrong mean shows."""
    x, block = draw((2, 19, 7, 9, 2, 12, 33), torch.float32)
    out = run("dense_block_train", x, None, None, *block)
    mean, var = out[2][:19].clone(), out[3][:19].clone()
    assert all(map(bitwise_equal, run("dense_block_train", x, mean, var, *block), out))
    assert not torch.equal(run("dense_block_train", x, mean + 1, var, *block)[0], out[0])


def test_input_may_be_a_slice():
    x, block = draw((2, 19, 7, 9, 2, 12, 33), torch.float32)
    guarded = sliced(x)
    out = run("dense_block_train", guarded.tensor, None, None, *block)
    guarded.check_unchanged("x")
    assert all(map(bitwise_equal, out, run("dense_block_train", x, None, None, *block)))


def test_constant_channel_and_huge_mean():
    """Variance zero, and a mean 1e4 deviations away: finite, and within the bound."""
    x, block = draw((2, 6, 8, 8, 2, 4, 8), torch.float32)
    x[:, 0] = 3.0
    x[:, 1] = 1e4 + torch.randn(2, 8, 8)
    saved = run("dense_block_train", x, None, None, *block)
    check_forward(x, block, saved)
    dy = upstream(saved[0].shape, torch.float32)
    dx, dparams = run("dense_block_train_backward", dy, *saved, *block, [True] * 13)
    assert dx.isfinite().all()
    assert all(g.isfinite().all() for g in dparams)


@pytest.mark.parametrize("bottleneck", [8, 0])
@pytest.mark.parametrize("name", ISAS)
def test_nan_image_in_frozen_block(name, bottleneck):
    """Frozen norms tie no image to another: a NaN in one takes nothing from the dx of the others."""
    x, block = draw((3, 6, 5, 4, 3, 4, bottleneck), torch.float32, frozen=True)
    norms = len(block.eps)
    stats = [f(c) for c in _norm_channels(block, 6) for f in (torch.zeros, torch.ones)]
    block = block._replace(frozen=stats)
    assert len(stats) == 2 * norms

    def dx(x):
        saved = run("dense_block_train", x, None, None, *block)
        dy = upstream(saved[0].shape, torch.float32)
        return run("dense_block_train_backward", dy, *saved, *block, [True] * (1 + len(block.params)))[0]

    with isa(name):
        clean = dx(x)
        x[1, 2, 3, 1] = float("nan")
        found = dx(x)
    assert bitwise_equal(found[::2], clean[::2])
    assert found[1].isfinite().all()  # NaN counts as positive, and its gradient is that of any other positive value


def _norm_channels(block: Block, channels: int) -> list[int]:
    """Of each norm, in the order of `frozen`."""
    widths = [channels + layer * block.growth for layer in range(block.layers)]
    return [c for width in widths for c in ((width, block.bottleneck) if block.bottleneck else (width,))]


def test_empty_batch():
    x, block = draw((2, 6, 4, 4, 2, 4, 8), torch.float32)
    saved = run("dense_block_train", x[:0], None, None, *block)
    assert saved[0].shape == (0, 14, 4, 4)
    dx, dparams = run("dense_block_train_backward", saved[0], *saved, *block, [True] * 13)
    assert dx.shape == (0, 6, 4, 4)
    assert not any(g.any() for g in dparams)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"params": []}, "0 parameter tensors"),
        ({"eps": [1e-5]}, "'eps' has 1 entries; want 4"),
        ({"frozen": [None]}, "'frozen' has 1 entries"),
        ({"masks": [None]}, "'masks' has 1 entries"),
        ({"growth": 5}, "want \\[5, 8, 3, 3\\]"),
        ({"bottleneck": 7}, "want \\[7, 6, 1, 1\\]"),
        ({"algo": 4}, "'algo' is 4"),
    ],
)
def test_errors(change, fragment):
    x, block = draw((2, 6, 4, 4, 2, 4, 8), torch.float32)
    with pytest.raises(RuntimeError, match=fragment) as caught:
        torch.ops.lightops.dense_block_train(x, None, None, *block._replace(**change))
    assert "dense_block_train" in str(caught.value)


def test_backward_errors():
    x, block = draw((2, 6, 4, 4, 2, 4, 8), torch.float32)
    saved = run("dense_block_train", x, None, None, *block)
    back, needs = torch.ops.lightops.dense_block_train_backward, [True] * 13
    with pytest.raises(RuntimeError, match="'needs' has 2 entries; want 13"):
        back(saved[0], *saved, *block, [True, True])
    with pytest.raises(RuntimeError, match="'dbuffer' has shape"):
        back(saved[0][:, :5], *saved, *block, needs)
    with pytest.raises(RuntimeError, match="'dbuffer' has scalar type"):
        back(saved[0].double(), *saved, *block, needs)
    with pytest.raises(RuntimeError, match="'middle' has shape"):
        back(saved[0], saved[0], saved[1][:2], *saved[2:], *block, needs)
