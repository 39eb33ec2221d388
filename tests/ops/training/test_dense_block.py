from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightops.reference import training as reference
from lightops.testing.compare import bitwise_equal
from lightops.testing.oracle import winograd_magnitude
from tests.ops.training.oracle import (
    DTYPES,
    DX_FACTOR,
    ISAS,
    Norm,
    accumulate,
    bounded,
    exact,
    gradients,
    isa,
    magnitude_norm_backward,
    magnitude_u,
    row,
    run,
    sliced,
    upstream,
    whole,
)
from tests.ops.training.wgrad3x3 import winograd_wgrad_magnitude

# N, C, H, W, layers, growth, bottleneck: tails of every vector and tile, odd maps, several strips and slices.
SHAPES = (
    (2, 19, 7, 9, 3, 12, 33),
    (1, 8, 1, 2, 2, 4, 8),
    (2, 40, 5, 4, 3, 12, 0),
    (3, 64, 14, 13, 2, 32, 128),
    (2, 5, 31, 30, 2, 33, 65),
    (1, 1, 3, 3, 1, 1, 1),
)


class Block(NamedTuple):
    """The arguments of the op behind x, mean_x and var_x."""

    params: list[Tensor | None]
    eps: list[float]
    frozen: list[Tensor | None]
    masks: list[Tensor | None]
    growth: int
    bottleneck: int
    algo: int

    def norms(self, layer: int, buffer: Tensor, middle: Tensor) -> tuple[Norm, Norm | None]:
        """The layer's norms with the statistics of the tensors as they are, in float64."""
        each, many = (6, 2) if self.bottleneck else (3, 1)
        made: list[Norm | None] = []
        for i, x in enumerate((buffer, middle)[:many]):
            gamma, beta = self.params[each * layer + 3 * i : each * layer + 3 * i + 2]
            place = 2 * (many * layer + i)
            mean, var = self.frozen[place : place + 2] if self.frozen else (None, None)
            batch = mean is None
            if batch:
                mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            made.append(Norm(mean, var, gamma, beta, self.eps[many * layer + i], "relu", batch).double())
        return made[0], made[1] if self.bottleneck else None

    def mask(self, layer: int) -> Tensor | float:
        found = self.masks[layer] if self.masks else None
        return 1.0 if found is None else found.double()


def draw(shape, dtype, *, seed=0, frozen=False, dropout=False, affine=True, algo=2) -> tuple[Tensor, Block]:
    n, c, h, w, layers, k, b = shape
    g = torch.Generator().manual_seed(seed)
    to = accumulate(dtype)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g, dtype=torch.float64)

    def norm(channels: int) -> list[Tensor | None]:
        return [normal(channels).to(to), normal(channels).to(to)] if affine else [None, None]

    x = (normal(n, c, h, w) + normal(1, c, 1, 1)) * 10 ** (normal(1, c, 1, 1) / 3)
    params: list[Tensor | None] = []
    stats: list[Tensor | None] = []
    masks: list[Tensor | None] = []
    for layer in range(layers):
        width = c + layer * k
        params += norm(width)
        if b:
            params += [(normal(b, width, 1, 1) / width**0.5).to(dtype), *norm(b)]
        fan = 9 * (b or width)
        params.append((normal(k, b or width, 3, 3) / fan**0.5).to(dtype))
        for i, channels in enumerate((width, b) if b else (width,)):
            fixed = frozen and (layer + i) % 2 == 0
            stats += [normal(channels).to(to), (normal(channels) ** 2 + 0.5).to(to)] if fixed else [None, None]
        keep = (torch.rand((n, k, h, w), generator=g) > 0.3).double() / 0.7
        drop = keep.to(dtype).contiguous(memory_format=torch.channels_last)
        masks.append(drop if dropout and layer % 2 == 0 else None)
    block = Block(
        params,
        [1e-5] * (layers * (2 if b else 1)),
        stats if frozen else [],
        masks if dropout else [],
        k,
        b,
        0 if dtype == torch.float64 else algo,
    )
    return x.to(dtype).contiguous(memory_format=torch.channels_last), block


def conv3_magnitude(s: Tensor, weight: Tensor, algo: int) -> Tensor:
    return winograd_magnitude(s, weight, 2, (1, 1)) if algo else F.conv2d(s, weight.abs(), padding=1)


def turned(weight: Tensor) -> Tensor:
    """The weight that the gradient of the input is convolved with."""
    return weight.transpose(0, 1).flip(2, 3)


def activate(x: Tensor, n: Norm) -> Tensor:
    z = (x - row(n.mean)) * (row(n.gamma, 1.0) / (row(n.var) + n.eps).sqrt()) + row(n.beta)
    return z.relu()


def check_forward(x: Tensor, block: Block, out: tuple[Tensor, ...]) -> None:
    """Each tensor against the ones that the kernel itself put before it."""
    buffer, middle, mean, var, middle_mean, middle_var = out
    exact_buffer, exact_middle = buffer.double(), middle.double()
    count, c = len(x), x.shape[1]
    assert torch.equal(buffer[:, :c], x)
    layers = len(block.eps) // (2 if block.bottleneck else 1)
    each = 6 if block.bottleneck else 3
    for layer in range(layers):
        prefix = exact_buffer[:, : c + layer * block.growth]
        raw = exact_middle[layer * count : (layer + 1) * count]
        first, second = block.norms(layer, prefix, raw)
        inner, n, weight = prefix, first, block.params[each * layer + each - 1].double()
        if second is not None:
            w1 = block.params[each * layer + 2].double()
            s = F.conv2d(magnitude_u(prefix, first), w1.abs())
            bounded(
                middle[layer * count : (layer + 1) * count],
                F.conv2d(activate(prefix, first), w1),
                s,
                w1[0].numel(),
            )
            inner, n = raw, second
        s = conv3_magnitude(magnitude_u(inner, n), weight, block.algo) * block.mask(layer)
        new = F.conv2d(activate(inner, n), weight, padding=1) * block.mask(layer)
        own = slice(c + layer * block.growth, c + (layer + 1) * block.growth)
        bounded(buffer[:, own], new, s, weight[0].numel(), 2.0 if block.masks else 1.0)
    check_statistics(exact_buffer, mean, var)
    for layer in range(layers if block.bottleneck else 0):
        check_statistics(exact_middle[layer * count : (layer + 1) * count], middle_mean[layer], middle_var[layer])


def check_statistics(x: Tensor, mean: Tensor, var: Tensor) -> None:
    expected = x.mean((0, 2, 3))
    bounded(mean, expected, x.abs().mean((0, 2, 3)))
    spread = (x - row(expected)).abs()
    # The square of a difference that is rounded relative to its terms. E[x^2] - E[x]^2 would err by their squares.
    s = (spread**2 + spread * (x.abs() + row(expected).abs())).mean((0, 2, 3))
    bounded(var, x.var((0, 2, 3), correction=0), s)


class Gradients(NamedTuple):
    dx: Tensor
    params: list[Tensor | None]


def backward_truth(dbuffer: Tensor, saved: tuple[Tensor, ...], block: Block) -> tuple[Gradients, Gradients]:
    """The gradients from the tensors that the kernel kept, and their magnitudes, layer by layer in float64."""
    buffer, middle = saved[0].double(), saved[1].double()
    layers = len(block.eps) // (2 if block.bottleneck else 1)
    each, count, c = (6 if block.bottleneck else 3), len(buffer), buffer.shape[1] - layers * block.growth
    g, s_g = dbuffer.double().clone(), dbuffer.double().abs()
    params: list[Tensor | None] = [None] * len(block.params)
    sizes: list[Tensor | None] = [None] * len(block.params)

    def through(x: Tensor, n: Norm, weight: Tensor, dy: Tensor, s_dy: Tensor, at: int, padding: int) -> tuple:
        """Gradients of conv(relu(bn(x))) and their S; those of the parameters are put at params[at:]."""

        def forward(x, gamma, beta, weight):
            mean, var = (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)) if n.batch else (n.mean, n.var)
            return F.conv2d(
                activate(x, n._replace(mean=mean, var=var, gamma=gamma, beta=beta)), weight, padding=padding
            )

        dx, *params[at : at + 3] = gradients(forward, [x, n.gamma, n.beta, weight], dy)
        u, algo = magnitude_u(x, n), block.algo if padding else 0
        if padding:
            s_du = conv3_magnitude(s_dy, turned(weight), algo)
            w_size = torch.nn.grad.conv2d_weight(u, weight.shape, s_dy, padding=1)
            sizes[at + 2] = torch.maximum(w_size, winograd_wgrad_magnitude(u, s_dy)) if algo else w_size
        else:
            s_du = F.conv2d(s_dy, turned(weight.abs()))
            sizes[at + 2] = torch.nn.grad.conv2d_weight(u, weight.shape, s_dy)
        s_dx, sizes[at], sizes[at + 1] = magnitude_norm_backward(x, n, s_du)
        return dx, s_dx

    for layer in reversed(range(layers)):
        width = c + layer * block.growth
        own = slice(width, width + block.growth)
        prefix, raw = buffer[:, :width], middle[layer * count : (layer + 1) * count]
        first, second = block.norms(layer, prefix, raw)
        dy, s_dy = g[:, own] * block.mask(layer), s_g[:, own] * block.mask(layer)
        if second is not None:
            w2 = block.params[each * layer + 5].double()
            dy, s_dy = through(raw, second, w2, dy, s_dy, each * layer + 3, 1)
            dx, s_dx = through(prefix, first, block.params[each * layer + 2].double(), dy, s_dy, each * layer, 0)
        else:
            dx, s_dx = through(prefix, first, block.params[each * layer + 2].double(), dy, s_dy, each * layer, 1)
        g[:, :width] += dx
        s_g[:, :width] += s_dx
    return Gradients(g[:, :c], params), Gradients(s_g[:, :c], sizes)


def close_to_kink(saved: tuple[Tensor, ...], block: Block) -> bool:
    """Whether an activation's input lies so close to zero that either side is right."""
    buffer, middle = saved[0].double(), saved[1].double()
    layers = len(block.eps) // (2 if block.bottleneck else 1)
    for layer in range(layers):
        width, count = buffer.shape[1] - (layers - layer) * block.growth, len(buffer)
        tensors = (buffer[:, :width], middle[layer * count : (layer + 1) * count])
        for x, n in zip(tensors, block.norms(layer, *tensors), strict=True):
            if n is not None and x.numel():
                z = (x - row(n.mean)) * (row(n.gamma, 1.0) / (row(n.var) + n.eps).sqrt()) + row(n.beta)
                unit = 2.0**-53 if saved[2].dtype == torch.float64 else 2.0**-24
                if (z.abs() < 4 * unit * magnitude_u(x, n)).any():
                    return True
    return False


def without_kinks(shape, dtype, **options) -> tuple[Tensor, Block, tuple[Tensor, ...]]:
    for seed in range(20):
        x, block = draw(shape, dtype, seed=seed, **options)
        saved = run("dense_block_train", x, None, None, *block)
        if not close_to_kink(saved, block):
            return x, block, saved
    raise AssertionError("every draw has an activation input at zero")


def check_backward(dx: Tensor, dparams: list[Tensor], dbuffer: Tensor, saved, block: Block) -> None:
    truth, size = backward_truth(dbuffer, saved, block)
    terms = saved[0].numel() // saved[0].shape[1]
    # Every layer that a gradient has come through adds its own few roundings.
    layers = len(block.eps) // (2 if block.bottleneck else 1)
    bounded(dx, truth.dx, size.dx, terms, DX_FACTOR)
    for i, (actual, expected, s) in enumerate(zip(dparams, truth.params, size.params, strict=True)):
        if block.params[i] is None:
            assert actual.numel() == 0
            continue
        assert actual.dtype == block.params[i].dtype, (i, layers)
        bounded(actual, expected, s, terms, DX_FACTOR)


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
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            saved = run("dense_block_train", x, None, None, *block)
            dy = upstream(saved[0].shape, torch.float32)
            needs = [True] * (1 + len(block.params))
            dx, dparams = run("dense_block_train_backward", dy, *saved, *block, needs)
            results.append((*saved, dx, *dparams))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(bitwise_equal(a, b) for a, b in zip(results[0], other, strict=True))


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
