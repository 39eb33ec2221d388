"""What every micro-benchmark does: cut blocks out of the networks, run the providers in turns, print and append rows.

Used by `bench_<op>.py`, each of which says which blocks and which variants. All providers compute the same block on the
same input, are compared with float64 first, and are timed interleaved (`lightops.bench.runner`).
"""

import copy
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import click
import torch
from blocks import Block, Part, cut, macs
from peak import peak_gmacs
from torch import Tensor, nn

from lightops.bench import machine
from lightops.bench.contestants import swap
from lightops.bench.memory import allocation, traffic
from lightops.bench.runner import interleave
from lightops.bench.tables import number
from lightops.cli._console import Integers, console, table

Call = Callable[[], Tensor]
# Takes the stock block (channels_last) and its channels_last input; returns the call to time.
Provider = Callable[[nn.Module, Tensor], Call]


@dataclass
class Row:
    """One provider on one block.

    `gmacs` counts the multiply-adds of the fused form in direct arithmetic, the same for all providers of a block (so
    Winograd can pass 100% of peak). `gb_per_s` is one pass over input, output and weights. `passes` are the operators
    that moved data, `traffic_mb` what they read and wrote, `allocated_mb` all tensors made, `peak_mb` those alive at
    once.
    """

    op: str
    layer: str
    batch: int
    threads: int
    provider: str
    median_ms: float
    min_ms: float
    gmacs: float
    peak_share: float
    gb_per_s: float
    passes: int
    traffic_mb: float
    allocated_mb: float
    peak_mb: float
    error: float
    note: str = ""


COLUMNS: dict[str, Callable[[Row], str]] = {
    "provider": lambda r: r.provider,
    "median ms": lambda r: number(r.median_ms, ".3f"),
    "min ms": lambda r: number(r.min_ms, ".3f"),
    "GMAC/s": lambda r: number(r.gmacs, ".1f"),
    "of peak": lambda r: number(r.peak_share, ".0%"),
    "GB/s": lambda r: number(r.gb_per_s, ".1f"),
    "passes": lambda r: str(r.passes),
    "traffic MB": lambda r: number(r.traffic_mb, ".2f"),
    "allocated MB": lambda r: number(r.allocated_mb, ".2f"),
    "peak MB": lambda r: number(r.peak_mb, ".2f"),
    "error": lambda r: number(r.error, ".1e"),
    "": lambda r: r.note,
}


def timed(module: nn.Module, x: Tensor) -> Call:
    def call() -> Tensor:
        with torch.inference_mode():
            return module(x)

    return call


def eager_nchw(block: nn.Module, x: Tensor) -> Call:
    """Stock, contiguous."""
    return timed(block.to(memory_format=torch.contiguous_format), x.contiguous())


def eager_nhwc(block: nn.Module, x: Tensor) -> Call:
    """Stock, channels_last."""
    return timed(block, x)


def compiled(block: nn.Module, x: Tensor) -> Call:
    """torch.compile of stock, channels_last."""
    return timed(torch.compile(block), x)


class NotFused(Exception):
    """The swap declined the block; the reason is the message."""


class _Holder(nn.Module):
    """A parent for the block: the swap replaces children, never the root."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block


def fused(block: nn.Module, winograd: int = 2) -> nn.Module:
    """The module that the swap puts in the place of `block`; raises `NotFused`."""
    holder = _Holder(block).eval()
    report = swap(holder, winograd)
    if not report.fused:
        reasons = {record.reason for record in report.declined}
        raise NotFused("; ".join(sorted(reasons)) or "nothing in it is recognised")
    return holder.block


def lightops(winograd: int = 2) -> Provider:
    """The block after `lightops.swap_`."""
    return lambda block, x: timed(fused(block, winograd), x)


def run(
    op: str,
    parts: Sequence[Part],
    variants: dict[str, Provider] | None = None,
    *,
    arithmetic: Callable[[Block], int] | None = None,
) -> None:
    """Command line of a micro-benchmark: runs `parts` with the stock providers, lightops and the variants."""

    @click.command(help=f"Micro-benchmark of {op}: blocks of the networks, stock against fused.")
    @click.option("--batch", type=Integers(), default="1", show_default=True)
    @click.option("--threads", type=Integers(), default="1", show_default=True)
    @click.option("--seconds", default=1.0, show_default=True, help="Time per block.")
    @click.option("--layer", "layers", multiple=True, help="Only layers whose name holds this.")
    @click.option("--compile", "with_compile", is_flag=True, help="Adds torch.compile.")
    @click.option("--csv", "path", default="reports/micro.csv", show_default=True, type=click.Path(path_type=Path))
    def command(
        batch: tuple[int, ...],
        threads: tuple[int, ...],
        seconds: float,
        layers: tuple[str, ...],
        with_compile: bool,
        path: Path,
    ) -> None:
        providers: dict[str, Provider] = {"torch eager NCHW": eager_nchw, "torch eager NHWC": eager_nhwc}
        if with_compile:
            providers["torch.compile"] = compiled
        providers |= {"lightops": lightops()} | (variants or {})
        screen = console()
        state = machine.conditions(torch.device("cpu"))
        screen.print(f"{op}: {machine.summary(state)}", style="dim")
        gmacs, how = peak_gmacs()
        screen.print(f"peak of one core: {gmacs:.1f} GMAC/s ({how})", style="dim")
        for count in threads:
            torch.set_num_threads(count)
            for size in batch:
                for wanted in parts:
                    if layers and not any(text in f"{wanted.network}.{wanted.layer}" for text in layers):
                        continue
                    block = cut(wanted, size)
                    work = arithmetic(block) if arithmetic else macs(block.module, block.x)
                    rows, notes = measure(op, block, count, providers, seconds, work, gmacs)
                    title = f"{block.name}, {'x'.join(map(str, block.x.shape))}, {count} thread{'s' * (count != 1)}"
                    screen.print(table(title, list(COLUMNS), [[show(r) for show in COLUMNS.values()] for r in rows]))
                    for note in notes:
                        screen.print(f"  {note}", style="yellow", markup=False)
                    screen.print()
                    append(path, rows, state)
        screen.print(f"appended to {path}; {machine.busy(state) or 'the machine was idle'}", style="dim")

    command()


def measure(
    op: str, block: Block, threads: int, providers: dict[str, Provider], seconds: float, work: int, peak: float
) -> tuple[list[Row], list[str]]:
    """Readies, verifies and times the providers of one block; returns their rows, and a line for each that is out."""
    x = block.x.contiguous(memory_format=torch.channels_last)
    truth = timed(copy.deepcopy(block.module).double(), block.x.double())()
    calls, errors, notes = {}, {}, []
    for name, provider in providers.items():
        stock = copy.deepcopy(block.module).to(memory_format=torch.channels_last)
        try:
            call = provider(stock, x)
            errors[name] = (call().double() - truth).abs().max().item()
        except NotFused as reason:
            notes.append(f"{name}: not fused: {reason}")
            continue
        calls[name] = call
    scale = truth.abs().max().item()
    for name, error in errors.items():
        if not error <= 1e-3 * scale:
            sys.exit(f"{op}: {block.name}: {name} is wrong: error {error:.1e} of {scale:.1e}; nothing was timed")
    timings = interleave(calls, seconds)
    weights = sum(p.numel() * p.element_size() for p in block.module.parameters())
    moved = weights + sum(t.numel() * 4 for t in (block.x, truth))
    rows = []
    for name, timing in timings.items():
        allocated, passed = allocation(calls[name]), traffic(calls[name])
        rate = work / timing.median * 1e-9
        row = Row(
            op=op,
            layer=block.name,
            batch=len(block.x),
            threads=threads,
            provider=name,
            median_ms=timing.median * 1e3,
            min_ms=timing.minimum * 1e3,
            gmacs=rate,
            peak_share=rate / (peak * threads),
            gb_per_s=moved / timing.median * 1e-9,
            passes=passed.passes,
            traffic_mb=(passed.bytes_read + passed.bytes_written) / 1e6,
            allocated_mb=allocated.total / 1e6,
            peak_mb=allocated.peak / 1e6,
            error=errors[name],
        )
        rows.append(row)
    return rows, notes


def append(path: Path, rows: Sequence[object], state: dict) -> None:
    """Adds rows (dataclasses of one kind) to the CSV, each with date, device, versions and load."""
    if not rows:
        return
    versions = " ".join(f"{name}={version}" for name, version in state["versions"].items())
    constant = {name: state[name] for name in ("date", "device", "cores", "lightops", "isa", "load")}
    constant["versions"] = versions
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as out:
        writer = csv.DictWriter(out, [*constant, *(f.name for f in fields(rows[0]))])
        if fresh:
            writer.writeheader()
        writer.writerows(constant | asdict(row) for row in rows)
