"""What the micro-benchmarks of training do: forward and backward of blocks of the networks, stock against fused.

Used by `bench_training_*.py`. All contestants take the same random upstream gradient, have their gradients compared
with float64 first, and are timed interleaved.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from blocks import Block, Part, cut, macs
from common import NotFused, append, fused
from torch import Tensor, nn

from lightops.bench import machine
from lightops.bench.memory import allocation, saved_for_backward
from lightops.bench.runner import interleave
from lightops.bench.tables import number
from lightops.bench.training import Gradients, distance, make_memory_efficient
from lightops.cli._console import Integers, console, table

# Stock channels_last itself is up to 2% from float64 in a whole network; a single block much less.
LIMIT = 0.02


class Pass:
    """Forward and backward of a block with a fixed random upstream gradient."""

    def __init__(self, block: nn.Module, x: Tensor, upstream: Tensor) -> None:
        self.block, self.upstream = block.train(), upstream
        self.x = x.clone(memory_format=torch.channels_last).requires_grad_()

    def __call__(self) -> None:
        self.block(self.x).backward(self.upstream)
        self.x.grad = None
        self.block.zero_grad(set_to_none=True)

    def forward(self) -> Tensor:
        return self.block(self.x)

    def gradients(self) -> Gradients:
        self.block(self.x).backward(self.upstream)
        found = {name: p.grad.double() for name, p in self.block.named_parameters()} | {"x": self.x.grad.double()}
        self.x.grad = None
        self.block.zero_grad(set_to_none=True)
        return found


def memory_efficient(block: nn.Module) -> nn.Module:
    """DenseNet's `memory_efficient=True`."""
    return make_memory_efficient(nn.Sequential(block))[0]


Ready = Callable[[nn.Module], nn.Module]
STOCK: dict[str, Ready] = {"torch eager NHWC": lambda block: block}
CONTESTANTS: dict[str, Ready] = STOCK | {"memory_efficient": memory_efficient, "lightops": fused}


@dataclass
class Row:
    """One contestant on one block. `gmacs` counts three times the forward pass in direct arithmetic."""

    op: str
    layer: str
    batch: int
    threads: int
    contestant: str
    median_ms: float
    min_ms: float
    gmacs: float
    saved_mb: float
    peak_mb: float
    error: float


COLUMNS: dict[str, Callable[[Row], str]] = {
    "contestant": lambda r: r.contestant,
    "median ms": lambda r: number(r.median_ms, ".2f"),
    "min ms": lambda r: number(r.min_ms, ".2f"),
    "GMAC/s": lambda r: number(r.gmacs, ".0f"),
    "saved MB": lambda r: number(r.saved_mb, ".1f"),
    "peak MB": lambda r: number(r.peak_mb, ".1f"),
    "gradient error": lambda r: number(r.error, ".1e"),
}


def measure(op: str, block: Block, threads: int, contestants: dict[str, Ready], seconds: float) -> list[Row]:
    """Readies, verifies, weighs and times the contestants on one block."""
    x = block.x.contiguous(memory_format=torch.channels_last)
    stock = copy.deepcopy(block.module).train()
    with torch.no_grad():
        shape = copy.deepcopy(stock)(x).shape
    torch.manual_seed(0)
    upstream = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    exact = Pass(copy.deepcopy(stock).double(), x.double(), upstream.double()).gradients()
    passes, errors = {}, {}
    for name, ready in contestants.items():
        mine = ready(copy.deepcopy(stock)).to(memory_format=torch.channels_last)
        passes[name] = Pass(mine, x, upstream)
        errors[name] = distance(passes[name].gradients(), exact)
        if not errors[name] <= LIMIT:
            raise click.ClickException(f"{block.name}: the gradients of {name} are wrong: {errors[name]:.1e}")
    rows, work = [], 3 * macs(copy.deepcopy(block.module), x)
    for name, timing in interleave(passes, seconds).items():
        kept = [*passes[name].block.parameters(), *passes[name].block.buffers(), passes[name].x]
        saved = saved_for_backward(passes[name].forward, kept) / 1e6
        peak = allocation(passes[name]).peak / 1e6
        times = (timing.median * 1e3, timing.minimum * 1e3, work / timing.median * 1e-9)
        rows.append(Row(op, block.name, len(x), threads, name, *times, saved, peak, errors[name]))
    return rows


def run(op: str, parts: Sequence[Part], contestants: dict[str, Ready]) -> None:
    """Command line of a micro-benchmark of training."""

    @click.command(
        help=f"Micro-benchmark of {op}: forward and backward of blocks of the networks, stock against fused."
    )
    @click.option("--batch", default=8, show_default=True)
    @click.option("--threads", type=Integers(), default="1,2", show_default=True)
    @click.option("--seconds", default=3.0, show_default=True, help="Time per block.")
    @click.option("--layer", "layers", multiple=True, help="Only layers whose name holds this.")
    @click.option("--csv", "path", default="reports/training.csv", show_default=True, type=click.Path(path_type=Path))
    def command(batch: int, threads: tuple[int, ...], seconds: float, layers: tuple[str, ...], path: Path) -> None:
        screen, state = console(), machine.conditions(torch.device("cpu"))
        screen.print(f"{op}: {machine.summary(state)}", style="dim")
        for count in threads:
            torch.set_num_threads(count)
            for wanted in parts:
                if layers and not any(text in f"{wanted.network}.{wanted.layer}" for text in layers):
                    continue
                block = cut(wanted, batch)
                try:
                    rows = measure(op, block, count, contestants, seconds)
                except NotFused as reason:
                    raise click.ClickException(f"{block.name}: not fused: {reason}") from reason
                title = f"{block.name}, {'x'.join(map(str, block.x.shape))}, {count} thread{'s' * (count != 1)}"
                screen.print(table(title, list(COLUMNS), [[show(r) for show in COLUMNS.values()] for r in rows]))
                append(path, rows, state)
        screen.print(f"appended to {path}; {machine.busy(state) or 'the machine was idle'}", style="dim")

    command()
