"""The networks' blocks on a GPU in fp16: stock eager in both layouts, cudnn.benchmark, torch.compile, and swapped,
each also as a CUDA graph where it can be captured.

Every call of a round reads another copy of the input, enough copies to be larger than the L2 cache.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bench_dense_block import PARTS as DENSE
from bench_depthwise_pointwise import PARTS as SEPARABLE
from bench_fire import PARTS as FIRE
from bench_stem import PARTS as STEM
from bench_transition import PARTS as TRANSITION
from blocks import Block, cut
from torch import Tensor, nn

import lightops

BATCH = 64
L2_BYTES = 128 << 20  # twice an H100's
ROUNDS = 20
# Against fp64, in units of the largest value: eleven bits of fp16 and the sums of a block.
LIMIT = 2e-2
PARTS = (*DENSE, *TRANSITION, *SEPARABLE, *FIRE, *STEM)

Call = Callable[[Tensor], Tensor]


def contestants(module: nn.Module) -> dict[str, Callable[[], tuple[Call, torch.memory_format, bool]]]:
    """Name -> how to make it: (call, layout, cudnn.benchmark). Made when its turn comes, since compiling takes time."""
    nhwc, nchw = torch.channels_last, torch.contiguous_format

    def stock(layout: torch.memory_format) -> nn.Module:
        return copy.deepcopy(module).to(memory_format=layout)

    def swapped() -> nn.Module:
        holder = nn.Sequential(stock(nhwc))
        lightops.swap_(holder)
        return holder

    return {
        "eager NCHW": lambda: (stock(nchw), nchw, False),
        "eager NHWC": lambda: (stock(nhwc), nhwc, False),
        "cudnn.benchmark": lambda: (stock(nhwc), nhwc, True),
        "torch.compile": lambda: (torch.compile(stock(nhwc)), nhwc, False),
        "max-autotune": lambda: (torch.compile(stock(nhwc), mode="max-autotune-no-cudagraphs"), nhwc, True),
        "lightops": lambda: (swapped(), nhwc, False),
    }


def timed(call: Call, inputs: list[Tensor]) -> float:
    """Median microseconds of a call, over rounds through all the inputs."""
    times = []
    for _ in range(ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for x in inputs:
            call(x)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / len(inputs))
    return statistics.median(times)


def graphed(call: Call, inputs: list[Tensor]) -> float | None:
    """The same as one CUDA graph over all the inputs; None where the call cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for x in inputs:
                call(x)
    except RuntimeError:
        return None
    return timed(lambda x: graph.replay(), inputs[:1]) / len(inputs)


def rows_of(block: Block, deadline: float) -> Iterator[dict[str, Any]]:
    x = block.x.repeat(-(-BATCH // block.x.shape[0]), 1, 1, 1)[:BATCH].cuda()
    want = copy.deepcopy(block.module).cuda().double()(x[:4].double())
    module, half = copy.deepcopy(block.module).cuda().half(), x.half()
    copies = min(16, max(2, L2_BYTES // (half.numel() * 2)))
    for name, make in contestants(module).items():
        if time.monotonic() > deadline:
            break
        row: dict[str, Any] = {"block": block.name, "batch": BATCH, "contestant": name, "error": 0.0, "limit": LIMIT}
        try:
            call, layout, torch.backends.cudnn.benchmark = make()
            inputs = [half.clone(memory_format=layout) for _ in range(copies)]
            for y in inputs[:3]:
                out = call(y)
            torch.cuda.synchronize()
            row["error"] = ((out[:4].double() - want).abs().max() / want.abs().max()).item()
            row["us"], row["graph_us"] = timed(call, inputs), graphed(call, inputs)
            out_bytes = out.numel() * out.element_size()
            row["floor_us"] = (half.numel() * 2 + out_bytes) / 3e12 * 1e6
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"[:300]
            row["error"] = float("inf") if name == "lightops" else 0.0
        yield row


@torch.no_grad()
def measure(deadline: float) -> Iterator[dict[str, Any]]:
    """A row per block and contestant; blocks that the time does not reach are left out.

    Not in inference mode: parameters made there have no version, so that a swapped module would pack them on every
    call."""
    torch.backends.cudnn.allow_tf32 = False
    for part in PARTS:
        if time.monotonic() > deadline:
            break
        yield from rows_of(cut(part, 4), deadline)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Times over the byte floor, a group of bars a block."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    timed_rows = [r for r in rows if "us" in r]
    blocks = list(dict.fromkeys(r["block"] for r in timed_rows))
    names = list(dict.fromkeys(r["contestant"] for r in timed_rows))
    figure, axes = plt.subplots(figsize=(max(8, len(blocks)), 5))
    for i, name in enumerate(names):
        points = [(blocks.index(r["block"]) + i / (len(names) + 1), r) for r in timed_rows if r["contestant"] == name]
        heights = [(r["graph_us"] or r["us"]) / r["floor_us"] for _, r in points]
        axes.bar([at for at, _ in points], heights, 1 / (len(names) + 1), label=name)
    axes.set_xticks(range(len(blocks)), blocks, rotation=60, ha="right")
    axes.set_ylabel("time / time of the bytes at 3 TB/s")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
