import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightops.testing.compare import bitwise_equal
from lightops.testing.oracle import winograd_magnitude
from tests.ops.training.oracle import (
    DTYPES,
    ISAS,
    bounded,
    check_threads,
    exact,
    isa,
    row,
    run,
    sliced,
    upstream,
    whole,
)
from tests.ops.training.wgrad3x3 import winograd_wgrad_magnitude

# N, C, H, W, squeeze, expand1, expand3: tails of every vector and tile, odd maps, several strips, slices and groups.
SHAPES = (
    (2, 19, 7, 9, 5, 12, 33),
    (1, 8, 1, 2, 3, 4, 8),
    (3, 64, 13, 13, 48, 65, 130),
    (1, 33, 57, 55, 16, 64, 64),
    (8, 7, 15, 14, 9, 1, 3),
)
NAMES = ("dx", "dws", "dbs", "dw1", "db1", "dw3", "db3")


def draw(shape, dtype, seed: int = 0, bias: bool = True) -> tuple[Tensor, ...]:
    """x, ws, bs, w1, b1, w3, b3."""
    n, c, h, w, s, e1, e3 = shape
    g = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        t = torch.randn(size, generator=g, dtype=torch.float64)
        return (t / t[0].numel() ** 0.5 if t.dim() == 4 else t / 2).to(dtype)

    x = torch.randn((n, c, h, w), generator=g, dtype=torch.float64).to(dtype)
    out = [x.contiguous(memory_format=torch.channels_last)]
    for size in ((s, c, 1, 1), (e1, s, 1, 1), (e3, s, 3, 3)):
        out += [normal(*size), normal(size[0]) if bias else None]
    return tuple(out)


def conv3_magnitude(s: Tensor, weight: Tensor, algo: int) -> Tensor:
    return winograd_magnitude(s, weight, 2, (1, 1)) if algo else F.conv2d(s, weight.abs(), padding=1)


def double(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.double()


def squeezed(args: tuple) -> Tensor:
    return F.conv2d(args[0].double(), args[1].double(), double(args[2])).relu()


def check_forward(args: tuple, algo: int, out: Tensor) -> None:
    x, ws, bs, w1, b1, w3, b3 = map(double, args)
    s, size = squeezed(args), F.conv2d(x.abs(), ws.abs()) + row(bs).abs()
    expected = torch.cat((F.conv2d(s, w1, b1), F.conv2d(s, w3, b3, padding=1)), 1).relu()
    one, three = F.conv2d(size, w1.abs()) + row(b1).abs(), conv3_magnitude(size, w3, algo) + row(b3).abs()
    bounded(out, expected, torch.cat((one, three), 1), w3[0].numel())


def backward_truth(dout: Tensor, args: tuple, algo: int, out: Tensor) -> tuple[list, list]:
    """Gradients from the tensors that the kernel kept, and their magnitudes, in float64."""
    x, ws, bs, w1, _, w3, _ = map(double, args)
    s, d = squeezed(args), dout.double() * (out > 0)
    positive = s > 0
    results = []
    for size in (False, True):
        if size:
            x, ws, w1, w3, d = x.abs(), ws.abs(), w1.abs(), w3.abs(), d.abs()
            s = F.conv2d(x, ws) + row(bs).abs()
        d1, d3 = d[:, : len(w1)], d[:, len(w1) :]
        through = F.conv_transpose2d(d3, w3, padding=1)
        dw3 = torch.nn.grad.conv2d_weight(s, w3.shape, d3, padding=1)
        if size and algo:
            through = torch.maximum(through, winograd_magnitude(d3, w3.transpose(0, 1).flip(2, 3), 2, (1, 1)))
            dw3 = torch.maximum(dw3, winograd_wgrad_magnitude(s, d3))
        ds = (F.conv_transpose2d(d1, w1) + through) * positive
        results.append(
            [
                F.conv_transpose2d(ds, ws),
                torch.nn.grad.conv2d_weight(x, ws.shape, ds),
                ds.sum((0, 2, 3)),
                torch.nn.grad.conv2d_weight(s, w1.shape, d1),
                d1.sum((0, 2, 3)),
                dw3,
                d3.sum((0, 2, 3)),
            ]
        )
    return results[0], results[1]


def native(x: Tensor, args: tuple, algo: int, dout: Tensor, needs=(True,) * 7) -> tuple[Tensor, tuple]:
    out = run("fire_train", x, *args[1:], algo)
    _, ws, bs, w1, _, w3, _ = args
    return out, run("fire_train_backward", dout, x, out, ws, bs, w1, w3, algo, list(needs))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
class TestFire:
    @pytest.mark.parametrize("algo", [0, 2])
    def test_bounded(self, name, dtype, algo):
        algo = 0 if dtype == torch.float64 else algo
        for i, shape in enumerate(SHAPES):
            args = draw(shape, dtype, i, bias=i % 2 == 0)
            n, _, h, w, _, e1, e3 = shape
            dout = upstream((n, e1 + e3, h, w), dtype, i)
            x, d = sliced(args[0]), sliced(dout)
            with isa(name):
                out, grads = native(x.tensor, args, algo, d.tensor)
            x.check_unchanged("x")
            d.check_unchanged("dout")
            check_forward(args, algo, out)
            expected, size = backward_truth(dout, args, algo, out)
            terms = max(n * h * w, 9 * e3)
            for actual, want, s in zip(grads, expected, size, strict=True):
                assert actual.dtype == dtype
                bounded(actual, want, s, terms, 2.0)

    def test_exact(self, name, dtype):
        """Whole numbers small enough that no sum rounds, where the dtype holds them."""
        for algo in (0, 2) if dtype == torch.float32 else (0,):
            for shape in SHAPES[:2]:
                n, c, h, w, s, e1, e3 = shape
                sizes = ((s, c, 1, 1), (s,), (e1, s, 1, 1), (e1,), (e3, s, 3, 3), (e3,))
                weights = [whole(size, 1, 3 + i, dtype).contiguous() for i, size in enumerate(sizes)]
                args = (whole((n, c, h, w), 1, 1, dtype), *weights)
                dout = whole((n, e1 + e3, h, w), 1, 2, dtype)
                with isa(name):
                    out, grads = native(args[0], args, algo, dout)
                x, ws, bs, w1, b1, w3, b3 = map(double, args)
                inner = F.conv2d(x, ws, bs).relu()
                exact(out, torch.cat((F.conv2d(inner, w1, b1), F.conv2d(inner, w3, b3, padding=1)), 1).relu())
                for actual, want in zip(grads, backward_truth(dout, args, algo, out)[0], strict=True):
                    exact(actual, want)

    def test_unwanted_gradients(self, name, dtype):
        """Each gradient asked for alone has the bits it has among all, and the others come back empty."""
        args = draw((2, 9, 6, 5, 7, 11, 18), dtype)
        dout = upstream((2, 29, 6, 5), dtype)
        with isa(name):
            _, grads = native(args[0], args, 0, dout)
            for i in range(7):
                _, found = native(args[0], args, 0, dout, [j == i for j in range(7)])
                for j, actual in enumerate(found):
                    assert bitwise_equal(actual, grads[j]) if j == i else actual.numel() == 0, NAMES[j]


@pytest.mark.parametrize(
    "shape", [(8, 64, 27, 27, 16, 64, 64), (2, 96, 13, 13, 48, 192, 192), (1, 33, 57, 55, 16, 64, 65)]
)
def test_does_not_depend_on_threads(shape):
    args = draw(shape, torch.float32)
    check_threads("fire_train", *args, 2)
    out = run("fire_train", *args, 2)
    dout = upstream(tuple(out.shape), torch.float32)
    check_threads("fire_train_backward", dout, args[0], out, *args[1:4], args[5], 2, [True] * 7)


def test_nan_passes_the_masks():
    """As through torch's own ReLU: NaN in an output counts as positive."""
    args = draw((1, 6, 5, 5, 4, 8, 8), torch.float32)
    args[0][0, 2, 2, 2] = float("nan")
    out, grads = native(args[0], args, 2, upstream((1, 16, 5, 5), torch.float32))
    leaves = [a.detach().requires_grad_() for a in args]
    s = F.conv2d(leaves[0], leaves[1], leaves[2]).relu()
    expected = torch.cat((F.conv2d(s, leaves[3], leaves[4]), F.conv2d(s, leaves[5], leaves[6], padding=1)), 1).relu()
    assert torch.equal(out.isnan(), expected.isnan())
    for actual, want in zip(
        grads, torch.autograd.grad(expected, leaves, upstream((1, 16, 5, 5), torch.float32)), strict=True
    ):
        assert torch.equal(actual.isnan(), want.isnan())


def test_empty_batch():
    args = draw((2, 6, 5, 5, 4, 8, 8), torch.float32)
    out, grads = native(args[0][:0], args, 2, torch.empty(0, 16, 5, 5))
    assert out.shape == (0, 16, 5, 5)
    assert grads[0].shape == (0, 6, 5, 5)
    assert not any(g.any() for g in grads)


def test_errors():
    args = draw((2, 6, 5, 5, 4, 8, 8), torch.float32)
    op, back = torch.ops.lightops.fire_train, torch.ops.lightops.fire_train_backward
    with pytest.raises(RuntimeError, match="'algo' is 4"):
        op(*args, 4)
    with pytest.raises(RuntimeError, match=r"'ws' has shape \[4, 6, 1, 1\]; want \[4, 5, 1, 1\]"):
        op(args[0][:, :5], *args[1:], 2)
    with pytest.raises(RuntimeError, match=r"'b1' has shape \[4\]; want \[8\]"):
        op(*args[:4], args[2], *args[5:], 2)
    with pytest.raises(RuntimeError, match="'w3' has scalar type"):
        op(*args[:5], args[5].double(), args[6], 2)
    out, weights = op(*args, 2), (*args[1:4], args[5])
    with pytest.raises(RuntimeError, match="'needs' must hold 7 flags"):
        back(out, args[0], out, *weights, 2, [True])
    with pytest.raises(RuntimeError, match="'dout' has shape"):
        back(out[:, :3], args[0], out, *weights, 2, [True] * 7)
    with pytest.raises(RuntimeError, match="'out' has shape"):
        back(out, args[0], out[:, :3], *weights, 2, [True] * 7)
