import torch

from lightops import ops
from lightops.testing.calls import Case
from lightops.testing.draw import real_call
from tests.ops.suite import OpSuite
from tests.ops.tools import run_public


class TestHead(OpSuite):
    op = "head"

    def test_classifier_weight_may_be_a_convolution(self):
        call = real_call(Case("head", "4-D", (2, 11, 3, 5), {"out": 7}), torch.float32, 0)
        as_conv = call._replace(kwargs={**call.kwargs, "weight": call.kwargs["weight"][:, :, None, None]})
        assert torch.equal(run_public(call), run_public(as_conv))

    def test_average_of_a_large_map_keeps_its_digits(self):
        """12,544 pixels near 1000: a running float32 sum would lose four digits."""
        x = (1000 + torch.randn(1, 5, 112, 112)).to(memory_format=torch.channels_last)
        exact = x.double().mean((2, 3))
        assert (ops.head(x, backend="cpu").double() - exact).abs().max() < 16 * 2.0**-24 * 1000
