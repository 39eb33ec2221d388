"""What the micro-benchmarks of single training ops do: forward and backward on the shapes of the networks, against the
same formula in PyTorch's own operators (channels_last), interleaved.

Used by `bench_training_<op>.py` of the ops that stand between blocks. Gradients are compared with float64 first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from common import append
from torch import Tensor

from lightops.bench import machine
from lightops.bench.runner import interleave
from lightops.bench.tables import number
from lightops.cli._console import Integers, console, table
from lightops.ops.training import Prologue

# A value within rounding of zero may pass ReLU in float32 and not in float64: stock is 1e-3 off at 32 x 112 x 112.
LIMIT = 0.02
Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class Shape:
    """A case: `leaves` are what is differentiated, `stock` and `lightops` functions of them."""

    name: str
    leaves: tuple[Tensor, ...]
    stock: Forward
    lightops: Forward
    multiply_adds: int = 0


@dataclass
class Row:
    """One contestant in one direction. `gmacs` counts direct arithmetic, once forward, twice backward."""

    op: str
    shape: str
    threads: int
    direction: str
    contestant: str
    median_ms: float
    min_ms: float
    gmacs: float
    error: float


COLUMNS: dict[str, Callable[[Row], str]] = {
    "contestant": lambda r: f"{r.direction}, {r.contestant}",
    "median ms": lambda r: number(r.median_ms, ".3f"),
    "min ms": lambda r: number(r.min_ms, ".3f"),
    "GMAC/s": lambda r: number(r.gmacs, ".0f") if r.gmacs else "",
    "gradient error": lambda r: number(r.error, ".1e"),
}


def image(n: int, c: int, h: int, w: int) -> Tensor:
    return torch.randn(n, c, h, w).contiguous(memory_format=torch.channels_last)


def norm(x: Tensor, act: str = "relu") -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Prologue]]:
    """gamma, beta and the prologue of a batch norm of x with its batch's statistics."""
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    gamma, beta = torch.rand(x.shape[1]) + 0.5, torch.randn(x.shape[1])
    return gamma, beta, lambda g, b: Prologue(mean, var, g, b, 1e-5, act, True)


class _Pass:
    """One contestant: its forward pass, and its backward pass over a graph that is kept."""

    def __init__(self, forward: Forward, leaves: Sequence[Tensor], upstream: Tensor | None = None) -> None:
        self.run, self.leaves = forward, [leaf.detach().clone().requires_grad_(leaf.requires_grad) for leaf in leaves]
        self.out = self.forward()
        self.upstream = torch.randn_like(self.out) if upstream is None else upstream
        self.wanted = [leaf for leaf in self.leaves if leaf.requires_grad]

    def forward(self) -> Tensor:
        return self.run(*self.leaves)

    def backward(self) -> Sequence[Tensor]:
        return torch.autograd.grad(self.out, self.wanted, self.upstream, retain_graph=True)


def _error(grads: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    pairs = zip(grads, exact, strict=True)
    return max(float((a.double() - b).norm() / b.norm().clamp_min(1e-30)) for a, b in pairs)


def measure(op: str, shape: Shape, threads: int, seconds: float) -> list[Row]:
    """Verifies and times both contestants, both directions."""
    double = [leaf.detach().double().requires_grad_(leaf.requires_grad) for leaf in shape.leaves]
    passes = {"torch eager NHWC": _Pass(shape.stock, shape.leaves)}
    upstream = passes["torch eager NHWC"].upstream
    passes["lightops"] = _Pass(shape.lightops, shape.leaves, upstream)
    exact = _Pass(shape.stock, double, upstream.double()).backward() if passes["lightops"].wanted else []
    errors = {name: _error(p.backward(), exact) if p.wanted else 0.0 for name, p in passes.items()}
    for name, error in errors.items():
        if not error <= LIMIT:
            raise click.ClickException(f"{shape.name}: the gradients of {name} are wrong: {error:.1e}")
    rows = []
    for direction, factor in (("forward", 1), ("backward", 1 + shape.leaves[0].requires_grad)):
        if direction == "backward" and not passes["lightops"].wanted:
            continue
        timings = interleave({name: getattr(p, direction) for name, p in passes.items()}, seconds / 2)
        for name, timing in timings.items():
            rate = factor * shape.multiply_adds / timing.median * 1e-9
            times = (timing.median * 1e3, timing.minimum * 1e3, rate)
            rows.append(Row(op, shape.name, threads, direction, name, *times, errors[name]))
    return rows


def run(op: str, shapes: Callable[[int], Sequence[Shape]]) -> None:
    """Command line of a micro-benchmark; `shapes` makes the cases of a batch size."""

    @click.command(help=f"Micro-benchmark of {op} in training, forward and backward.")
    @click.option("--batch", default=8, show_default=True)
    @click.option("--threads", type=Integers(), default="1,2", show_default=True)
    @click.option("--seconds", default=2.0, show_default=True, help="Time per case.")
    @click.option("--only", multiple=True, help="Only cases whose name holds this.")
    @click.option(
        "--csv", "path", default="reports/training_ops.csv", show_default=True, type=click.Path(path_type=Path)
    )
    def command(batch: int, threads: tuple[int, ...], seconds: float, only: tuple[str, ...], path: Path) -> None:
        screen, state = console(), machine.conditions(torch.device("cpu"))
        screen.print(f"{op}: {machine.summary(state)}", style="dim")
        torch.manual_seed(0)
        for shape in shapes(batch):
            if only and not any(text in shape.name for text in only):
                continue
            for count in threads:
                torch.set_num_threads(count)
                rows = measure(op, shape, count, seconds)
                title = f"{shape.name}, batch {batch}, {count} thread{'s' * (count != 1)}"
                screen.print(table(title, list(COLUMNS), [[show(r) for show in COLUMNS.values()] for r in rows]))
                append(path, rows, state)
        screen.print(f"appended to {path}; {machine.busy(state) or 'the machine was idle'}", style="dim")

    command()
