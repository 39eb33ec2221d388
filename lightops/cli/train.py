"""`lightops train`: trains a network on real data, swapped or stock, and goes on where it stopped."""

import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from torch import nn
from tqdm import tqdm

from lightops.bench.subjects import UnknownNetwork
from lightops.cli._console import console, cores, device_or_usage_error
from lightops.train import checkpoint
from lightops.train.checkpoint import BadCheckpoint
from lightops.train.data import BadData, Data
from lightops.train.job import CHECKPOINT, Occupied, Options, Watcher, options_of, resume, run
from lightops.train.network import Unfit
from lightops.train.trainer import DTYPES, OPTIMIZERS, Diverged


@click.command()
@click.argument("network", required=False)
@click.option("--data", default="fashion", show_default=True, help="fashion, digits, or a folder of pictures.")
@click.option("--epochs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=128, show_default=True, help="Pictures per step.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="[default: sgd, without BatchNorm adamw]")
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    help="Peak of the one-cycle schedule. [default: sgd 0.1, adamw 0.001]",
)
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="fp32", show_default=True, help="bf16: autocast.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--stock", is_flag=True, help="Trains the network as it is, not swapped.")
@click.option(
    "--resolution", type=click.IntRange(min=8), help="Pixels a side. [default: the data's own; a folder: 224]"
)
@click.option("--limit", type=click.IntRange(min=2), help="Keeps so many training pictures.")
@click.option("--threads", type=click.IntRange(min=1), default=cores, help="[default: all cores]")
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that load data.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda[:n].")
@click.option("--resume", "resumed", is_flag=True, help="Goes on with the run in --out, bit for bit.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Run folder. [default: reports/train-NETWORK]"
)
@click.pass_context
def train(context: click.Context, network: str | None, resumed: bool, out: Path | None, **given: Any) -> None:
    """Trains NETWORK, its blocks swapped for the fused ones, and tests it after every epoch.

    A NETWORK is one of lightops.networks, torchvision:NAME, timm:NAME or file.py:factory. The run folder gets
    log.jsonl, checkpoint.pt (after every epoch; --resume goes on from it), weights.pt (loads into the stock network)
    and curves.png. Exit code 1 if the loss is not a number any more.
    """
    if network is None and not (resumed and out):
        raise click.UsageError("name a NETWORK, or go on with --resume --out FOLDER")
    folder = out or Path("reports") / f"train-{network.replace(':', '-').replace('/', '-')}"
    device_or_usage_error(given["device"])
    screen = console()
    watcher = _Screen(screen)
    try:
        if resumed:
            _refuse_changes(context, folder)
            log = resume(folder, watcher)
        else:
            log = run(Options(network=network, **given), folder, watcher)
    except (Occupied, BadData, BadCheckpoint, UnknownNetwork, Unfit) as error:
        raise click.UsageError(str(error)) from error
    except Diverged as error:
        raise click.ClickException(str(error)) from error
    if len(log) > 1:
        epochs = f"{len(log) - 1} epoch{'s' * (len(log) > 2)}"
        screen.print(f"test accuracy {log[-1]['test_accuracy']:.2%} after {epochs}", style="bold")
    screen.print(f"run: {folder}", markup=False)


def _refuse_changes(context: click.Context, folder: Path) -> None:
    """A continuation has the options of its run: a different one on the command line is an error."""
    options = options_of(checkpoint.load(folder / CHECKPOINT))
    for field in fields(Options):
        source = context.get_parameter_source(field.name)
        asked, had = context.params[field.name], getattr(options, field.name)
        if source is ParameterSource.COMMANDLINE and asked is not None and asked != had:
            had = "by default" if had is None else had
            raise click.UsageError(f"--resume: the run in {folder} has {field.name} {had}, not {asked}")


class _Screen(Watcher):
    """A progress bar on a terminal, a line per epoch everywhere."""

    def __init__(self, screen: Console) -> None:
        self.screen = screen
        self.bar: tqdm | None = None

    def start(self, model: nn.Module, data: Data, report: Any) -> None:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        pictures = (
            f"{len(data.train)} + {len(data.test)} pictures of {data.channels}x{data.resolution}x{data.resolution}"
        )
        fused = "stock" if report is None else f"{len(report.fused)} blocks swapped, {len(report.declined)} declined"
        self.screen.print(f"{parameters:,} parameters, {fused}; {data.name}: {pictures}", markup=False)
        for record in report.declined if report else ():
            self.screen.print(f"not swapped: {record.name}: {record.reason}", markup=False, soft_wrap=True)

    def steps(self, batches: Iterable, title: str) -> Iterable:
        self.bar = tqdm(batches, title, leave=False, file=sys.stderr, disable=not sys.stderr.isatty(), unit="step")
        return self.bar

    def loss(self, value: float) -> None:
        self.bar.set_postfix(loss=f"{value:.4f}", refresh=False)

    def epoch(self, record: dict[str, Any]) -> None:
        self.screen.print(
            f"epoch {record['epoch']}: loss {record['train_loss']:.4f}, test loss {record['test_loss']:.4f}, "
            f"test accuracy {record['test_accuracy']:.2%}, {record['images_per_s']:.0f} images/s",
            markup=False,
        )
