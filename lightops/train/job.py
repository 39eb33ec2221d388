"""A run with a folder: log.jsonl, checkpoint.pt, weights.pt and curves.png."""

import random
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightops.bench import machine
from lightops.train import checkpoint
from lightops.train.curves import plot_curves
from lightops.train.data import Data, load
from lightops.train.network import make
from lightops.train.trainer import Listener, Settings, Trainer

CHECKPOINT, LOG, WEIGHTS, CURVES = "checkpoint.pt", "log.jsonl", "weights.pt", "curves.png"


class Occupied(ValueError):
    """The folder already holds a run."""


@dataclass(frozen=True)
class Options:
    """What to train. `limit` keeps so many training pictures; `stock` leaves the network as it is."""

    network: str
    data: str = "fashion"
    epochs: int = 5
    batch: int = 128
    optimizer: str | None = None
    lr: float | None = None
    dtype: str = "fp32"
    seed: int = 0
    stock: bool = False
    resolution: int | None = None
    limit: int | None = None
    threads: int = 1
    workers: int = 0
    device: str = "cpu"

    def settings(self) -> Settings:
        """The part that a `Trainer` takes."""
        return Settings(**{field.name: getattr(self, field.name) for field in fields(Settings)})


class Watcher(Listener):
    """A `Listener` that is also told about the run."""

    def start(self, model: nn.Module, data: Data, report: Any) -> None:
        """The network is ready; `report` is the swap's, None for a stock network."""

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done and saved."""


def run(options: Options, folder: Path, watcher: Watcher | None = None) -> list[dict[str, Any]]:
    """Trains from the start and returns the log.

    Raises `Occupied`, `BadData`, `UnknownNetwork`, `Unfit` or `Diverged`.
    """
    if (folder / CHECKPOINT).exists():
        raise Occupied(f"{folder} holds a run already: --resume goes on with it, --out names another folder")
    return _run(options, folder, None, watcher or Watcher())


def resume(folder: Path, watcher: Watcher | None = None) -> list[dict[str, Any]]:
    """Goes on with the run in `folder` from its last whole epoch, as if it had never stopped; returns the whole log."""
    state = checkpoint.load(folder / CHECKPOINT)
    return _run(options_of(state), folder, state, watcher or Watcher())


def options_of(state: dict[str, Any]) -> Options:
    """The options of a checkpoint."""
    return Options(**state["log"][0]["options"])


def _run(options: Options, folder: Path, state: dict[str, Any] | None, watcher: Watcher) -> list[dict[str, Any]]:
    # The caller's generators and thread count are given back: a run in a notebook or a test leaves no trace.
    threads, python = torch.get_num_threads(), random.getstate()
    torch.set_num_threads(options.threads)
    try:
        with torch.random.fork_rng():
            return _train(options, folder, state, watcher)
    finally:
        torch.set_num_threads(threads)
        random.setstate(python)


def _train(options: Options, folder: Path, state: dict[str, Any] | None, watcher: Watcher) -> list[dict[str, Any]]:
    data = load(options.data, options.resolution).limited(options.limit)
    torch.manual_seed(options.seed)
    model = make(options.network, data)
    report = None if options.stock else swap(model)
    trainer = Trainer(model, data, options.settings(), watcher)
    watcher.start(model, data, report)
    if state is None:
        log = [_first_record(options, trainer, report)]
    else:
        log = state["log"]
        trainer.load(state)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_log(log, folder / LOG)
    while trainer.epoch < options.epochs:
        record = trainer.train_epoch() | trainer.test()
        log.append(record)
        checkpoint.save(trainer.state() | {"log": log}, folder / CHECKPOINT)
        checkpoint.write_log(log, folder / LOG)
        watcher.epoch(record)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    torch.save(weights, folder / WEIGHTS)
    plot_curves(log, folder / CURVES)
    return log


def swap(model: nn.Module) -> Any:
    """`lightops.swap_`, in training mode too; returns its report."""
    from lightops.swap import swap_

    return swap_(model)


def _first_record(options: Options, trainer: Trainer, report: Any) -> dict[str, Any]:
    return {
        "options": asdict(options),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "optimizer": type(trainer.optimizer).__name__,
        "max_lr": trainer.lr,
        "pictures": [len(trainer.data.train), len(trainer.data.test)],
        "fused": 0 if report is None else len(report.fused),
        "declined": [] if report is None else [f"{record.name}: {record.reason}" for record in report.declined],
        "conditions": machine.conditions(trainer.device),
    }
