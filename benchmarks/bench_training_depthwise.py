"""Depthwise 3x3 convolutions of the MobileNets in training: the backward pass alone, and with its batch norm and ReLU.

    python benchmarks/bench_training_depthwise.py --threads 1,2

"convolution": the gradients of input and weight of the bare convolution, against ATen's own backward in channels_last.
"chain": from the gradient of the convolution's result through ReLU and batch norm (batch statistics) to the raw tensor
before them; stock runs autograd over the three modules' graph, lightops one operator. "chain forward" is the same
chain's forward pass, with the statistics of the result. Results are compared with float64 before anything is timed;
contestants run in turns in one process. Rows are appended to a CSV.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from common import append
from torch import Tensor

from lightops.bench import machine
from lightops.bench.runner import interleave
from lightops.bench.tables import number
from lightops.cli._console import Integers, console, table
from lightops.ops import training
from lightops.ops.training import Prologue

# (network, channels, side of the input, stride), each shape once.
SHAPES = (
    ("mobilenet_v1", 32, 112, 1),
    ("mobilenet_v1", 64, 112, 2),
    ("mobilenet_v1", 128, 56, 1),
    ("mobilenet_v1", 128, 56, 2),
    ("mobilenet_v1", 256, 28, 1),
    ("mobilenet_v1", 256, 28, 2),
    ("mobilenet_v1", 512, 14, 1),
    ("mobilenet_v1", 512, 14, 2),
    ("mobilenet_v1", 1024, 7, 1),
    ("mobilenet_v2", 96, 112, 2),
    ("mobilenet_v2", 144, 56, 1),
    ("mobilenet_v2", 144, 56, 2),
    ("mobilenet_v2", 192, 28, 1),
    ("mobilenet_v2", 192, 28, 2),
    ("mobilenet_v2", 384, 14, 1),
    ("mobilenet_v2", 576, 14, 1),
    ("mobilenet_v2", 576, 14, 2),
    ("mobilenet_v2", 960, 7, 1),
)
STOCK, OURS = "torch eager NHWC", "lightops"
# Mean distance from the exact result, relative to its mean size: single elements may lie on the other side of a ReLU.
_LIMIT = 1e-3


@dataclass
class Row:
    """One contestant on one shape. `times_stock` is stock's median over this one's."""

    network: str
    channels: int
    side: int
    stride: int
    batch: int
    threads: int
    what: str
    contestant: str
    median_ms: float
    min_ms: float
    times_stock: float
    error: float


COLUMNS: dict[str, Callable[[Row], str]] = {
    "network": lambda r: r.network,
    "channels": lambda r: str(r.channels),
    "side": lambda r: str(r.side),
    "stride": lambda r: str(r.stride),
    "what": lambda r: r.what,
    "contestant": lambda r: r.contestant,
    "median ms": lambda r: number(r.median_ms, ".3f"),
    "min ms": lambda r: number(r.min_ms, ".3f"),
    "times stock": lambda r: number(r.times_stock, ".2f"),
    "error": lambda r: number(r.error, ".1e"),
}

Call = Callable[[], tuple[Tensor, ...]]


class Layer:
    """The tensors of one layer, channels innermost, and every call that is timed."""

    def __init__(self, channels: int, side: int, stride: int, batch: int, dtype: torch.dtype = torch.float32):
        draw = torch.Generator().manual_seed(channels + side + stride)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float32).to(dtype)

        self.channels, self.stride = channels, stride
        self.x = normal(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
        self.weight = normal(channels, 1, 3, 3)
        self.gamma, self.beta = normal(channels).abs() + 0.5, normal(channels)
        out = (side - 1) // stride + 1
        self.dy = normal(batch, channels, out, out).contiguous(memory_format=torch.channels_last)

    def calls(self, what: str) -> dict[str, Call]:
        """Stock and lightops."""
        return {
            "convolution": {STOCK: self.stock_convolution, OURS: self.convolution},
            "chain": {STOCK: self.stock_chain(), OURS: self.chain()},
            "chain forward": {STOCK: self.stock_forward, OURS: self.forward},
        }[what]

    def _convolve(self, u: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(u, weight, None, self.stride, 1, 1, self.channels)

    def stock_convolution(self) -> tuple[Tensor, ...]:
        stride = [self.stride] * 2
        return torch.ops.aten.convolution_backward(
            self.dy,
            self.x,
            self.weight,
            None,
            stride,
            [1, 1],
            [1, 1],
            False,
            [0, 0],
            self.channels,
            [True, True, False],
        )[:2]

    def convolution(self) -> tuple[Tensor, ...]:
        out = self._native_backward(Prologue(), [True, False, True, False])
        return out[0], out[3]

    def _native_backward(self, prologue: Prologue, needs: list[bool]) -> tuple[Tensor, ...]:
        geometry = [self.stride] * 2, [1, 1], [1, 1], self.channels, False
        return torch.ops.lightops.bn_act_conv2d_backward(
            self.dy, self.x, *prologue.flat(), self.weight, *geometry, prologue.batch, needs
        )

    def _prologue(self) -> Prologue:
        mean, var = training.batch_stats(self.x)
        return Prologue(mean, var, self.gamma, self.beta, 1e-5, "relu", True)

    def chain(self) -> Call:
        """Gradients of x, gamma, beta and weight."""
        prologue = self._prologue()
        return lambda: self._native_backward(prologue, [True, True, True, False])[:4]

    def stock_chain(self) -> Call:
        leaves = [t.detach().requires_grad_() for t in (self.x, self.gamma, self.beta, self.weight)]
        y = self._stock(*leaves)
        return lambda: torch.autograd.grad(y, leaves, self.dy, retain_graph=True)

    def _stock(self, x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor) -> Tensor:
        return self._convolve(F.relu(F.batch_norm(x, None, None, gamma, beta, True, 0.1, 1e-5)), weight)

    def stock_forward(self) -> tuple[Tensor, ...]:
        """With the statistics of the result, which stock takes in the next batch norm."""
        y = self._stock(self.x, self.gamma, self.beta, self.weight)
        return y, *torch.native_batch_norm(y, None, None, None, None, True, 0.1, 1e-5)[1:2]

    def forward(self) -> tuple[Tensor, ...]:
        """From x's statistics on, which the previous op gave; stock's batch norm takes them here."""
        return training.bn_act_conv2d(
            self.x, self._prologue(), self.weight, stride=(self.stride,) * 2, padding=(1, 1), groups=self.channels
        )[:2]


def measure(shape: tuple[str, int, int, int], batch: int, threads: int, what: str, seconds: float) -> list[Row]:
    """Verifies and times the contestants of one shape."""
    network, channels, side, stride = shape
    calls = Layer(channels, side, stride, batch).calls(what)
    truth = Layer(channels, side, stride, batch, torch.float64).calls(what)[STOCK]()
    errors = {name: _distance(call(), truth) for name, call in calls.items()}
    for name, error in errors.items():
        if not error <= _LIMIT:
            raise click.ClickException(f"{shape}, {what}: {name} is wrong by {error:.1e}; nothing was timed")
    timings = interleave(calls, seconds)
    stock = timings[STOCK].median
    return [
        Row(
            network,
            channels,
            side,
            stride,
            batch,
            threads,
            what,
            name,
            timing.median * 1e3,
            timing.minimum * 1e3,
            stock / timing.median,
            errors[name],
        )
        for name, timing in timings.items()
    ]


def _distance(found: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> float:
    pairs = zip(found, truth, strict=True)
    return max(((a.double() - b).abs().mean() / b.abs().mean()).item() for a, b in pairs)


@click.command(help=__doc__)
@click.option("--batch", default=8, show_default=True)
@click.option("--threads", type=Integers(), default="1", show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="Time per shape.")
@click.option("--what", "wanted", multiple=True, default=("convolution", "chain"), show_default=True)
@click.option("--channels", type=Integers(), default=None, help="Only layers of these.")
@click.option(
    "--csv", "path", default="reports/training_depthwise.csv", show_default=True, type=click.Path(path_type=Path)
)
def main(
    batch: int, threads: tuple[int, ...], seconds: float, wanted: tuple[str, ...], channels: tuple[int, ...], path: Path
) -> None:
    """The command."""
    screen = console()
    state = machine.conditions(torch.device("cpu"))
    screen.print(f"depthwise 3x3 in training: {machine.summary(state)}", style="dim")
    for count in threads:
        torch.set_num_threads(count)
        for what in wanted:
            rows = []
            for shape in SHAPES:
                if not channels or shape[1] in channels:
                    rows += measure(shape, batch, count, what, seconds)
            title = f"{what}, batch {batch}, {count} thread{'s' * (count != 1)}"
            screen.print(table(title, list(COLUMNS), [[show(r) for show in COLUMNS.values()] for r in rows]))
            ours = [row.times_stock for row in rows if row.contestant == OURS]
            if ours:
                product = torch.tensor(ours).log().mean().exp().item()
                screen.print(
                    f"  {len(ours)} shapes: {min(ours):.2f} to {max(ours):.2f} times stock, mean {product:.2f}\n"
                )
            append(path, rows, state)
    screen.print(f"appended to {path}; {machine.busy(state) or 'the machine was idle'}", style="dim")


if __name__ == "__main__":
    main()
