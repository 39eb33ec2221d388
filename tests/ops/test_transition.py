import pytest
import torch

from lightops.ops.transition import pack_transition, run_transition_out
from lightops.testing.calls import Case
from lightops.testing.draw import DTYPES, real_call
from lightops.testing.layouts import Guarded
from tests.ops.suite import OpSuite
from tests.ops.tools import run_public


class TestTransition(OpSuite):
    op = "transition"

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("layout", ["nhwc", "slice", "offset"])
    def test_into_a_slice_equals_functional(self, dtype, layout):
        """The channel prefix of the next block's buffer: same bits, nothing outside written."""
        for shape in ((2, 19, 6, 7), (1, 33, 2, 3), (3, 8, 9, 9)):
            call = real_call(Case("transition", "out", shape, {"out": 13, "bias": True}), DTYPES[dtype], 1)
            expected = run_public(call)
            packed = pack_transition(*call.args[1:], DTYPES[dtype])
            guarded = Guarded(torch.full_like(expected, float("nan")), layout)
            assert run_transition_out(call.args[0], packed, guarded.tensor) is guarded.tensor
            assert torch.equal(guarded.tensor, expected)
            guarded.tensor.fill_(float("nan"))
            guarded.check_unchanged("out")

    def test_wrong_out(self):
        call = real_call(Case("transition", "out", (2, 6, 4, 4), {"out": 5}), torch.float32, 1)
        packed = pack_transition(*call.args[1:], torch.float32)
        for out, message in (
            (torch.zeros(2, 5, 2, 3).to(memory_format=torch.channels_last), "'out'"),
            (torch.zeros(2, 5, 2, 2).double().to(memory_format=torch.channels_last), "type"),
            (torch.zeros(2, 5, 2, 2), "channels innermost"),
            (torch.zeros(2, 40, 2, 2).to(memory_format=torch.channels_last), "elements"),
        ):
            with pytest.raises(RuntimeError, match=message):
                run_transition_out(call.args[0], packed, out)
            assert not out.any()

    def test_opcheck_out(self):
        call = real_call(Case("transition", "out", (2, 6, 4, 4), {"out": 5}), torch.float32, 1)
        packed = pack_transition(*call.args[1:], torch.float32)
        x = call.args[0].to(memory_format=torch.channels_last)
        out = torch.zeros(2, 9, 2, 2).to(memory_format=torch.channels_last)[:, :5]
        args = (x, packed.scale, packed.shift, packed.w, packed.bias, out)
        torch.library.opcheck(torch.ops.lightops.transition_out.default, args)
