import pytest
import torch

from lightops import ops
from lightops.ops.dense_block import pack_dense_block, run_dense_block_
from lightops.testing.calls import Case
from lightops.testing.compare import bitwise_equal
from lightops.testing.draw import DTYPES, real_call
from lightops.testing.layouts import Guarded
from tests.ops.suite import OpSuite
from tests.ops.tools import run_public


class TestDenseBlock(OpSuite):
    op = "dense_block"

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("bottleneck", [0, 33])
    @pytest.mark.parametrize("layout", ["nhwc", "slice", "offset"])
    def test_in_place_equals_functional(self, dtype, bottleneck, layout):
        """On a guarded buffer, also one that is a channel slice of a wider one: same bits, nothing outside written."""
        case = Case("dense_block", "in place", (2, 19, 6, 7), {"layers": 3, "growth": 12, "bottleneck": bottleneck})
        call = real_call(case, DTYPES[dtype], 1)
        x, layers = call.args
        expected = run_public(call)
        packed = pack_dense_block(layers, x.dtype, call.kwargs["winograd"])
        values = torch.full_like(expected, float("nan"))
        values[:, : x.shape[1]] = x
        guarded = Guarded(values, layout)
        assert run_dense_block_(guarded.tensor, packed) is guarded.tensor
        assert torch.equal(guarded.tensor, expected)
        guarded.tensor.copy_(values)
        guarded.check_unchanged("buffer")

    def test_prefix_is_the_input(self):
        for seed in range(5):
            case = Case("dense_block", "prefix", (2, 31, 5, 3), {"layers": 2, "growth": 5, "bottleneck": 8})
            call = real_call(case, torch.float32, seed)
            x = call.args[0]
            assert torch.equal(run_public(call)[:, : x.shape[1]], x)

    def test_input_is_not_aliased(self):
        call = real_call(Case("dense_block", "alias", (1, 8, 4, 4), {"layers": 1, "growth": 4}), torch.float32, 0)
        out = run_public(call)
        kept = out.clone()
        call.args[0].zero_()
        assert bitwise_equal(out, kept)

    def test_dense_layer_is_a_block_of_one(self):
        call = real_call(
            Case("dense_block", "layer", (1, 8, 4, 4), {"layers": 1, "growth": 4, "bottleneck": 6}), torch.float32, 0
        )
        x, (layer,) = call.args
        with torch.no_grad():
            assert torch.equal(ops.dense_layer(x, layer), run_public(call))

    def test_wrong_buffer(self):
        call = real_call(Case("dense_block", "buffer", (1, 8, 4, 4), {"layers": 1, "growth": 4}), torch.float32, 0)
        packed = pack_dense_block(call.args[1], torch.float32)
        buffer = torch.zeros(1, 13, 4, 4).to(memory_format=torch.channels_last)
        with pytest.raises(RuntimeError, match="13 channels"):
            run_dense_block_(buffer, packed)
        assert not buffer.any()

    def test_opcheck_in_place(self):
        call = real_call(
            Case("dense_block", "opcheck", (1, 8, 4, 4), {"layers": 2, "growth": 4, "bottleneck": 6}), torch.float32, 0
        )
        packed = pack_dense_block(call.args[1], torch.float32)
        buffer = torch.randn(1, 16, 4, 4).to(memory_format=torch.channels_last)
        args = (buffer, packed.params, packed.in_channels, packed.growth, packed.bottleneck, packed.algo)
        torch.library.opcheck(torch.ops.lightops.dense_block_.default, args)

    def test_compile_in_place(self):
        """A caller's buffer is a declared mutation: the compiled graph writes the same channels."""
        call = real_call(
            Case("dense_block", "compile", (2, 8, 4, 4), {"layers": 2, "growth": 4, "bottleneck": 6}), torch.float32, 0
        )
        x, layers = call.args
        packed = pack_dense_block(layers, torch.float32)

        def run(x):
            buffer = torch.empty(2, packed.out_channels, 4, 4).to(memory_format=torch.channels_last)
            buffer[:, : x.shape[1]] = x
            return run_dense_block_(buffer, packed).clone()

        torch._dynamo.reset()
        with torch.no_grad():
            assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run_public(call))
