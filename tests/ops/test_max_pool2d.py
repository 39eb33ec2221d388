from itertools import product

import pytest
import torch
import torch.nn.functional as F

from lightops import ops
from lightops.testing.calls import Case
from lightops.testing.compare import check_exact, check_nonfinite
from lightops.testing.draw import DTYPES, real_call
from lightops.testing.layouts import Guarded
from lightops.testing.oracle import truth
from tests.ops.suite import OpSuite
from tests.ops.tools import run_public

NAN, INF = float("nan"), float("inf")


class TestMaxPool2d(OpSuite):
    op = "max_pool2d"
    non_finite_hits = 2  # -Inf is the maximum only of a window of one pixel

    # A pool has no parameters to spoil.
    test_nan_filter_reaches_its_channel = None
    test_bad_variance_makes_nan = None

    def test_nan_wins(self):
        """Wherever in a window it stands, before and behind any number, in whole vectors and tails."""
        for channels in (1, 15, 16, 63, 64, 65, 130):
            x = torch.randn(1, channels, 9, 9).to(memory_format=torch.channels_last)
            for place in range(9):
                spoiled = x.clone()
                spoiled[0, place * channels // 9, 3 + place // 3, 3 + place % 3] = NAN
                call = real_call(Case("max_pool2d", "nan", tuple(x.shape), {"stride": (1, 1)}), torch.float32, 0)
                call = call._replace(args=(spoiled,))
                expected = truth(call).expected
                assert expected.isnan().sum() == 9
                check_nonfinite(run_public(call), expected)
                check_exact(run_public(call), expected)

    def test_infinities_and_the_lowest_number(self):
        """What the exact second pass is for; -inf everywhere stays -inf, padding or not."""
        low = torch.finfo(torch.float32).min
        x = torch.tensor([[-INF, low, 1.0], [INF, -INF, -INF], [NAN, -INF, low]]).view(1, 1, 3, 3)
        for case in (x, torch.full((1, 1, 3, 3), -INF), torch.full((1, 1, 3, 3), low)):
            for padding in (0, 1):
                actual = ops.max_pool2d(case, 2, 1, padding, backend="cpu")
                check_exact(actual, F.max_pool2d(case, 2, 1, padding).double())

    def test_negative_values(self):
        """Padding must not win over a negative maximum."""
        x = -torch.rand(2, 5, 7, 6) - 1
        for padding, ceil_mode in ((1, False), (0, True), (1, True)):
            actual = ops.max_pool2d(x, 3, 2, padding, ceil_mode, backend="cpu")
            assert (actual < -1).all()
            assert torch.equal(actual, F.max_pool2d(x, 3, 2, padding, ceil_mode=ceil_mode))

    @pytest.mark.parametrize("kernel", [1, 2, 3, 5])
    def test_sizes_follow_torch(self, kernel):
        for size, stride, padding, ceil_mode in product(range(1, 12), (1, 2, 3), range(kernel // 2 + 1), (False, True)):
            x = torch.randn(1, 2, size, size + 1)
            try:
                expected = F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode)
            except RuntimeError:
                with pytest.raises(RuntimeError, match="too small"):
                    ops.max_pool2d(x, kernel, stride, padding, ceil_mode)
                continue
            actual = ops.max_pool2d(x, kernel, stride, padding, ceil_mode, backend="cpu")
            assert torch.equal(actual, expected), (size, kernel, stride, padding, ceil_mode)

    def test_stride_defaults_to_the_kernel(self):
        x = torch.randn(1, 3, 9, 8)
        assert torch.equal(ops.max_pool2d(x, (3, 2), backend="cpu"), F.max_pool2d(x, (3, 2)))

    def test_without_a_batch(self):
        x = torch.randn(3, 9, 8)
        assert torch.equal(ops.max_pool2d(x, 3, 2, 1, backend="cpu"), F.max_pool2d(x, 3, 2, 1))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_reads_a_slice_in_place(self, dtype):
        """Channels of a wider buffer, whose other channels are NaN: neither copied nor touched."""
        for channels in (5, 64, 100):
            x = torch.randn(2, channels, 8, 9).to(DTYPES[dtype])
            guarded = Guarded(x, "slice")
            actual = ops.max_pool2d(guarded.tensor, 3, 2, 1, backend="cpu")
            guarded.check_unchanged("x")
            assert torch.equal(actual, F.max_pool2d(x, 3, 2, 1))

    @pytest.mark.parametrize(
        ("arguments", "error", "fragment"),
        [
            ((0,), RuntimeError, "'kernel'"),
            ((3, 0), RuntimeError, "'stride'"),
            ((3, 2, -1), RuntimeError, "'padding'"),
            ((3, 2, 2), RuntimeError, "'padding'"),
            ((9, 2), RuntimeError, "too small"),
            (("3",), TypeError, "'kernel'"),
            (((3, 3, 3),), TypeError, "'kernel'"),
            ((3, 2.0), TypeError, "'stride'"),
        ],
    )
    def test_geometry_errors(self, arguments, error, fragment):
        with pytest.raises(error, match=fragment) as caught:
            ops.max_pool2d(torch.randn(2, 6, 5, 4), *arguments)
        assert str(caught.value).startswith("max_pool2d: ")

    def test_operator_defends_itself(self):
        x = torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last)
        native = torch.ops.lightops.max_pool2d.default
        for geometry, fragment in (
            (([3, 3], [2, 2], [2, 2], False), "'padding'"),
            (([3, 3], [2, 2], [0], False), "'padding'"),
            (([0, 3], [2, 2], [0, 0], False), "'kernel'"),
            (([6, 3], [2, 2], [0, 0], False), "covers 6 rows"),
            (([3, 7], [2, 2], [0, 0], True), "covers 7 columns"),
        ):
            with pytest.raises(RuntimeError, match=fragment):
                native(x, *geometry)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("channels", [32, 80])
def test_not_finite_in_the_usual_window(value: float, channels: int) -> None:
    """3x3 at stride 2 walks whole rows and asks once a row whether all was finite."""
    x = torch.randn(1, channels, 9, 11, generator=torch.Generator().manual_seed(0))
    x[0, 17, 3, 4] = x[0, channels - 1, 6, 0] = value
    x = x.contiguous(memory_format=torch.channels_last)
    for padding in (0, 1):
        expected = F.max_pool2d(x, 3, 2, padding)
        assert torch.equal(
            ops.max_pool2d(x, 3, stride=2, padding=padding).nan_to_num(nan=-7.0), expected.nan_to_num(nan=-7.0)
        )
