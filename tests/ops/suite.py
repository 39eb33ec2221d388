"""The tests of every op: `tests/ops/test_<op>.py` subclasses `OpSuite` with the op's name and adds what is special to
it.

T1 and T2 are the oracles of `lightops.testing.tolerances`. Every seeded failure prints its reproducer.
"""

import random
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from lightops import _ext, ops, reference
from lightops.reference import BatchNormParams
from lightops.testing import cases
from lightops.testing.calls import Call, Case
from lightops.testing.compare import bitwise_equal, check_bounded, check_exact, check_nonfinite
from lightops.testing.draw import DTYPES, KINDS, draw_call, exact_call, guard_call, random_case, real_call
from lightops.testing.layouts import LAYOUTS
from lightops.testing.oracle import judge, truth
from lightops.testing.tolerances import UNIT_ROUNDOFF, ZERO_SHARE
from tests.ops.fuzz import check_seed
from tests.ops.tools import native_arguments, replace_bn, run_public, significant_strides, stock

CELLS = [pytest.param(dtype, layout, id=f"{dtype}-{layout}") for dtype in DTYPES for layout in LAYOUTS]


class OpSuite:
    """The common tests of one op."""

    op: str
    #: Seeds of a cell (dtype x layout) and kind in the quick suite; the long one takes 100 of each kind.
    seeds = 10
    #: Layouts in which the networks' shapes are run: the others are copied into this one first.
    network_layouts: tuple[str, ...] = ("nhwc",)
    #: Of 40 random cases with one non-finite pixel, how many must show it in the output.
    non_finite_hits = 6

    # T1 and T2 over random configurations

    @pytest.mark.parametrize(("dtype", "layout"), CELLS)
    def test_fuzz(self, dtype, layout):
        for kind in KINDS:
            for seed in range(self.seeds):
                check_seed(self.op, dtype, layout, kind, seed)

    @pytest.mark.long
    @pytest.mark.parametrize(("dtype", "layout"), CELLS)
    def test_fuzz_long(self, dtype, layout):
        for kind in KINDS:
            for seed in range(1000, 1100):
                check_seed(self.op, dtype, layout, kind, seed)

    def test_exact_data_is_not_mostly_zero(self):
        shares = []
        for seed in range(60):
            _, call, _ = draw_call(self.op, torch.float32, "nhwc", "exact", seed)
            expected = truth(call).expected
            if expected.numel():
                shares.append(float((expected == 0).double().mean()))
        assert sum(shares) / len(shares) < ZERO_SHARE

    # Tails, exactly

    def _check_tails(self, tails, dtype, step, start=0):
        for i, case in enumerate(islice(tails, start, None, step)):
            if "winograd" not in case.options and self.op in ("bn_relu_conv2d", "dense_block", "fire"):
                case = Case(case.op, case.name, case.x, {**case.options, "winograd": (2, 0)[i % 2]})
            if self.op == "head" and dtype == "bfloat16" and case.x[2] * case.x[3] > 4:
                # The classifier reads a mean that bfloat16 cannot hold.
                case = Case(case.op, case.name, case.x, {**case.options, "out": 0})
            call, guarded = guard_call(exact_call(case, DTYPES[dtype], i), "nhwc", "nchw")
            try:
                check_exact(run_public(call), truth(call).expected)
                for buffer in guarded:
                    buffer.check_unchanged(case.name)
            except AssertionError as error:
                raise AssertionError(f"{dtype} {case}\n  {error}") from error

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("sweep", ["channel_tails", "map_tails", "window_tails"])
    def test_tails(self, sweep, dtype):
        # float32 and products of bfloat16 pairs take half of each sweep; the other dtypes share float32's kernels and
        # take a seventh.
        step = 2 if dtype == "float32" or (dtype == "bfloat16" and _ext.reads_pairs()) else 7
        self._check_tails(self._sweep(sweep), dtype, step)

    @pytest.mark.long
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("sweep", ["channel_tails", "map_tails", "window_tails"])
    def test_tails_long(self, sweep, dtype):
        self._check_tails(self._sweep(sweep), dtype, 1)

    def _sweep(self, sweep):
        if sweep == "window_tails" and self.op not in cases.WINDOW_OPS:
            return iter(())
        return getattr(cases, sweep)(self.op)

    # The networks' own shapes

    def _check_network_shapes(self, dtype, batch):
        for seed, case in enumerate(cases.network_cases(op=self.op)):
            call = real_call(case.with_batch(batch), DTYPES[dtype], seed)
            for layout in self.network_layouts:
                placed, _ = guard_call(call, layout, "nchw")
                try:
                    judge(placed, "real", run_public(placed))
                except AssertionError as error:
                    raise AssertionError(f"{dtype} {layout} {case}\n  {error}") from error

    def test_network_shapes(self):
        self._check_network_shapes("float32", 1)

    @pytest.mark.long
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_network_shapes_long(self, dtype):
        self._check_network_shapes(dtype, 2)

    def test_error_is_at_most_twice_stocks(self):
        """Beside the bound: at the networks' shapes, the largest error is within twice that of stock in either layout.

        A Winograd convolution is as exact as a direct one only relative to its own, larger sums: see `oracle.truth`.
        """
        for seed, case in enumerate(cases.network_cases(op=self.op)):
            call = real_call(case, torch.float32, seed)
            actual = run_public(call)
            expected, magnitude = truth(call)
            nhwc = call._replace(args=(call.args[0].to(memory_format=torch.channels_last), *call.args[1:]))
            stocks = [float((stock(variant).double() - expected).abs().max()) for variant in (call, nhwc)]
            floor = 4 * UNIT_ROUNDOFF[torch.float32] * float(magnitude.max())
            error = float((actual.double() - expected).abs().max())
            assert error <= 2 * max(stocks) + floor, (case, error, stocks, floor)

    # Threads and repetition

    @pytest.mark.parametrize("batch", [1, 3, 8])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_bitwise_equal_for_any_thread_count(self, dtype, batch, threads):
        """At shapes large enough to be split: by images, rows, channels or panels, as batch and map make it."""
        shapes = cases.network_cases(op=self.op)
        if dtype != "float32" or batch != 1:
            shapes = shapes[1::3] or shapes[:1]
        for case in shapes:
            call = real_call(case.with_batch(batch), DTYPES[dtype], 5)
            results = []
            for count in (1, 2, 3, 4, 1):
                threads(count)
                results.append(run_public(call))
            assert all(bitwise_equal(results[0], other) for other in results[1:]), case

    @pytest.mark.parametrize("channels", [300, 301])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_threads_do_not_write_beyond_their_share(self, dtype, channels, threads):
        """Channels that fill no whole vectors, on a map that is shared by rows and one that is worked on together."""
        for size in (9, 16, 32):
            options = cases.sized(self.op, out=150, inner=90)
            call = real_call(Case(self.op, "odd", (1, channels, size, size), options), DTYPES[dtype], 5)
            threads(1)
            expected = run_public(call)
            for count in (2, 4, 4, 4):
                threads(count)
                assert bitwise_equal(run_public(call), expected), (size, count)

    def test_images_do_not_depend_on_their_place_in_the_batch(self):
        for seed in range(6):
            case = random_case(self.op, random.Random(seed))
            call = real_call(case.with_batch(3), torch.float32, seed)
            order = torch.tensor([2, 0, 1])
            moved = call._replace(
                args=(call.args[0][order], *call.args[1:]),
                kwargs={
                    key: value[order] if isinstance(value, Tensor) and value.dim() == 4 else value
                    for key, value in call.kwargs.items()
                },
            )
            assert torch.equal(run_public(call)[order], run_public(moved)), case

    # Layout

    @pytest.mark.parametrize("weight_layout", ["nchw", "nhwc"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_output_strides_follow_stock(self, layout, weight_layout):
        shapes = [(2, 6, 5, 4), (2, 6, 2, 2), (2, 6, 1, 4), (2, 6, 4, 1), (2, 6, 1, 1)]
        if layout in ("nchw", "slice_nchw", "transposed"):
            # A one-channel map in NHWC strides is contiguous both ways, and stock's operators take it for either.
            shapes += [(2, 1, 5, 4), (1, 1, 2, 2)]
        if layout != "expanded":
            shapes += [(1, 6, 5, 4)]
        for shape in shapes:
            # One output channel is ambiguous too, unless nothing asks for NHWC.
            for out in (1, 4) if (layout, weight_layout) == ("nchw", "nchw") else (4,):
                case = Case(self.op, "strides", shape, cases.sized(self.op, out=out, inner=3))
                if self.op == "transition" and min(shape[2:]) < 2:
                    continue
                call, _ = guard_call(real_call(case, torch.float32, 0), layout, weight_layout)
                expected, actual = stock(call), run_public(call)
                assert significant_strides(actual) == significant_strides(expected), (shape, out, call.args[0].stride())
                check_bounded(actual, *truth(call, actual))

    # Values that are not numbers

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_non_finite_pixels_reach_exactly_what_they_reach_in_stock(self, value, dtype):
        hit = 0
        for seed in range(40):
            _, call, _ = draw_call(self.op, torch.float32, "nhwc", "real", seed)
            call = call.map(lambda t: t.to(DTYPES[dtype]))
            x = call.args[0]
            if not x.numel():
                continue
            rng = random.Random(seed)
            x[tuple(rng.randrange(size) for size in x.shape)] = value
            actual = run_public(call)
            try:
                check_nonfinite(actual, truth(call).expected)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
            hit += int(not actual.isfinite().all())
        assert hit >= self.non_finite_hits

    def _spoiled(self, spoil: Callable[[Call], Call]) -> None:
        call = real_call(Case(self.op, "spoiled", (1, 6, 5, 4), cases.sized(self.op, out=7, inner=4)), torch.float32, 0)
        spoiled = spoil(call)
        expected = truth(spoiled).expected
        assert expected.isnan().any()
        check_nonfinite(run_public(spoiled), expected)

    def test_nan_filter_reaches_its_channel(self):
        """Every tap is NaN: implementations differ in whether a tap over the padding is multiplied at all."""

        def spoil(t: Tensor) -> Tensor:
            if t.dim() in (2, 4):
                t = t.clone()
                t[t.shape[0] // 2, t.shape[1] // 2] = float("nan")
            return t

        self._spoiled(lambda call: call.map(spoil)._replace(args=(call.args[0], *call.map(spoil).args[1:])))

    @pytest.mark.parametrize("value", [-1.0, float("nan")])
    def test_bad_variance_makes_nan(self, value):
        """As in stock: a negative running variance is not clamped. One BN of the op at a time."""

        def spoil(bn: BatchNormParams) -> BatchNormParams:
            var = bn.running_var.clone()
            var[var.numel() // 2] = value
            return bn._replace(running_var=var)

        count = 0
        for index in range(4):
            try:
                self._spoiled(lambda call, index=index: replace_bn(call, spoil, index))
            except IndexError:
                break
            count += 1
        assert count > 0 or self.op == "fire"

    # Empty and smallest

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_batch_of_zero(self, dtype):
        for seed in range(5):
            case = random_case(self.op, random.Random(seed)).with_batch(0)
            call = real_call(case, DTYPES[dtype], seed)
            actual, expected = run_public(call), stock(call)
            assert actual.shape == expected.shape
            assert actual.dtype == expected.dtype

    # torch: fakes, opcheck, compile, export, gradients

    def _samples(self, count, **changes):
        for seed in range(count):
            case = random_case(self.op, random.Random(f"sample {self.op} {seed}"))
            yield real_call(
                Case(case.op, case.name, (2, *case.x[1:]), {**case.options, **changes}), torch.float32, seed
            )

    def test_opcheck(self):
        dtypes = list(DTYPES.values())
        for seed in range(8):
            _, call, _ = draw_call(self.op, dtypes[seed % 4], ("nhwc", "slice")[seed % 2], "real", seed)
            torch.library.opcheck(*native_arguments(call))

    @pytest.mark.parametrize("layout", ["nchw", "nhwc", "slice", "transposed", "offset"])
    def test_fake_result_matches_real(self, layout):
        for call in self._samples(4):
            call, _ = guard_call(call, layout, "nchw")
            real = run_public(call)
            with FakeTensorMode(), torch.no_grad():
                fake_call = call.map(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype))
                fake = getattr(ops, self.op)(*fake_call.args, backend="cpu", **fake_call.kwargs)
            with torch.no_grad():
                meta_call = call.map(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"))
                meta = getattr(ops, self.op)(*meta_call.args, backend="cpu", **meta_call.kwargs)
            for other in (fake, meta):
                assert (other.shape, other.stride(), other.dtype) == (real.shape, real.stride(), real.dtype)

    def test_compile_fullgraph(self):
        function = getattr(ops, self.op)
        (call,) = self._samples(1)
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda *args, **kwargs: function(*args, backend="cpu", **kwargs), fullgraph=True, backend="aot_eager"
        )
        for layout in ("nhwc", "nchw"):
            placed, _ = guard_call(call, layout, "nchw")
            with torch.no_grad():
                assert bitwise_equal(compiled(*placed.args, **placed.kwargs), run_public(placed))

    def test_compile_recompiles_at_most_once_over_batch_sizes(self):
        function = getattr(ops, self.op)
        case = Case(self.op, "batch", (2, 6, 8, 8), cases.sized(self.op, out=7, inner=4))
        counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda *args, **kwargs: function(*args, backend="cpu", **kwargs), fullgraph=True, backend=counter
        )
        for batch in (2, 3, 4, 7):
            call = real_call(case.with_batch(batch), torch.float32, 0)
            with torch.no_grad():
                assert torch.equal(compiled(*call.args, **call.kwargs), run_public(call))
        assert counter.frame_count <= 2

    def test_export(self):
        (call,) = self._samples(1)
        function, tensors = getattr(ops, self.op), call.args[1:]

        class Module(torch.nn.Module):
            def forward(self, x):
                return function(x, *tensors, backend="cpu", **call.kwargs)

        with torch.no_grad():
            program = torch.export.export(Module(), (call.args[0],))
            assert torch.equal(program.module()(call.args[0]), run_public(call))
        assert any(f"lightops.{self.op}" in str(node.target) for node in program.graph.nodes)

    def test_gradients_come_from_the_reference(self):
        for call in self._samples(2):
            x = call.args[0].requires_grad_()
            with pytest.raises(ops.BackendUnavailable, match="gradients required"):
                getattr(ops, self.op)(*call.args, backend="cpu", **call.kwargs)
            out = getattr(ops, self.op)(*call.args, **call.kwargs)
            (grad,) = torch.autograd.grad(out, x, upstream := torch.randn_like(out))
            kwargs = {key: value for key, value in call.kwargs.items() if key != "winograd"}
            (expected,) = torch.autograd.grad(getattr(reference, self.op)(*call.args, **kwargs), x, upstream)
            assert torch.equal(grad, expected)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_modes_without_gradient_give_the_same_numbers(self, mode):
        (call,) = self._samples(1)
        expected = run_public(call)
        call.args[0].requires_grad_()
        with mode():
            assert torch.equal(getattr(ops, self.op)(*call.args, backend="cpu", **call.kwargs), expected)

    def test_vmap_and_jvp(self):
        """The kernels have no rule for transforms: the op runs its reference there instead of losing a tangent."""
        (call,) = self._samples(1)
        function, rest = getattr(ops, self.op), call.args[1:]
        kwargs = {key: None if key in ("residual", "bypass") else value for key, value in call.kwargs.items()}

        def of_x(x):
            return function(x, *rest, **kwargs)

        x, tangent = call.args[0].clone(), torch.randn_like(call.args[0])
        _, actual = torch.func.jvp(of_x, (x,), (tangent,))
        stock_kwargs = {key: value for key, value in kwargs.items() if key != "winograd"}
        _, expected = torch.func.jvp(lambda x: getattr(reference, self.op)(x, *rest, **stock_kwargs), (x,), (tangent,))
        assert torch.equal(actual, expected)
        stacked = torch.stack((x, 2 * x))
        for i, image in enumerate(torch.func.vmap(of_x)(stacked)):
            check_bounded(image, *truth(Call(self.op, (stacked[i], *rest), kwargs)), factor=2)

    def test_autocast_follows_stock(self):
        (call,) = self._samples(1)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            actual = getattr(ops, self.op)(*call.args, **call.kwargs)
            expected = stock(call)
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)
