"""What test_bindings.py runs: `run_bindings.py LIBRARY ops|training|gradients|networks|errors|public`."""

import copy
import ctypes
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]

from block_cases import dense_block_truth  # noqa: E402
from cases import CASES  # noqa: E402
from drawing import compare  # noqa: E402
from training_cases import CASES as TRAINING_CASES  # noqa: E402
from training_cases.case import check  # noqa: E402

SEEDS = 25
library = None


def faults():
    return json.loads(library.bindings_faults())


def ops() -> None:
    """Every operator on the random cases, through the dispatcher."""
    for op in CASES:
        for seed in range(SEEDS):
            case = CASES[op](seed)
            case.draw.tf32 = False
            what = f"{op} seed {seed} {case.text}"
            out = getattr(torch.ops.lightops, "dense_block_" if op == "dense_block" else op)(*case.schema)
            assert faults() == [], what
            truth = (out, case.want, case.magnitude) if out is not None else dense_block_truth(case)
            compare(case.draw, *truth, what)
            if op in ("transition", "stem"):
                x, *rest = case.schema
                rest.pop({"transition": 4, "stem": 2}[op])
                getattr(torch.ops.lightops, f"{op}_out")(x, *rest, case.out)
                assert torch.equal(case.out.nan_to_num(), out.nan_to_num()), f"{what}: _out differs"


def training() -> None:
    """The same for the training ops; what an op was not asked for comes back empty."""
    for name, draw in TRAINING_CASES.items():
        for seed in range(SEEDS):
            case = draw(seed)
            if not case.schema:  # a piece that no operator is
                continue
            what = f"{name} seed {seed} {case.text}"
            case.draw.tf32 = False
            result = getattr(torch.ops.lightops, case.op)(*case.schema)
            assert faults() == [], what
            made = [t for t in tree_leaves(result) if t.numel()]
            assert len(made) == len(case.outputs), f"{what}: {len(made)} outputs, {len(case.outputs)} wanted"
            for output, got in zip(case.outputs, made, strict=True):
                assert got.dtype is output.view.dtype, f"{what} {output.name}: {got.dtype}"
                output.view.copy_(got)
            for output in case.outputs:
                output.settle()
            for output in case.outputs:
                check(case, output, what)


def gradients() -> None:
    """The training ops of Python on these operators, differentiated by autograd, against the reference."""
    # The package's own library would define the same operators again.
    torch.ops.load_library = lambda path: None
    from lightops.ops import training
    from lightops.ops.training import _op

    def agree(ours, theirs, leaves) -> None:
        upstream = torch.randn_like(theirs)
        pairs = [(ours, theirs)]
        pairs += zip(*(torch.autograd.grad(y, leaves, upstream) for y in (ours, theirs)), strict=True)
        assert faults() == []
        for got, want in pairs:
            assert torch.allclose(got, want, rtol=1e-3, atol=1e-4), (got - want).abs().max()

    torch.manual_seed(0)
    leaf = lambda *shape: torch.randn(*shape).mul_(0.3).requires_grad_()  # noqa: E731
    x = torch.randn(2, 16, 9, 9).requires_grad_()
    params = []
    for i in range(3):
        c = 16 + 8 * i
        params += [leaf(c), leaf(c), leaf(32, c, 1, 1), leaf(32), leaf(32), leaf(8, 32, 3, 3)]
    rest = (params, [1e-5] * 6, [], [])
    kernels = _op.KERNELS
    assert kernels["dense_block_train"].reason((x,) + (None,) * 9) == ""
    want = kernels["dense_block_train"].reference(x, None, None, *rest, 8, 32, 0)[0]
    agree(training.dense_block_train(x, *rest, 8, 32).buffer, want, [x, *params])
    weights = [leaf(12, 16, 1, 1), leaf(12), leaf(24, 12, 1, 1), leaf(24), leaf(20, 12, 3, 3), leaf(20)]
    agree(training.fire_train(x, *weights), kernels["fire_train"].reference(x, *weights, 0), [x, *weights])
    picture, weights = torch.randn(2, 3, 33, 31), [leaf(24, 3, 3, 3), leaf(24)]
    geometry = ([2, 2], [0, 0], 1, [3, 3], [2, 2], [0, 0], True)
    assert kernels["stem_train"].reason((picture, *weights, *geometry)) == ""
    want = kernels["stem_train"].reference(picture, *weights, *geometry)[0]
    agree(training.stem_train(picture, *weights, *geometry[:2], "relu", *geometry[3:]), want, weights)


def networks() -> None:
    """Small networks, swapped, take a training step on these operators: gradients and running statistics against stock
    in float64, and in 16 bits under autocast no further from it than stock is."""
    torch.ops.load_library = lambda path: None
    import lightops
    from lightops.bench.training import distance
    from lightops.networks import DenseNet, MobileNetV1, MobileNetV2, SqueezeNet

    def step(model, x) -> dict:
        torch.manual_seed(1)  # dropout
        F.cross_entropy(model(x).to(torch.promote_types(x.dtype, torch.float32)), torch.arange(len(x))).backward()
        found = {name: p.grad.double() for name, p in model.named_parameters()}
        model.zero_grad(set_to_none=True)
        return found

    for make, most in (
        (lambda: DenseNet(8, (2, 3), 16, num_classes=10, small_input=True), 1e-3),
        (lambda: DenseNet(8, (2, 2), 16, bn_size=0, num_classes=10, small_input=True), 1e-3),
        (lambda: SqueezeNet([(8, 16, 16), (8, 24, 24)], (16, 3, 2), (1,), num_classes=10), 1e-3),
        (lambda: MobileNetV1(0.125, num_classes=10, small_input=True), 1e-3),
        # Its last maps are 1x1, four values a norm: on eight seeds stock in float32 is 3e-4 to 3e-2 from float64.
        (lambda: MobileNetV2(0.1, num_classes=10), 0.1),
    ):
        torch.manual_seed(0)
        stock = make().train().to(memory_format=torch.channels_last)
        x = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
        exact, ours, other = copy.deepcopy(stock).double(), copy.deepcopy(stock), copy.deepcopy(stock)
        report = lightops.swap_(ours)
        assert report.fused
        want = step(exact, x.double())
        apart = distance(step(ours, x), want)
        assert faults() == []
        assert apart <= most, f"{type(stock).__name__}: {apart}"
        for a, b in zip(ours.buffers(), exact.buffers(), strict=True):
            torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half, limit = distance(step(ours, x), want), distance(step(other, x), want)
        assert faults() == []
        assert half <= 2 * limit, f"{type(stock).__name__} in bfloat16: {half}, stock {limit}"


def raises(message: str, call, *args) -> None:
    with pytest.raises(RuntimeError) as caught:
        call(*args)
    assert message in str(caught.value), caught.value


def errors() -> None:
    """Wrong arguments: one clear message, and the next call works."""
    conv = torch.ops.lightops.conv1x1_bn_act
    x = torch.randn(1, 8, 5, 5).half().contiguous(memory_format=torch.channels_last)
    w = torch.randn(1, 8, 8).half()
    raises("take float16, bfloat16 and float32, got float64", conv, x.double(), w.double(), None, 8, 0, None)
    raises("'w' must be packed for x's type", conv, x, w.float(), None, 8, 0, None)
    raises("with 64 elements, got 32", conv, x, w[:, :4].contiguous(), None, 8, 0, None)
    raises("'bias' must be a contiguous tensor of float32", conv, x, w, torch.zeros(8).half(), 8, 0, None)
    raises("must have its channels innermost", conv, x.contiguous(), w, None, 8, 0, None)
    raises("'residual' has shape", conv, x, w, None, 8, 0, x[:, :4])
    raises("'act' is 9", conv, x, w, None, 8, 9, None)
    raises("has scalar type", conv, x.int(), w, None, 8, 0, None)
    want = torch.nn.functional.conv2d(x.float(), w[0, :, :, None, None].float())
    assert torch.allclose(conv(x, w, None, 8, 0, None).float(), want, rtol=1e-2, atol=1e-2)


def public() -> None:
    """Raw parameters through fold, pack and run of `lightops.ops`, as a CUDA tensor would go, against the reference."""
    # The package's own library would define the same operators again.
    torch.ops.load_library = lambda path: None
    from lightops.kernels import cuda
    from lightops.ops import _native
    from lightops.reference import BatchNormParams, DenseLayerParams

    _native.pack_conv = lambda w, scale, dtype, algo=0, flat=False, **_: cuda.pack_conv2d(w, scale, dtype, flat=flat)
    _native.pack_depthwise = lambda w, scale, dtype: cuda.pack_depthwise(w, scale, dtype)
    from lightops import reference
    from lightops.ops import conv1x1_bn_act as pointwise_module  # noqa: F401

    def bn(c):
        return BatchNormParams(torch.randn(c), torch.randn(c), torch.randn(c), torch.rand(c) + 0.5, 1e-5)

    def check(op, *args, **kwargs):
        module = sys.modules[f"lightops.ops.{op}"]
        for name in ("pack_conv", "pack_depthwise"):
            if hasattr(module, name):
                setattr(module, name, getattr(_native, name))
        handle = "dense_block_" if op == "dense_block_" else op
        module._ops["cpu"] = getattr(torch.ops.lightops, handle).default
        got = module._native_run(*args, backend="cpu", **kwargs)
        kwargs.pop("winograd", None)
        want = getattr(reference, op)(*args, **kwargs)
        assert faults() == []
        assert got.shape == want.shape, op
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-4), (op, (got - want).abs().max())

    torch.manual_seed(0)
    x = torch.randn(2, 24, 9, 9).contiguous(memory_format=torch.channels_last)
    conv = torch.randn
    check("conv1x1_bn_act", x, conv(40, 24, 1, 1) / 5, None, bn(40), act="relu6", residual=None)
    check("dense_block", x, [DenseLayerParams(bn(24 + 8 * i), conv(32, 24 + 8 * i, 1, 1) / 5, bn(32), conv(8, 32, 3, 3) / 17) for i in range(3)], winograd=0)  # fmt: skip  # noqa: E501
    check("transition", x, bn(24), conv(12, 24, 1, 1) / 5, None)
    check("fire", x, conv(8, 24, 1, 1) / 5, conv(8), conv(16, 8, 1, 1) / 3, conv(16), conv(16, 8, 3, 3) / 8, conv(16), bypass=None, winograd=0)  # fmt: skip  # noqa: E501
    image = torch.randn(2, 3, 33, 33)
    check("stem", image, conv(16, 3, 3, 3) / 5, None, bn(16), act="relu", stride=(2, 2), padding=(1, 1), pool=None)
    check("head", x, bn(24), act="relu", weight=conv(10, 24) / 5, bias=conv(10))


if __name__ == "__main__":
    path, name = sys.argv[1:]
    torch.ops.load_library(path)
    library = ctypes.CDLL(path)
    library.bindings_faults.restype = ctypes.c_char_p
    parts = (ops, training, gradients, networks, errors, public)
    {part.__name__: part for part in parts}[name]()
    print("passed")
