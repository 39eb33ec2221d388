from itertools import product

import pytest
import torch
import torch.nn.functional as F

from lightops import ops
from lightops.ops._check import pool_out_size
from lightops.ops.stem import pack_stem, run_stem_out, stem_out_size
from lightops.testing.calls import Case
from lightops.testing.compare import bitwise_equal
from lightops.testing.draw import DTYPES, real_call
from lightops.testing.layouts import Guarded
from tests.ops.suite import OpSuite
from tests.ops.tools import run_public


class TestStem(OpSuite):
    op = "stem"
    network_layouts = ("nhwc", "nchw")

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("layout", ["nhwc", "slice", "offset"])
    @pytest.mark.parametrize("pool", [None, (3, 2, 1, False), (3, 2, 0, True)])
    def test_into_a_slice_equals_functional(self, dtype, layout, pool):
        """The channel prefix of a block's buffer: same bits, nothing outside written."""
        for shape in ((2, 3, 16, 17), (1, 1, 9, 8)):
            call = real_call(Case("stem", "out", shape, {"out": 13, "pool": pool}), DTYPES[dtype], 1)
            expected = run_public(call)
            packed = pack_stem(*call.args[1:], DTYPES[dtype], **call.kwargs)
            assert stem_out_size(shape[2:], packed) == tuple(expected.shape[2:])
            guarded = Guarded(torch.full_like(expected, float("nan")), layout)
            assert run_stem_out(call.args[0], packed, guarded.tensor) is guarded.tensor
            assert torch.equal(guarded.tensor, expected)
            guarded.tensor.fill_(float("nan"))
            guarded.check_unchanged("out")

    def test_wrong_out(self):
        call = real_call(Case("stem", "out", (2, 3, 8, 8), {"out": 5}), torch.float32, 1)
        packed = pack_stem(*call.args[1:], torch.float32, **call.kwargs)
        for shape in ((2, 5, 3, 4), (1, 5, 4, 4), (2, 40, 4, 4)):
            out = torch.zeros(shape).to(memory_format=torch.channels_last)
            with pytest.raises(RuntimeError, match=r"'out'|elements"):
                run_stem_out(call.args[0], packed, out)
            assert not out.any()

    def test_nchw_and_nhwc_inputs_agree_bitwise(self):
        for seed, shape in enumerate(((2, 3, 20, 23), (1, 4, 7, 7), (2, 17, 9, 9))):
            call = real_call(Case("stem", "layouts", shape, {"out": 19, "pool": (3, 2, 1, False)}), torch.float32, seed)
            nhwc = call._replace(args=(call.args[0].to(memory_format=torch.channels_last), *call.args[1:]))
            assert bitwise_equal(run_public(call), run_public(nhwc).contiguous())

    @pytest.mark.parametrize("kernel", [1, 2, 3, 5])
    def test_pool_sizes_follow_torch(self, kernel):
        for size, stride, padding, ceil_mode in product(range(1, 15), (1, 2, 3), range(kernel // 2 + 1), (False, True)):
            if size + 2 * padding >= kernel:
                out = F.max_pool2d(torch.zeros(1, 1, size, size), kernel, stride, padding, ceil_mode=ceil_mode)
                assert pool_out_size("stem", (size, size), kernel, stride, padding, ceil_mode) == tuple(out.shape[2:])

    def test_max_pool_of_negative_values(self):
        """Padding must not win over a negative maximum."""
        x, weight = -torch.rand(1, 2, 6, 6) - 1, torch.ones(3, 2, 1, 1)
        out = ops.stem(x, weight, act="none", pool=ops.MaxPool(3, 2, 1), backend="cpu")
        assert (out < -1).all()
        assert torch.equal(out, F.max_pool2d(F.conv2d(x, weight), 3, 2, 1))

    def test_opcheck_out(self):
        call = real_call(Case("stem", "out", (2, 3, 8, 8), {"out": 5}), torch.float32, 1)
        w, bias, _, kernel, stride, padding, act, pool, _ = pack_stem(*call.args[1:], torch.float32, **call.kwargs)
        out = torch.zeros(2, 9, 4, 4).to(memory_format=torch.channels_last)[:, :5]
        args = (call.args[0], w, bias, kernel, stride, padding, act, pool, out)
        torch.library.opcheck(torch.ops.lightops.stem_out.default, args)
