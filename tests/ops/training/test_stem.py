"""`stem_train`: values, places and gradients against float64, whole numbers exactly."""

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lightops
from lightops.bench.memory import saved_for_backward
from lightops.ops import training
from lightops.reference import training as reference
from tests.ops.training.oracle import ISAS, bounded, check_threads, draw, exact, isa, run, sliced

gradient = importlib.import_module("lightops.ops.training.stem")._backward_reference
DTYPES = (torch.float32, torch.float64)
# channels, outputs, height, width, kernel, stride, padding, pool kernel, stride, padding, ceil_mode
SHAPES = (
    (3, 64, 33, 31, (3, 3), (2, 2), (0, 0), (3, 3), (2, 2), (0, 0), True),
    (3, 96, 40, 41, (7, 7), (2, 2), (0, 0), (3, 3), (2, 2), (0, 0), True),
    (1, 7, 12, 9, (3, 2), (1, 2), (1, 0), (2, 3), (2, 1), (1, 1), False),
    (3, 16, 70, 67, (3, 3), (1, 1), (1, 1), (2, 2), (2, 2), (0, 0), False),
    (5, 33, 9, 11, (1, 1), (1, 1), (0, 0), (3, 3), (1, 1), (1, 1), True),
    (3, 20, 5, 5, (5, 5), (1, 1), (0, 0), (1, 1), (1, 1), (0, 0), False),
)


def _case(shape, dtype, make, n=2):
    c, o, h, w, kernel, *geometry = shape
    x, weight, bias = make((n, c, h, w)), make((o, c, *kernel)), make((o,))
    stride, padding, *pool = geometry
    return x, weight, bias, list(stride), list(padding), [list(p) if isinstance(p, tuple) else p for p in pool]


@pytest.mark.parametrize("act", ["none", "relu"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ISAS)
def test_whole_numbers_are_exact(name, dtype, shape, act):
    """Values, many of them equal: the first of equal maxima takes the gradient."""
    generator = torch.Generator().manual_seed(3)

    def make(size):
        t = torch.randint(-2, 3, size, generator=generator).to(dtype)
        return t.contiguous(memory_format=torch.channels_last) if len(size) == 4 else t

    x, weight, bias, stride, padding, pool = _case(shape, dtype, make)
    code = ("none", "relu").index(act)
    leaves = [t.double().requires_grad_() for t in (weight, bias)]
    u = F.conv2d(x.double(), *leaves, stride, padding)
    want = F.max_pool2d(u.relu() if act == "relu" else u, *pool[:3], ceil_mode=pool[3])
    upstream = torch.randint(-3, 4, want.shape, generator=generator).double()
    dweight, dbias = torch.autograd.grad(want, leaves, upstream)
    _, places = reference.stem_train(x.double(), *(t.detach() for t in leaves), stride, padding, act, *pool)
    guarded, dout = sliced(x), upstream.to(dtype).contiguous(memory_format=torch.channels_last)
    with isa(name):
        for given in (x, guarded.tensor):
            out, at = run("stem_train", given, weight, bias, stride, padding, code, *pool)
            exact(out, want.detach())
            assert torch.equal(at, places)
            args = (stride, padding, code, *pool[:3], [False, True, True])
            _, *grads = run("stem_train_backward", dout, given, out, at, weight, *args)
            exact(grads[0], dweight)
            exact(grads[1], dbias)
    guarded.check_unchanged("x")


@pytest.mark.parametrize("name", ISAS)
def test_rounding(name):
    x, _ = draw((2, 3, 65, 63), torch.float32, "none")
    weight, bias = torch.randn(64, 3, 3, 3), torch.randn(64)
    geometry = ([2, 2], [0, 0])
    pool = ([3, 3], [2, 2], [0, 0], True)
    with isa(name):
        out, places = run("stem_train", x, weight, bias, *geometry, 1, *pool)
        dout = torch.randn(out.shape).contiguous(memory_format=torch.channels_last)
        _, dweight, dbias = run(
            "stem_train_backward", dout, x, out, places, weight, *geometry, 1, *pool[:3], [False, True, True]
        )
    magnitude = F.conv2d(x.double().abs(), weight.double().abs(), bias.double().abs(), 2)
    want, _ = reference.stem_train(x.double(), weight.double(), bias.double(), *geometry, "relu", *pool)
    bounded(out, want, F.max_pool2d(magnitude, 3, 2, 0, ceil_mode=True))
    # The masks and places are the kernel's own: a value close to another may have won.
    exact_out, args = out.double(), (places, weight.double(), *geometry, 1, *pool[:3], [False, True, True])
    _, dweight_want, dbias_want = gradient(dout.double(), x.double(), exact_out, *args)
    _, dweight_size, dbias_size = gradient(dout.double().abs(), x.double().abs(), exact_out, *args)
    bounded(dweight, dweight_want, dweight_size)
    bounded(dbias, dbias_want, dbias_size)


def test_does_not_depend_on_threads():
    x = torch.randn(5, 3, 95, 93).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(64, 3, 3, 3), torch.randn(64)
    forward = (x, weight, bias, [2, 2], [0, 0], 1, [3, 3], [2, 2], [0, 0], True)
    check_threads("stem_train", *forward)
    out, places = run("stem_train", *forward)
    dout = torch.randn(out.shape).contiguous(memory_format=torch.channels_last)
    check_threads("stem_train_backward", dout, x, out, places, weight, *forward[3:9], [False, True, True])


def test_not_finite():
    """NaN wins a window, takes its gradient, and reaches what it touches."""
    x = torch.randn(1, 3, 15, 15).contiguous(memory_format=torch.channels_last)
    x[0, 1, 6, 7] = float("nan")
    weight, bias = torch.randn(8, 3, 3, 3), torch.randn(8)
    forward = (weight, bias, [2, 2], [0, 0])
    out, places = run("stem_train", x, *forward, 1, [3, 3], [2, 2], [0, 0], False)
    want, at = reference.stem_train(x, *forward, "relu", [3, 3], [2, 2], [0, 0], False)
    assert torch.equal(out.isnan(), want.isnan())
    assert out.isnan().any()
    assert torch.equal(places[out.isnan()], at[want.isnan()])


def test_module_keeps_no_convolution():
    """Image, result and places are kept; where the image has a gradient, it is right."""
    stock = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True))
    model = copy.deepcopy(stock)
    lightops.swap_(model)
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    assert model[0].weight.requires_grad
    values = model(x).numel()
    kept = saved_for_backward(lambda: model(x).sum(), [*model.parameters()])
    assert kept == 4 * x.numel() + 5 * values
    for net in (stock, model):
        torch.testing.assert_close(net(x), stock(x), rtol=1e-4, atol=1e-4)
    grads = []
    for net in (stock, model):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        grads.append(torch.autograd.grad(net(leaf).sum(), leaf)[0])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_is_stocks(dtype, layout):
    """All gradients of a swapped network on images without one, as in training."""
    torch.manual_seed(0)
    stock = lightops.networks.squeezenet1_1(num_classes=5, dropout=0.0).to(dtype=dtype, memory_format=layout).train()
    fused = copy.deepcopy(stock)
    lightops.swap_(fused)
    x = torch.randn(3, 3, 65, 64, dtype=dtype).contiguous(memory_format=layout)
    upstream = torch.randn(3, 5, dtype=dtype)
    for net in (stock, fused):
        net(x).backward(upstream)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    for (name, want), got in zip(stock.named_parameters(), fused.parameters(), strict=True):
        assert got.grad.stride() == want.grad.stride()
        distance = (got.grad - want.grad).norm() / want.grad.norm()
        assert distance < tolerance, f"{name}: {distance}"


def test_errors():
    x, weight = torch.randn(1, 3, 9, 9).contiguous(memory_format=torch.channels_last), torch.randn(4, 3, 3, 3)
    stem = torch.ops.lightops.stem_train
    geometry = ([1, 1], [0, 0])
    with pytest.raises(RuntimeError, match=r"stem_train: 'act' is 3"):
        stem(x, weight, None, *geometry, 3, [2, 2], [2, 2], [0, 0], False)
    with pytest.raises(RuntimeError, match=r"stem_train: 'weight' has shape .*want \[O, 3, kh, kw\]"):
        stem(x, weight[:, :2], None, *geometry, 1, [2, 2], [2, 2], [0, 0], False)
    with pytest.raises(RuntimeError, match=r"stem_train: 'x' has scalar type"):
        stem(x.bfloat16(), weight.bfloat16(), None, *geometry, 1, [2, 2], [2, 2], [0, 0], False)
    with pytest.raises(RuntimeError, match=r"stem_train: 'pool_kernel' covers 289 pixels"):
        stem(x, weight, None, *geometry, 1, [17, 17], [1, 1], [8, 8], False)
    with pytest.raises(RuntimeError, match=r"stem_train: 'padding' is 2"):
        stem(x, weight, None, *geometry, 1, [2, 2], [2, 2], [2, 2], False)


def test_what_fits():
    x = torch.randn(1, 3, 9, 9)
    assert training.stem_train_fits(x, "relu", (3, 3))
    assert not training.stem_train_fits(x.requires_grad_(), "relu", (3, 3))
    assert not training.stem_train_fits(x.detach().bfloat16(), "relu", (3, 3))
    assert not training.stem_train_fits(x.detach(), "silu", (3, 3))
    assert not training.stem_train_fits(x.detach(), "relu", (17, 17))
