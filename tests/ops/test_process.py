"""What one call cannot show: calls from many threads, memory over many calls, offsets beyond 2^31."""

import gc
import resource
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lightops import ops
from lightops.ops.dense_block import pack_dense_block, run_dense_block_
from lightops.ops.stem import pack_stem, run_stem_out
from lightops.ops.transition import pack_transition, run_transition_out
from lightops.testing.calls import OPS, Case
from lightops.testing.cases import network_cases, sized
from lightops.testing.draw import draw_call, real_call
from tests.ops.tools import run_public


@pytest.mark.parametrize("op", OPS)
def test_calls_from_eight_threads(op):
    """Scratch belongs to the calling thread: results are those of serial calls, bit for bit."""
    calls = [draw_call(op, torch.float32, "nhwc", "real", seed)[1] for seed in range(8)]
    calls += [real_call(case, torch.float32, 0) for case in network_cases(op=op)[-1:]]
    serial = [run_public(call) for call in calls]

    def work(worker: int) -> bool:
        order = [(i + worker) % len(calls) for i in range(3 * len(calls))]
        with torch.no_grad():
            results = ((i, getattr(ops, op)(*calls[i].args, backend="cpu", **calls[i].kwargs)) for i in order)
            return all(torch.equal(result, serial[i]) for i, result in results)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.unsanitized
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("op", OPS)
def test_memory_stays_flat(op):
    """1,000 good and 1,000 failing calls."""
    call = real_call(Case(op, "leak", (2, 6, 16, 16), sized(op, out=24, inner=8)), torch.float32, 0)
    bad = call._replace(args=(call.args[0].int(), *call.args[1:]))
    function = getattr(ops, op)

    def repeat(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                function(*call.args, backend="cpu", **call.kwargs)
                with pytest.raises(RuntimeError):
                    function(*bad.args, backend="cpu", **bad.kwargs)
        gc.collect()

    repeat(200)
    before = resident_bytes()
    repeat(1000)
    # One leaked output a call would be 24 MiB or more.
    assert resident_bytes() - before < 2 << 20


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def wide_slice(values: torch.Tensor) -> torch.Tensor:
    """`values` as a channel slice of a buffer of more than 2^31 elements. Untouched pages cost nothing."""
    n, _, h, w = values.shape
    pixel = 2**31 // (n * h * w - 1) + 64
    buffer = torch.empty(n * h * w * pixel, dtype=values.dtype)
    view = buffer.as_strided(values.shape, (h * w * pixel, 1, w * pixel, pixel))
    return view.copy_(values)


class TestOffsetsBeyond32Bits:
    @pytest.mark.parametrize("op", OPS)
    def test_input(self, op):
        call = real_call(Case(op, "wide", (2, 6, 9, 8), sized(op, out=7, inner=5)), torch.bfloat16, 0)
        x = wide_slice(call.args[0])
        assert (x.shape[0] * x.stride(0)) > 2**31
        assert torch.equal(run_public(call), run_public(call._replace(args=(x, *call.args[1:]))))

    @pytest.mark.parametrize(
        ("op", "argument"), [("conv1x1_bn_act", "residual"), ("depthwise_pointwise", "residual"), ("fire", "bypass")]
    )
    def test_addend(self, op, argument):
        call = real_call(
            Case(op, "wide", (2, 6, 9, 8), {**sized(op, out=7, inner=5), argument: True}), torch.bfloat16, 0
        )
        wide = call._replace(kwargs={**call.kwargs, argument: wide_slice(call.kwargs[argument])})
        assert torch.equal(run_public(call), run_public(wide))

    def test_dense_buffer(self):
        call = real_call(
            Case("dense_block", "wide", (2, 6, 9, 8), {"layers": 2, "growth": 5, "bottleneck": 9}), torch.bfloat16, 0
        )
        x, layers = call.args
        expected = run_public(call)
        buffer = wide_slice(expected)
        buffer[:, x.shape[1] :] = float("nan")
        assert torch.equal(run_dense_block_(buffer, pack_dense_block(layers, x.dtype)), expected)

    def test_transition_out(self):
        call = real_call(Case("transition", "wide", (2, 6, 9, 8), {"out": 7}), torch.bfloat16, 0)
        expected = run_public(call)
        packed = pack_transition(*call.args[1:], torch.bfloat16)
        assert torch.equal(run_transition_out(call.args[0], packed, wide_slice(torch.zeros_like(expected))), expected)

    def test_stem_out(self):
        call = real_call(Case("stem", "wide", (2, 3, 19, 18), {"out": 7, "pool": (3, 2, 1, False)}), torch.bfloat16, 0)
        expected = run_public(call)
        packed = pack_stem(*call.args[1:], torch.bfloat16, **call.kwargs)
        assert torch.equal(run_stem_out(call.args[0], packed, wide_slice(torch.zeros_like(expected))), expected)
