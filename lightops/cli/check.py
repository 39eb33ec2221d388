"""`lightops check`: the numerics of a swapped network on this machine, block by block."""

import click
import torch

from lightops.bench.blocks import BlockCheck, check_blocks
from lightops.bench.job import DTYPES
from lightops.cli._console import console, subject_or_usage_error, table


@click.command()
@click.argument("network")
@click.option("--batch", type=click.IntRange(min=1), default=2, show_default=True, help="Pictures.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="fp32", show_default=True)
@click.option("--resolution", type=click.IntRange(min=8), help="Pixels a side. [default: the network's own]")
@click.option(
    "--winograd", type=click.Choice(["0", "2", "4"]), default="2", show_default=True, help="Tile of the 3x3s."
)
@click.pass_context
def check(context: click.Context, network: str, batch: int, dtype: str, resolution: int | None, winograd: str) -> None:
    """Compares every swapped block of NETWORK, and the whole of it, with stock and with float64.

    Each block gets the input that it has inside the network. Exit code 1 if one errs by more than twice stock's own
    error, or if nothing was swapped.
    """
    screen = console()
    subject = subject_or_usage_error(network, resolution)
    with screen.status("") as status:
        checks, report = check_blocks(subject, batch, DTYPES[dtype], int(winograd), status.update)
    header = ["block", "op", "error, stock", "error, swapped", "limit", "verdict", ""]
    styles = ["" if entry.ok else "bold red" for entry in checks]
    title = (
        f"{network}, {dtype}, batch {batch}, {subject.resolution}x{subject.resolution}: largest error against float64"
    )
    screen.print(title, style="bold", markup=False, soft_wrap=True)  # a table's own title wraps at the table's width
    screen.print(table(None, header, [_line(entry) for entry in checks], styles))
    for record in report.declined:
        screen.print(f"not swapped: {record.name}: {record.reason}", markup=False, soft_wrap=True)
    missed = [entry for entry in checks if not entry.ok]
    if not report.fused:
        screen.print("FAILED: nothing was swapped", style="bold red")
    else:
        screen.print(
            f"{len(checks) - len(missed)} of {len(checks)} within the limit, {torch.get_num_threads()} threads"
        )
    context.exit(1 if missed or not report.fused else 0)


def _line(entry: BlockCheck) -> list[str]:
    numbers = [f"{value:.1e}" for value in (entry.stock, entry.swapped, entry.limit)]
    return [entry.name or "(all)", entry.op, *numbers, "ok" if entry.ok else "MISS", entry.note]
