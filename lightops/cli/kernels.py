"""`lightops kernels`: what the compiler made of the CUDA kernels."""

import json
import re
from pathlib import Path
from typing import Any

import click

from lightops.cli._console import console, table

REPORT = Path(__file__).resolve().parents[1] / "_cuda_kernels.json"


@click.command()
@click.option("--arch", help="Only this architecture, for example 90.")
@click.option("--grep", default="", help="Only kernels whose name holds this.")
@click.option("--json", "as_json", is_flag=True, help="Prints the report as JSON.")
def kernels(arch: str | None, grep: str, as_json: bool) -> None:
    """Lists per CUDA kernel and architecture: registers, spills, blocks a multiprocessor holds (by registers and
    threads), tensor-core instructions, widths of global accesses. Written by `make cuda`, without a GPU."""
    if not REPORT.is_file():
        raise click.ClickException("no report: run `make cuda` in a checkout (needs nvcc)")
    report = json.loads(REPORT.read_text())
    rows = [k for k in report["kernels"] if arch in (None, k["arch"]) and grep in k["name"]]
    if as_json:
        click.echo(json.dumps({**report, "kernels": rows}, indent=1))
        return
    spills = sum(bool(k["spill_bytes"]) for k in rows)
    title = f"{len(rows)} kernels, nvcc {report['nvcc']}, {spills} with spills"
    columns = ["kernel", "sm", "registers", "spills", "blocks", "tensor", "global accesses"]
    console().print(table(title, columns, [_row(k) for k in rows]))


def _row(k: dict[str, Any]) -> list[str]:
    tensor = "?" if k["tensor_core"] is None else str(k["tensor_core"])
    widths = " ".join(f"{count}x{name.replace(' ', '.')}" for name, count in sorted(k["global_widths"].items()))
    numbers = (k["registers"], k["spill_bytes"], k["blocks_by_registers"])
    name = re.sub(r"TileShape<(\w+), (\d+), (\d+), \d+, \d+, \d+>", r"\1 \2x\3", k["name"])
    return [name, k["arch"], *map(str, numbers), tensor, widths]
