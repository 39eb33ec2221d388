"""Bad inputs: each raises the named error with op, argument, what it got and what it wants.

Nothing changes, and the next call works. Numbers in docstrings are the fault catalogue's.
"""

import numpy as np
import pytest
import torch

from lightops import ops
from lightops.testing.calls import OPS, WEIGHTED_OPS, Case, build_call
from lightops.testing.cases import sized
from lightops.testing.draw import real_call
from lightops.testing.fill import RealFill
from lightops.testing.oracle import judge
from tests.ops.tools import replace_bn, run_public

BN_OPS = [op for op in WEIGHTED_OPS if op != "fire"]
BN_FIRST = ["bn_relu_conv2d", "dense_block", "head", "transition"]
WINDOWED = ["bn_relu_conv2d", "depthwise_pointwise", "inverted_residual", "stem"]


def good_call(op, dtype=torch.float32):
    options = sized(op, out=6, inner=5)
    return real_call(Case(op, "good", (2, 6, 5, 4), options), dtype, 0)


def with_x(call, x):
    return call._replace(args=(x, *call.args[1:]))


def raises(call, error, *fragments):
    """The call raises `error` and its message names the op and every fragment; afterwards a good call gives what it
    gave."""
    before = run_public(good_call(call.op))
    snapshot = [t.clone() for t in tensors(call)]
    with pytest.raises(error) as caught:
        getattr(ops, call.op)(*call.args, **call.kwargs)
    message = str(caught.value)
    for fragment in (f"{call.op}: ", *fragments):
        assert fragment in message, message
    for t, old in zip(tensors(call), snapshot, strict=True):
        assert torch.equal(t, old) or t.isnan().any()
    assert torch.equal(run_public(good_call(call.op)), before)


def tensors(call):
    """Dense CPU tensors of a call: what a failing call must leave alone."""
    found = []
    call.map(lambda t: found.append(t) or t)
    return [
        t
        for t in found
        if t.layout is torch.strided and t.device.type == "cpu" and not t.is_quantized and not t.is_nested
    ]


@pytest.mark.parametrize("op", OPS)
class TestEveryOp:
    @pytest.mark.parametrize("dims", [2, 3, 5])
    def test_dimensions(self, op, dims):
        """1: ValueError with BN in front, as BatchNorm2d, else RuntimeError; convolutions alone and pools take 3-D
        input."""
        x = torch.randn((2, 6, 5, 4, 3)[:dims])
        call = with_x(good_call(op), x)
        if dims == 3 and op in ("conv1x1_bn_act", "max_pool2d"):
            weights = (torch.randn(6, 2, 1, 1), None, None) if op == "conv1x1_bn_act" else ()
            call = call._replace(args=(x, *weights))
            function = getattr(ops, op)
            assert torch.equal(function(*call.args, **call.kwargs), function(x[None], *weights, **call.kwargs)[0])
            return
        raises(call, ValueError if op in BN_FIRST else RuntimeError, "'x'", f"{dims}D")

    @pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
    def test_unsupported_dtype(self, op, dtype):
        """3"""
        x = torch.ones(2, 6, 5, 4).to(dtype)
        raises(with_x(good_call(op), x), RuntimeError, "'x'", str(dtype), "torch.float32", "torch.bfloat16")

    def test_layouts_that_are_not_strided(self, op):
        """9"""
        call = good_call(op)
        x = call.args[0]
        raises(with_x(call, x.to_sparse()), NotImplementedError, "'x'", "sparse")
        raises(with_x(call, x.to_mkldnn()), NotImplementedError, "'x'", "mkldnn")
        raises(
            with_x(call, torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)), NotImplementedError, "'x'", "quantized"
        )
        raises(with_x(call, torch.nested.nested_tensor([x[0], x[1]])), NotImplementedError, "'x'", "nested")

    @pytest.mark.parametrize("value", [None, [[1.0]], np.ones((2, 6, 5, 4), np.float32)], ids=["None", "list", "numpy"])
    def test_not_a_tensor(self, op, value):
        """10"""
        raises(with_x(good_call(op), value), TypeError, "'x'", type(value).__name__)

    @pytest.mark.parametrize("shape", [(2, 6, 0, 4), (2, 6, 5, 0)])
    def test_empty_map(self, op, shape):
        """17: an unpadded kernel does not fit, as stock says."""
        call = with_x(good_call(op), torch.randn(shape))
        if op in WINDOWED and op != "inverted_residual":
            call = call._replace(kwargs={**call.kwargs, "padding": 0})
        raises(call, RuntimeError)

    def test_unknown_backend(self, op):
        call = good_call(op)
        call = call._replace(kwargs={**call.kwargs, "backend": "gpu"})
        raises(call, ValueError, "'gpu'", "cpu", "reference")

    @pytest.mark.parametrize("backend", ["cuda", "triton"])
    def test_unavailable_backend(self, op, backend):
        """76: the message lists what is available."""
        call = good_call(op)
        raises(
            call._replace(kwargs={**call.kwargs, "backend": backend}),
            ops.BackendUnavailable,
            backend,
            "Available: cpu, reference",
        )


@pytest.mark.parametrize("op", WEIGHTED_OPS)
class TestEveryOpWithWeights:
    def test_channels(self, op):
        """2: both numbers are named."""
        raises(with_x(good_call(op), torch.randn(2, 9, 5, 4)), RuntimeError, "6", "9")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtype_of_x_differs_from_weights(self, op, dtype):
        """4, 6: never silently cast."""
        call = good_call(op)
        if op == "head":
            call = call._replace(kwargs={**call.kwargs, "weight": torch.randn(6, 6)})
        raises(with_x(call, call.args[0].to(dtype)), RuntimeError, str(dtype), "torch.float32")

    def test_other_device(self, op):
        """7: both devices are named before anything runs."""
        call = good_call(op)
        raises(with_x(call, call.args[0].to("meta")), RuntimeError, "cpu", "meta")


@pytest.mark.parametrize("op", BN_OPS)
class TestBatchNorm:
    @pytest.mark.parametrize("field", ["running_mean", "running_var", "weight", "bias"])
    def test_wrong_size(self, op, field):
        """25: the buffer is named."""
        call = replace_bn(good_call(op), lambda bn: bn._replace(**{field: torch.ones(3)}))
        raises(call, RuntimeError, field, "[3]")

    @pytest.mark.parametrize("field", ["running_mean", "running_var"])
    def test_missing_statistics(self, op, field):
        """25"""
        raises(replace_bn(good_call(op), lambda bn: bn._replace(**{field: None})), RuntimeError, field, "None")

    def test_not_batch_norm_params(self, op):
        raises(replace_bn(good_call(op), lambda bn: tuple(bn)), TypeError, "BatchNormParams")

    @pytest.mark.parametrize("dropped", [("weight",), ("bias",), ("weight", "bias")])
    def test_affine_off(self, op, dropped):
        """26"""
        call = replace_bn(good_call(op), lambda bn: bn._replace(**dict.fromkeys(dropped)))
        explicit = replace_bn(
            call, lambda bn: bn._replace(**{f: torch.full_like(bn.running_mean, float(f == "weight")) for f in dropped})
        )
        assert torch.equal(run_public(call), run_public(explicit))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_float32_statistics_beside_half_precision(self, op, dtype):
        """5"""
        fill = RealFill(0, dtype)
        fill.bn_dtype = torch.float32
        call = build_call(Case(op, "mixed", (2, 6, 5, 4), sized(op, out=6, inner=5)), fill)
        assert run_public(call).dtype == dtype

    def test_zero_and_negative_gamma(self, op):
        """31, eval half: no inversion trick."""
        call = replace_bn(
            good_call(op),
            lambda bn: bn._replace(weight=torch.tensor([0.0, -1.0, 2.0, -0.5, 0.0, 1.0])[: bn.weight.numel()]),
        )
        judge(call, "real", run_public(call))


@pytest.mark.parametrize("op", WINDOWED)
class TestWindow:
    @pytest.mark.parametrize("stride", [0, -1, (1, 0)])
    def test_stride(self, op, stride):
        """12"""
        call = good_call(op)
        raises(call._replace(kwargs={**call.kwargs, "stride": stride}), RuntimeError, "non-positive stride", "'stride'")

    def test_padding(self, op):
        """12"""
        call = good_call(op)
        raises(call._replace(kwargs={**call.kwargs, "padding": -1}), RuntimeError, "negative padding", "'padding'")

    @pytest.mark.parametrize("padding", ["same", "valid", 1.5, (1, 1, 1, 1)])
    def test_padding_of_another_kind(self, op, padding):
        """14: strings are the caller's to resolve."""
        call = good_call(op)
        raises(call._replace(kwargs={**call.kwargs, "padding": padding}), TypeError, "'padding'", repr(padding))

    def test_kernel_larger_than_padded_input(self, op):
        """11: both sizes."""
        call = with_x(good_call(op), torch.randn(2, 6, 1, 1))
        raises(call._replace(kwargs={**call.kwargs, "padding": 0}), RuntimeError, "(1 x 1)", "(3 x 3)")

    def test_dilation(self, op):
        """12"""
        if op in ("bn_relu_conv2d", "depthwise_pointwise"):
            call = good_call(op)
            raises(
                call._replace(kwargs={**call.kwargs, "dilation": 0}),
                RuntimeError,
                "dilation should be greater than zero",
            )


class TestParticular:
    """What one op alone can be asked for."""

    @pytest.mark.parametrize(
        ("op", "argument"), [("conv1x1_bn_act", "residual"), ("depthwise_pointwise", "residual"), ("fire", "bypass")]
    )
    def test_addend(self, op, argument):
        call = good_call(op)
        for addend, error, fragment in (
            (torch.randn(2, 6, 5, 9), RuntimeError, "shape"),
            (torch.randn(1, 6, 5, 4), RuntimeError, "shape"),
            (torch.randn(2, 6, 5, 4).double(), RuntimeError, "float64"),
            (3.0, TypeError, "float"),
        ):
            if op == "fire" and isinstance(addend, torch.Tensor) and addend.dtype == torch.float64:
                addend = torch.randn(2, 13, 5, 4).double()
            raises(call._replace(kwargs={**call.kwargs, argument: addend}), error, f"'{argument}'", fragment)

    def test_inverted_residual_that_changes_shape(self):
        call = good_call("inverted_residual")
        raises(
            call._replace(kwargs={**call.kwargs, "stride": 2, "residual": True}),
            RuntimeError,
            "'residual'",
            "[2, 6, 5, 4]",
            "[2, 6, 3, 2]",
        )

    @pytest.mark.parametrize("op", ["bn_relu_conv2d", "conv1x1_bn_act", "head", "inverted_residual", "stem"])
    def test_activation(self, op):
        call = good_call(op)
        raises(call._replace(kwargs={**call.kwargs, "act": "gelu"}), ValueError, "'act'", "'gelu'", "relu6")

    @pytest.mark.parametrize("op", ["bn_relu_conv2d", "dense_block", "fire"])
    def test_winograd(self, op):
        call = good_call(op)
        raises(call._replace(kwargs={**call.kwargs, "winograd": 3}), ValueError, "'winograd'", "3")

    def test_kernel_size(self):
        call = good_call("fire")
        args = (*call.args[:5], torch.randn(7, 5, 1, 1), call.args[6])
        raises(call._replace(args=args), RuntimeError, "'expand3x3_weight'", "1x1", "3x3")

    def test_depthwise_multiplier(self):
        call = good_call("depthwise_pointwise")
        raises(
            call._replace(args=(call.args[0], torch.randn(12, 1, 3, 3), call.args[2])),
            RuntimeError,
            "'dw_weight'",
            "12",
            "6",
        )

    def test_bias_length(self):
        call = good_call("fire")
        raises(
            call._replace(args=(*call.args[:2], torch.randn(4), *call.args[3:])),
            RuntimeError,
            "'squeeze_bias'",
            "[4]",
            "[5]",
        )

    @pytest.mark.parametrize("layers", [(), ("layer",)])
    def test_dense_layers(self, layers):
        call = good_call("dense_block")
        raises(call._replace(args=(call.args[0], layers)), TypeError, "'layers'", "DenseLayerParams")

    def test_dense_layers_that_differ(self):
        call = good_call("dense_block")
        (layer,) = call.args[1]
        fill = RealFill(1, torch.float32)
        narrow = layer._replace(bn1=fill.bn(12), weight1=fill.weight((5, 12, 1, 1)), weight2=fill.weight((3, 5, 3, 3)))
        raises(call._replace(args=(call.args[0], (layer, narrow))), RuntimeError, "'layers[1]'", "growth 3")

    def test_transition_of_a_single_row(self):
        raises(with_x(good_call("transition"), torch.randn(2, 6, 1, 4)), RuntimeError, "1x4", "2x2")

    def test_stem_pool(self):
        call = good_call("stem")
        raises(call._replace(kwargs={**call.kwargs, "pool": 3}), TypeError, "'pool'", "MaxPool")
        raises(call._replace(kwargs={**call.kwargs, "pool": ops.MaxPool(3, 2, 2)}), RuntimeError, "'pool'")
        raises(call._replace(kwargs={**call.kwargs, "pool": ops.MaxPool(9, 2)}), RuntimeError, "'pool'", "too small")

    def test_head_bias_without_weight(self):
        call = good_call("head")
        raises(call._replace(kwargs={**call.kwargs, "weight": None}), RuntimeError, "'bias'")
