"""The operators behind `run_<op>`: modules call them without the public checks, so they defend themselves."""

import pytest
import torch

from lightops.ops._native import pack_conv, pack_depthwise
from lightops.testing.calls import OPS, WEIGHTED_OPS, Case
from lightops.testing.cases import sized
from lightops.testing.draw import guard_call, real_call
from tests.ops.tools import native_arguments

lib = torch.ops.lightops


def native(op):
    call = real_call(Case(op, "boundary", (2, 6, 5, 4), sized(op, out=6, inner=5)), torch.float32, 0)
    call, _ = guard_call(call, "nhwc", "nchw")
    return native_arguments(call)


@pytest.mark.parametrize("op", OPS)
class TestOperator:
    def test_layout(self, op):
        """Only channels innermost (the stem also NCHW)."""
        handle, args = native(op)
        x = args[0].contiguous().transpose(2, 3) if op == "stem" else args[0].contiguous()
        with pytest.raises(RuntimeError, match=r"channels innermost.*strides"):
            handle(x, *args[1:])

    def test_dimensions(self, op):
        handle, args = native(op)
        with pytest.raises(RuntimeError, match="4 dimensions"):
            handle(args[0][0], *args[1:])

    def test_dtype(self, op):
        """A dtype without kernels."""
        handle, args = native(op)
        with pytest.raises(RuntimeError, match="scalar type"):
            handle(args[0].to(torch.int32), *args[1:])

    def test_activation_code(self, op):
        handle, args = native(op)
        names = [argument.name for argument in handle._schema.arguments]
        for name in ("act", "pre_act", "dw_act", "pw_act", "ex_act"):
            if name in names:
                wrong = list(args)
                wrong[names.index(name)] = 9
                with pytest.raises(RuntimeError, match=f"'{name}'.*9"):
                    handle(*wrong)

    def test_algorithm_code(self, op):
        handle, args = native(op)
        names = [argument.name for argument in handle._schema.arguments]
        if "algo" in names:
            wrong = list(args)
            wrong[names.index("algo")] = 3
            with pytest.raises(RuntimeError, match=r"'algo'.*3"):
                handle(*wrong)

    def test_every_tensor_of_another_size(self, op):
        """Each tensor argument in turn, one element short."""
        handle, args = native(op)
        for i, argument in enumerate(args):
            if i == 0 or not isinstance(argument, torch.Tensor):
                continue
            short = argument[..., :-1] if argument.dim() == 4 else argument.flatten()[:-1].clone()
            with pytest.raises(RuntimeError, match=r"elements|shape"):
                handle(*args[:i], short, *args[i + 1 :])


@pytest.mark.parametrize("op", WEIGHTED_OPS)
class TestOperatorWithWeights:
    def test_channels(self, op):
        handle, args = native(op)
        x = torch.randn(2, 40, 5, 4).to(memory_format=torch.channels_last)
        with pytest.raises(RuntimeError, match="elements"):
            handle(x, *args[1:])

    def test_dtype(self, op):
        """float64 x beside float32 weights."""
        if op != "head":  # whose small case here has none
            handle, args = native(op)
            with pytest.raises(RuntimeError, match="float64"):
                handle(args[0].double(), *args[1:])


class TestPacking:
    def test_scale(self):
        weight = torch.randn(4, 3, 1, 1)
        for scale in (torch.ones(3).double(), torch.ones(4), torch.ones(8).double()[::2]):
            with pytest.raises(RuntimeError, match="'scale'"):
                lib.pack_conv2d(weight, scale, 0)

    def test_winograd_wants_3x3(self):
        with pytest.raises(RuntimeError, match="3x3"):
            lib.pack_conv2d(torch.randn(4, 3, 5, 5), None, 2)
        with pytest.raises(RuntimeError, match="'algo'"):
            lib.pack_conv2d(torch.randn(4, 3, 3, 3), None, 1)

    def test_depthwise_shape(self):
        with pytest.raises(RuntimeError, match=r"\[C, 1, kh, kw\]"):
            lib.pack_depthwise(torch.randn(4, 2, 3, 3), None)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_depthwise_is_groups_of_taps_by_channels(self, dtype):
        weight, scale = torch.randn(37, 1, 3, 5).to(dtype), torch.randn(37).double()
        packed = pack_depthwise(weight, scale, dtype)
        expected = (weight.double() * scale.view(-1, 1, 1, 1)).to(packed.dtype).flatten(1).t()
        assert packed.shape == (3, 15, 16)
        flat = packed.transpose(0, 1).flatten(1)
        assert torch.equal(flat[:, :37], expected)
        assert not flat[:, 37:].any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_opcheck(self, dtype):
        for algo, kernel in ((0, 1), (0, 5), (2, 3), (4, 3)):
            weight = torch.randn(37, 5, kernel, kernel).to(dtype)
            for scale in (None, torch.rand(37).double()):
                torch.library.opcheck(lib.pack_conv2d.default, (weight, scale, algo))
        for channels in (1, 16, 17):
            weight = torch.randn(channels, 1, 3, 3).to(dtype)
            torch.library.opcheck(lib.pack_depthwise.default, (weight, torch.rand(channels).double()))

    @pytest.mark.parametrize("algo", [0, 2, 4])
    def test_strides_of_the_weight_do_not_matter(self, algo):
        weight = torch.randn(37, 5, 3, 3)
        expected = pack_conv(weight, None, torch.float32, algo)
        for variant in (
            weight.to(memory_format=torch.channels_last),
            weight.transpose(0, 1).contiguous().transpose(0, 1),
            torch.randn(37, 5, 5, 5)[:, :, 1:4, 1:4].copy_(weight),
        ):
            assert torch.equal(pack_conv(variant, None, torch.float32, algo), expected)

    @pytest.mark.parametrize("algo", [0, 2, 4])
    def test_the_fold_is_taken_in_float64(self, algo):
        """One rounding of weight * scale: a scale that is first rounded to float32 would differ somewhere."""
        weight, scale = torch.randn(64, 16, 3, 3), torch.rand(64).double() * 1e-3
        folded = (weight.double() * scale.view(-1, 1, 1, 1)).float()
        if algo == 0:
            assert torch.equal(pack_conv(weight, scale, torch.float32), pack_conv(folded, None, torch.float32))
        else:
            exact = pack_conv(weight.double() * scale.view(-1, 1, 1, 1), None, torch.float64, algo)
            torch.testing.assert_close(
                pack_conv(weight, scale, torch.float32, algo), exact.float(), rtol=2.0**-23, atol=0
            )

    def test_weights_that_require_grad(self):
        weight = torch.nn.Parameter(torch.randn(4, 3, 1, 1))
        assert not pack_conv(weight, None, torch.float32).requires_grad
