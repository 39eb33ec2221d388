"""The operators behind `run_<op>`: modules call them without the public checks, so they defend themselves."""

import pytest
import torch

from lightops import _ext
from lightops.ops._native import pack_conv, pack_depthwise, to_nchw
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

    @pytest.mark.parametrize(("inputs", "kernel"), [(6, 1), (6, 3), (5, 3)])
    def test_pairs_are_neighbours_along_the_depth(self, inputs, kernel):
        """[panel][K / 2][32][2], K over taps and then channels, an odd number of channels with one of zeros behind."""
        weight = torch.randn(37, inputs, kernel, kernel).bfloat16()
        padded = torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, inputs % 2, 0, 64 - 37))
        depth = padded.permute(0, 2, 3, 1).reshape(2, 32, -1, 2)
        packed = lib.pack_conv2d(weight, None, 0, True)
        assert packed.dtype == torch.bfloat16
        assert torch.equal(packed.view(2, -1, 32, 2), depth.permute(0, 2, 1, 3))

    def test_pairs_are_rounded_once(self):
        """Through float32, 1 + 2^-8 + 2^-40 would be a tie, and that even: 1."""
        values = (1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 + 3 * 2.0**-8 - 2.0**-40, 3.4e38)
        for value, rounded in zip(values, (1 + 2.0**-7, 1.0, 1 + 2.0**-7, float("inf")), strict=True):
            packed = lib.pack_conv2d(torch.ones(1, 2, 1, 1), torch.tensor([value], dtype=torch.float64), 0, True)
            assert packed[:2].tolist() == [rounded] * 2

    @pytest.mark.parametrize(("dtype", "algo", "kernel"), [(torch.float64, 0, 1), (torch.float32, 2, 3)])
    def test_pairs_are_direct_and_not_of_float64(self, dtype, algo, kernel):
        with pytest.raises(RuntimeError, match="'pairs' are of bfloat16 and direct"):
            lib.pack_conv2d(torch.randn(4, 2, kernel, kernel, dtype=dtype), None, algo, True)

    def test_weights_that_require_grad(self):
        weight = torch.nn.Parameter(torch.randn(4, 3, 1, 1))
        assert not pack_conv(weight, None, torch.float32).requires_grad


class TestPairs:
    """bfloat16 products read weights in pairs where the kernels that run can (AVX512-BF16)."""

    @staticmethod
    def packed(op, channels, inner=6):
        call = real_call(Case(op, "pairs", (1, channels, 5, 4), sized(op, out=6, inner=inner)), torch.bfloat16, 0)
        _, args = native_arguments(call)
        flat = [t for arg in args for t in (arg if isinstance(arg, (list, tuple)) else [arg])]
        return {t.dtype for t in flat[1:] if isinstance(t, torch.Tensor) and t.dim() == 1}

    @pytest.mark.parametrize("op", WEIGHTED_OPS)
    def test_even_channels_are_packed_in_pairs_where_they_are_read(self, op):
        assert (torch.bfloat16 in self.packed(op, 6)) == _ext.reads_pairs()

    @pytest.mark.parametrize(("op", "channels", "inner"), [
        ("conv1x1_bn_act", 5, 6), ("dense_block", 6, 5), ("dense_block", 5, 6), ("depthwise_pointwise", 5, 6),
        ("fire", 6, 5), ("fire", 5, 6), ("head", 5, 6), ("inverted_residual", 6, 5), ("transition", 5, 6),
    ])  # fmt: skip
    def test_an_odd_depth_anywhere_keeps_floats(self, op, channels, inner):
        assert torch.bfloat16 not in self.packed(op, channels, inner)

    def test_the_stem_pads_its_channels(self):
        assert (torch.bfloat16 in self.packed("stem", 3)) == _ext.reads_pairs()

    @pytest.mark.skipif(not _ext.reads_pairs(), reason="needs AVX512-BF16")
    def test_weights_of_an_odd_depth_or_of_two_kinds_are_refused(self):
        x = torch.ones(1, 3, 2, 2, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        w = lib.pack_conv2d(torch.ones(4, 3, 1, 1), None, 0, True)
        with pytest.raises(
            RuntimeError, match=r"conv1x1_bn_act: 'w' .* even number of input channels .* got 3 channels"
        ):
            lib.conv1x1_bn_act(x, w, None, 4, 0, None)
        sq, e1 = lib.pack_conv2d(torch.ones(2, 4, 1, 1), None, 0, True), torch.ones(32 * 2)
        e3 = lib.pack_conv2d(torch.ones(3, 2, 3, 3), None, 0, True)
        x = torch.ones(1, 4, 2, 2, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        with pytest.raises(RuntimeError, match=r"fire: 'e1' must be a contiguous CPU tensor of bfloat16"):
            lib.fire(x, sq, None, 2, e1, None, 3, e3, None, 3, 0, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 128, 28, 29), (1, 1024, 10, 10), (3, 130, 40, 1), (2, 64, 40, 40), (1, 3, 4, 5)])
def test_to_nchw(shape, dtype):
    """Both ways of copying give what stock gives, for the whole of a buffer and for its first channels."""
    wide = torch.randn(shape[0], shape[1] + 8, *shape[2:]).to(dtype).contiguous(memory_format=torch.channels_last)
    for out in (wide, wide[:, : shape[1]]):
        got = to_nchw(out)
        assert torch.equal(got, out)
        assert got.stride() == torch.empty(out.shape).stride()
    leaf = wide.clone().requires_grad_()
    to_nchw(leaf).sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(leaf))
