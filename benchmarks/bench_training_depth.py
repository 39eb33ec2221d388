"""A dense block in training at growing depth: time per layer, and the bytes kept for the backward pass.

    python benchmarks/bench_training_depth.py

Stock keeps every layer's concatenation, BatchNorm and ReLU outputs, which grows with the square of the depth;
`memory_efficient=True` keeps the concatenations' parts and computes the rest twice; lightops keeps the block's one
buffer and the raw 1x1 outputs. Rows are appended to a CSV; the plot shows them beside the memory of the buffer itself.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from common import NotFused, append
from training import CONTESTANTS, LIMIT, Pass

from lightops.bench import machine
from lightops.bench.memory import allocation, saved_for_backward
from lightops.bench.runner import interleave
from lightops.bench.tables import number
from lightops.bench.training import distance
from lightops.cli._console import Integers, console, table
from lightops.networks.densenet import DenseBlock

_COLOURS = {"torch eager NHWC": "#7f7f7f", "memory_efficient": "#7f9fc4", "lightops": "#d1495b"}


@dataclass
class Row:
    """One contestant at one depth. `buffer_mb` is the block's output, the least that any form keeps."""

    layers: int
    batch: int
    side: int
    growth: int
    threads: int
    contestant: str
    median_ms: float
    min_ms: float
    ms_per_layer: float
    saved_mb: float
    peak_mb: float
    buffer_mb: float
    error: float


COLUMNS: dict[str, Callable[[Row], str]] = {
    "layers": lambda r: str(r.layers),
    "contestant": lambda r: r.contestant,
    "median ms": lambda r: number(r.median_ms, ".1f"),
    "ms / layer": lambda r: number(r.ms_per_layer, ".2f"),
    "saved MB": lambda r: number(r.saved_mb, ".1f"),
    "saved MB / layer": lambda r: number(r.saved_mb / r.layers, ".2f"),
    "peak MB": lambda r: number(r.peak_mb, ".1f"),
    "buffer MB": lambda r: number(r.buffer_mb, ".1f"),
    "gradient error": lambda r: number(r.error, ".1e"),
}


def measure(layers: int, batch: int, side: int, growth: int, threads: int, seconds: float) -> list[Row]:
    """Readies, verifies, weighs and times the contestants at one depth."""
    torch.manual_seed(0)
    channels = 2 * growth
    block = DenseBlock(layers, channels, growth)
    x = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
    upstream = torch.randn(batch, channels + layers * growth, side, side).contiguous(memory_format=torch.channels_last)
    exact = Pass(copy.deepcopy(block).double(), x.double(), upstream.double()).gradients()
    passes, errors = {}, {}
    for name, ready in CONTESTANTS.items():
        mine = ready(copy.deepcopy(block).train()).to(memory_format=torch.channels_last)
        passes[name] = Pass(mine, x, upstream)
        errors[name] = distance(passes[name].gradients(), exact)
        if not errors[name] <= LIMIT:
            raise click.ClickException(f"L = {layers}: the gradients of {name} are wrong: {errors[name]:.1e}")
    timings = interleave(passes, seconds)
    buffer = upstream.numel() * upstream.element_size() / 1e6
    rows = []
    for name, timing in timings.items():
        kept = [*passes[name].block.parameters(), *passes[name].block.buffers()]
        saved = saved_for_backward(passes[name].forward, kept) / 1e6
        peak = allocation(passes[name]).peak / 1e6
        median = timing.median * 1e3
        times = (median, timing.minimum * 1e3, median / layers)
        rows.append(Row(layers, batch, side, growth, threads, name, *times, saved, peak, buffer, errors[name]))
    return rows


def plot(rows: list[Row], path: Path) -> None:
    """Time per layer and bytes against depth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panels = (("ms per layer, forward and backward", "ms_per_layer"), ("MB kept for the backward pass", "saved_mb"))
    for axis, (title, field) in zip(axes, panels, strict=True):
        for name, colour in _COLOURS.items():
            mine = [row for row in rows if row.contestant == name]
            axis.plot([r.layers for r in mine], [getattr(r, field) for r in mine], "o-", color=colour, label=name)
        axis.set(xlabel="layers", title=title, ylim=(0, None), xticks=sorted({row.layers for row in rows}))
        axis.spines[["top", "right"]].set_visible(False)
    ours = [row for row in rows if row.contestant == "lightops"]
    axes[1].plot(
        [r.layers for r in ours], [r.buffer_mb for r in ours], ":", color="#222222", label="the block's output"
    )
    axes[1].legend(frameon=False)
    first = rows[0]
    figure.suptitle(
        f"dense block, growth {first.growth}, batch {first.batch}, {first.side}x{first.side}, "
        f"{first.threads} thread{'s' if first.threads != 1 else ''}, float32",
        fontsize=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


@click.command(help=__doc__)
@click.option("--layers", type=Integers(), default="12,24,48,96", show_default=True)
@click.option("--batch", default=4, show_default=True)
@click.option("--side", default=14, show_default=True, help="Pixels of the map.")
@click.option("--growth", default=32, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="Time per depth.")
@click.option("--csv", "path", default="reports/training_depth.csv", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--plot", "picture", default="reports/training_depth.png", show_default=True, type=click.Path(path_type=Path)
)
def main(
    layers: tuple[int, ...], batch: int, side: int, growth: int, threads: int, seconds: float, path: Path, picture: Path
) -> None:
    """Measures every depth, prints, appends and draws."""
    torch.set_num_threads(threads)
    screen, state, rows = console(), machine.conditions(torch.device("cpu")), []
    for depth in layers:
        try:
            rows += measure(depth, batch, side, growth, threads, seconds)
        except NotFused as reason:
            raise click.ClickException(f"not fused: {reason}") from reason
        screen.print(f"L = {depth} done", style="dim")
    screen.print(table("Dense block in training", list(COLUMNS), [[c(r) for c in COLUMNS.values()] for r in rows]))
    append(path, rows, state)
    plot(rows, picture)
    screen.print(f"{machine.summary(state)}\nappended to {path}; {picture}", style="dim", markup=False)


if __name__ == "__main__":
    main()
