"""`lightops kernels`: what the compiler made of the CUDA kernels, and the times that their traffic predicts."""

import json
import re
from pathlib import Path
from typing import Any

import click

from lightops.cli._console import Integers, console, table

REPORT = Path(__file__).resolve().parents[1] / "_cuda_kernels.json"


@click.command()
@click.option("--arch", help="Only this architecture, for example 90.")
@click.option("--grep", default="", help="Only kernels whose name holds this.")
@click.option("--predict", is_flag=True, help="Predicts the networks' times on an H100, beside measured ones.")
@click.option("--train", is_flag=True, help="With --predict: training steps in bf16 instead of answers in fp16.")
@click.option(
    "--batch", "batches", type=Integers(), help="With --predict. [default: 256,1; with --train 256]", default=None
)
@click.option(
    "--record",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --predict: the file with measured times. [default: the last one of benchmarks/records]",
)
@click.option("--json", "as_json", is_flag=True, help="Prints the report as JSON.")
def kernels(
    arch: str | None,
    grep: str,
    predict: bool,
    train: bool,
    batches: tuple[int, ...] | None,
    record: Path | None,
    as_json: bool,
) -> None:
    """Lists per CUDA kernel and architecture: registers, spills, blocks a multiprocessor holds (by registers and
    threads), tensor-core instructions, widths of global accesses. Written by `make cuda`, without a GPU.

    With --predict: what the networks' kernels move and multiply, the time that takes at an H100's measured ceilings,
    and what was measured.
    """
    if predict:
        _predict(train, batches or ((256,) if train else (256, 1)), record, as_json)
        return
    if train:
        raise click.UsageError("--train goes with --predict")
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


def _predict(train: bool, batches: tuple[int, ...], path: Path | None, as_json: bool) -> None:
    # Imports the swap and the networks, which the report of the compiler does without.
    from lightops import _ext
    from lightops.bench import predict as model

    if why := _ext.cpu_reason():
        raise click.ClickException(f"--predict runs the networks on the CPU to see their calls: {why}")
    try:
        record = model.read_record(path) if path else model.newest_record()
    except ValueError as error:
        raise click.UsageError(f"--record: {error}") from error
    ceilings = model.Ceilings()
    try:
        predictor = model.predict_training if train else model.predict
        predictions = predictor(model.NETWORKS, batches, record, ceilings)
    except RuntimeError as error:
        raise click.ClickException(f"--predict runs the networks on the CPU to see their calls: {error}") from error
    if as_json:
        click.echo(json.dumps(model.as_json(predictions, record, ceilings, train), indent=1))
        return
    screen = console()
    for p in predictions:
        parts = [*p.ops, p.whole] if len(p.ops) > 1 else [p.whole]
        lines = [_part("whole network" if part is p.whole else part.name, part) for part in parts]
        header = ["op", "kernels", "MB", "GMAC", "predicted ms", "bound by"]
        what = "training step, bf16" if train else "fp16"
        screen.print(table(f"{p.network}, {what}, batch {p.batch}, 224x224", header, lines))
        screen.print()
    header = ["network", "batch", "predicted", "lightops", "/ predicted", "torch.compile", "/ predicted", "eager NHWC"]
    lines = [_beside(p) for p in predictions]
    measured = "measured" if train else "measured as a CUDA graph replay"
    screen.print(table(f"Milliseconds: predicted, and {measured}", header, lines))
    screen.print(f"measured: {record.path.name}: {record.conditions}" if record.path else "measured: no record here")
    for line in ceilings.assumptions(train):
        screen.print(f"assumed: {line}", markup=False, soft_wrap=True)
    if factors := [over for p in predictions if (over := p.over("lightops"))]:
        screen.print(
            f"our own measured times are {min(factors):.1f} to {max(factors):.1f} times the predicted: "
            "a prediction is a floor, not an estimate",
            soft_wrap=True,
        )


def _part(name: str, part: Any) -> list[str]:
    numbers = f"{part.bytes / 1e6:.1f}", f"{part.macs / 1e9:.3f}", f"{part.ms:.4f}"
    return [name, str(part.kernels), *numbers, part.bound]


def _beside(p: Any) -> list[str]:
    ms = {name: f"{value:.3f}" for name, value in p.measured.items()}
    over = {name: f"{p.over(name):.1f}x" for name in p.measured}
    cells = (ms.get("lightops"), over.get("lightops"), ms.get("torch.compile"), over.get("torch.compile"))
    return [p.network, str(p.batch), f"{p.whole.ms:.3f}", *(c or "-" for c in (*cells, ms.get("eager NHWC")))]


def _row(k: dict[str, Any]) -> list[str]:
    tensor = "?" if k["tensor_core"] is None else str(k["tensor_core"])
    widths = " ".join(f"{count}x{name.replace(' ', '.')}" for name, count in sorted(k["global_widths"].items()))
    numbers = (k["registers"], k["spill_bytes"], k["blocks_by_registers"])
    name = re.sub(r"TileShape<(\w+), (\d+), (\d+), \d+, \d+, \d+>", r"\1 \2x\3", k["name"])
    return [name, k["arch"], *map(str, numbers), tensor, widths]
