"""What the commands share: the console, tables, lists of numbers, and a subject that exists or a usage error."""

import os
from collections.abc import Sequence

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from lightops.bench.subjects import Subject, UnknownNetwork, load_network, load_subject

# A pipe or a log has no width of its own, and a wrapped table cannot be read.
_LOG_WIDTH = 170


def console(stderr: bool = False) -> Console:
    """A console that is wide where it is not a terminal; COLUMNS has the last word."""
    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found = Console(stderr=stderr, highlight=False, width=_LOG_WIDTH)
    return found


def table(
    title: str | None, header: Sequence[str], lines: Sequence[Sequence[str]], styles: Sequence[str] = ()
) -> Table:
    """A table whose first column is text and whose other columns are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(header):
        made.add_column(name, justify="left" if index == 0 or not name else "right", no_wrap=bool(name))
    for index, line in enumerate(lines):
        made.add_row(*line, style=styles[index] if styles else None)
    return made


class Integers(click.ParamType):
    """A comma-separated list of positive integers, as in `1,16`."""

    name = "n[,n...]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers as a tuple, without repeats."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(dict.fromkeys(int(part) for part in str(value).split(",")))
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of integers", param, ctx)
        if min(numbers) < 1:
            self.fail(f"{value!r} holds a number below 1", param, ctx)
        return numbers


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def subject_or_usage_error(name: str, resolution: int | None = None) -> Subject:
    """`load_subject`, with an unknown name as a usage error (exit code 2)."""
    try:
        return load_subject(name, resolution)
    except UnknownNetwork as error:
        raise click.UsageError(str(error)) from error


def network_or_usage_error(name: str) -> nn.Module:
    """`load_network`, with an unknown name as a usage error (exit code 2)."""
    try:
        return load_network(name)
    except UnknownNetwork as error:
        raise click.UsageError(str(error)) from error


def device_or_usage_error(name: str) -> torch.device:
    """The torch device, which must be there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise click.UsageError(f"--device {name}: expected cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError(f"--device {name}: no CUDA device is visible to torch {torch.__version__}")
    if device.type not in ("cpu", "cuda"):
        raise click.UsageError(f"--device {name}: expected cpu or cuda")
    return device
