"""`lightops bench`: real networks on real pictures, every contestant verified, then timed in turns."""

from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from lightops.bench import machine, training
from lightops.bench.files import write
from lightops.bench.job import CONTESTANTS, DTYPES, Listener, Options, default_folder, run
from lightops.bench.report import Labelled, Report, Row
from lightops.bench.subjects import DEFAULT_NETWORKS, Subject, UnknownNetwork, factory
from lightops.bench.tables import ANSWER_COLUMNS, LABELLED_COLUMNS, columns, groups, matrix, saved_matrix, trains
from lightops.cli._console import Integers, console, cores, device_or_usage_error, table

_NAMES = list(dict.fromkeys(c.name for c in (*CONTESTANTS, *training.CONTESTANTS)))
_STYLES = {"stock": "", "other": "", "lightops": "bold green"}


@click.command()
@click.argument("networks", nargs=-1, metavar="[NETWORK]...")
@click.option("--batch", "batches", type=Integers(), help="Pictures per call. [default: 1,16; with --train 8]")
@click.option(
    "--threads", type=Integers(), default=str(cores()), help="Threads, the same for all. [default: all cores]"
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda[:n].")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="fp32", show_default=True)
@click.option("--resolution", type=click.IntRange(min=8), help="Pixels a side. [default: the network's own]")
@click.option("--compile", "compiled", is_flag=True, help="Adds torch.compile, which takes minutes to compile.")
@click.option("--train", is_flag=True, help="Times training steps and weighs what they keep.")
@click.option(
    "--winograd", type=click.Choice(["0", "2", "4"]), default="2", show_default=True, help="Tile of the 3x3s."
)
@click.option("--seconds", type=click.FloatRange(min=0), default=10.0, show_default=True, help="Time per setting.")
@click.option("--only", multiple=True, type=click.Choice(_NAMES), help="Only this contestant and us.")
@click.option(
    "--json", "as_json", is_flag=True, help="Prints the report as JSON on standard output, and nothing else there."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Report folder. [default: reports/bench-DATE]"
)
@click.pass_context
def bench(context: click.Context, networks: tuple[str, ...], as_json: bool, out: Path | None, **given) -> None:
    """Times NETWORKs stock, in other runtimes and swapped, all verified against float64 first.

    A NETWORK is one of lightops.networks, torchvision:NAME, timm:NAME or file.py:factory. By default: densenet121,
    squeezenet1_1, mobilenet_v1, mobilenet_v2. With --train a call is a training step (forward, backward, SGD).
    Exit code 1 if an answer or a gradient of the swapped network is wrong.
    """
    device_or_usage_error(given["device"])
    try:
        for name in networks:
            factory(name)
    except UnknownNetwork as error:
        raise click.UsageError(str(error)) from error
    present = [c.name for c in (training.CONTESTANTS if given["train"] else CONTESTANTS)]
    if strangers := [name for name in given["only"] if name not in present]:
        raise click.UsageError(f"--only: {strangers[0]} is none of {', '.join(present)}")
    given["batches"] = given["batches"] or ((8,) if given["train"] else (1, 16))
    given["compile"], given["winograd"] = given.pop("compiled"), int(given["winograd"])
    options = Options(networks=networks or DEFAULT_NETWORKS, **given)
    screen = console(stderr=as_json)
    try:
        report = _watched(options, screen)
    except UnknownNetwork as error:
        raise click.UsageError(str(error)) from error
    folder = out or default_folder(report)
    paths = write(report, folder)
    _finish(report, screen, paths)
    if as_json:
        click.echo(report.as_json())
    context.exit(0 if report.ok else 1)


def _watched(options: Options, screen: Console) -> Report:
    columns = (BarColumn(30), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        return run(options, _Screen(screen, progress, options.train))


class _Screen(Listener):
    """Shows a progress bar on a terminal, one line per network and setting elsewhere, tables on both."""

    def __init__(self, screen: Console, progress: Progress, train: bool) -> None:
        self.screen, self.progress, self.train = screen, progress, train
        self.bar = progress.add_task("starting", total=1.0)

    def stage(self, text: str) -> None:
        self.progress.update(self.bar, description=text)

    def advance(self, share: float) -> None:
        self.progress.update(self.bar, completed=share)

    def subject(self, subject: Subject) -> None:
        preprocess = subject.weights.preprocess.name
        size = f"{subject.resolution}x{subject.resolution}"
        self.screen.print(f"[bold]{subject.name}[/bold]: weights {subject.weights.description}; {size}; {preprocess}")

    def setting(self, rows: list[Row]) -> None:
        first = rows[0]
        plural = "s" if first.threads != 1 else ""
        _show_rows(
            self.screen, f"{first.network}, batch {first.batch}, {first.threads} thread{plural}", rows, self.train
        )


def _show_rows(screen: Console, title: str, rows: list[Row], train: bool) -> None:
    shown = columns(train)
    styles = ["bold red" if row.status in ("wrong", "failed") else _STYLES[row.family] for row in rows]
    screen.print(table(title, list(shown), [[show(row) for show in shown.values()] for row in rows], styles))
    screen.print()


def _finish(report: Report, screen: Console, paths: list[Path]) -> None:
    for entry in report.labelled:
        _show_answers(screen, entry)
    if report.labelled:
        lines = [[show(entry) for show in LABELLED_COLUMNS.values()] for entry in report.labelled]
        screen.print(table("Same answers, stock and swapped", list(LABELLED_COLUMNS), lines))
        screen.print()
    if len(list(groups(report))) > 1:
        unit = "training step" if trains(report) else "batch"
        screen.print(table(f"Medians, ms per {unit}", *matrix(report)))
        screen.print()
        if trains(report):
            screen.print(table("Kept for the backward pass, MB", *saved_matrix(report)))
            screen.print()
    screen.print(machine.summary(report.conditions), style="dim")
    for note in (machine.busy(report.conditions), *report.notes):
        if note:
            screen.print(f"note: {note}", style="yellow", markup=False)
    screen.print(f"report: {', '.join(str(path) for path in paths)}", markup=False)
    if not report.ok:
        what = "gradients" if trains(report) else "answers"
        screen.print(f"VERIFICATION FAILED: the swapped network's {what} are not stock's", style="bold red")


def _show_answers(screen: Console, entry: Labelled) -> None:
    if not entry.answers:
        return
    lines = [[show(answer) for show in ANSWER_COLUMNS.values()] for answer in entry.answers]
    shown = "" if len(lines) == entry.pictures else f", the first {len(lines)} of {entry.pictures}"
    screen.print(table(f"{entry.network} on {entry.data}{shown}", list(ANSWER_COLUMNS), lines))
    screen.print()
