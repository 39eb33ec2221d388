"""What the papers argue, small but real: DenseNet's growth rate and depth, SqueezeNet's squeeze ratio, share of 3x3
filters and bypass, MobileNet's width and resolution, and pre- against post-activation.

    python benchmarks/experiments/papers.py

trains every network of the table below, swapped, on a part of Fashion-MNIST and writes results.json and the plots
beside this file. A run that is in results.json with the same settings is not trained again, so an interrupted command
goes on where it was.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from plots import draw
from tqdm import tqdm

from lightops import networks
from lightops.bench import machine
from lightops.networks import SqueezeNet, count
from lightops.train.data import Data, load
from lightops.train.job import swap
from lightops.train.trainer import Settings, Trainer

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Configuration:
    """One network: `x` is what its experiment varies, `series` the curve that it lies on."""

    experiment: str
    series: str
    x: float | str
    network: str
    arguments: dict[str, Any] = field(default_factory=dict)
    resolution: int = 28
    lr: float | None = None


def configurations() -> Iterator[Configuration]:
    """The table."""
    # arXiv:1608.06993: error falls with depth and with growth rate, and few parameters go a long way.
    for growth in (4, 8, 12):
        for depth in (16, 28, 40):
            given = {"depth": depth, "growth_rate": growth, "stem_stride": 2}
            yield Configuration("densenet", f"k = {growth}", depth, "densenet_cifar", given)
    # arXiv:1602.07360 section 5: the paper's sweeps, at a quarter and less of its filters.
    small = {"base_e": 32, "incr_e": 16, "version": "1_1", "dropout": 0.0, "small_input": True}
    for ratio in (0.125, 0.25, 0.5, 0.75, 1.0):
        given = small | {"squeeze_ratio": ratio}
        yield Configuration("squeeze_ratio", "half of the filters 3x3", ratio, "squeezenet", given, 20, 3e-3)
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        given = small | {"squeeze_ratio": 0.5, "pct_3x3": share}
        yield Configuration("share_of_3x3", "squeeze ratio 0.5", share, "squeezenet", given, 20, 3e-3)
    # Section 6: bypasses around the fire modules.
    for bypass in (None, "simple", "complex"):
        given = small | {"bypass": bypass}
        yield Configuration("bypass", "squeeze ratio 0.125", bypass or "none", "squeezenet", given, 20, 3e-3)
    # arXiv:1704.04861: width (alpha) and resolution (rho) trade accuracy for multiply-adds.
    for width in (0.25, 0.5, 0.75, 1.0):
        given = {"width_mult": width, "shallow": True, "small_input": True}
        yield Configuration("width", "28x28", width, "mobilenet_v1", given)
    for side in (12, 16, 20, 28):
        given = {"width_mult": 0.5, "shallow": True, "small_input": True}
        yield Configuration("resolution", "alpha = 0.5", side, "mobilenet_v1", given, side)
    # arXiv:1603.05027: with the activation before the convolution depth keeps paying.
    for order in ("pre", "post"):
        for depth in (20, 32, 56):
            given = {"depth": depth, "block": "basic", "activation_order": order}
            yield Configuration("activation", f"{order}-activation", depth, "preact_resnet", given, 10)


def train(configuration: Configuration, data: Data, settings: Settings) -> dict[str, Any]:
    """Trains one configuration and returns its record."""
    torch.manual_seed(settings.seed)
    given = configuration.arguments | {"num_classes": len(data.classes), "in_channels": 1}
    model = networks.create(configuration.network, **given)
    if isinstance(model, SqueezeNet):
        # A ReLU lies on the logits: from 0 half of the classes start dead and few of them are back within these epochs.
        torch.nn.init.ones_(model.classifier[1].bias)
    counted = count(model, (1, data.resolution, data.resolution))
    report = swap(model)
    trainer = Trainer(model, data, settings)
    started = time.perf_counter()
    for _ in range(settings.epochs):
        last = trainer.train_epoch()
    tested = trainer.test()
    return {
        "seed": settings.seed,
        "optimizer": type(trainer.optimizer).__name__,
        "lr": trainer.lr,
        "parameters": counted.parameters,
        "multiply_adds": counted.multiply_adds,
        "fused": len(report.fused),
        "train_loss": round(last["train_loss"], 4),
        "test_loss": round(tested["test_loss"], 4),
        "test_error": round(1 - tested["test_accuracy"], 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def identity(record: dict[str, Any]) -> str:
    """What tells one run from another: configuration, seed and settings."""
    return json.dumps([record["configuration"], record["seed"], record["settings"]], sort_keys=True)


@click.command(help=__doc__)
@click.option("--data", "source", default="fashion", show_default=True, help="fashion or digits.")
@click.option("--train", "pictures", default=4000, show_default=True, help="Training pictures.")
@click.option("--test", "tests", default=10000, show_default=True, help="Test pictures.")
@click.option("--epochs", default=5, show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--seeds", default=5, show_default=True, help="0, 1, ...: all networks with the first, then the second.")
@click.option("--threads", default=1, show_default=True)
@click.option("--only", multiple=True, help="Only these experiments.")
@click.option("--out", default=HERE, type=click.Path(file_okay=False, path_type=Path), help="Folder of the results.")
def main(
    source: str,
    pictures: int,
    tests: int,
    epochs: int,
    batch: int,
    seeds: int,
    threads: int,
    only: tuple[str, ...],
    out: Path,
) -> None:
    """Trains what is missing and draws."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {"runs": []}
    known = {identity(run) for run in results["runs"]}
    settings = {"data": source, "train": pictures, "test": tests, "epochs": epochs, "batch": batch, "dtype": "fp32"}
    table = [c for c in configurations() if not only or c.experiment in only]
    todo = [(seed, c) for seed in range(seeds) for c in table]
    state = machine.conditions(torch.device("cpu"))
    typed = machine.command("python", "benchmarks/experiments/papers.py", *sys.argv[1:])
    conditions = {"command": typed, "threads": threads}
    conditions |= {name: state[name] for name in ("device", "isa", "lightops", "versions", "date")}
    for seed, configuration in tqdm(todo, unit="run"):
        record = {"configuration": asdict(configuration), "settings": settings, "seed": seed}
        if identity(record) in known:
            continue
        data = load(source, configuration.resolution).limited(pictures, tests)
        record |= train(configuration, data, Settings(epochs, batch, lr=configuration.lr, seed=seed))
        results["runs"].append(record)
        results["conditions"] = conditions
        path.write_text(json.dumps(results, indent=1) + "\n")
        tqdm.write(f"{configuration.experiment} {configuration.series} {configuration.x}: {record['test_error']:.2%}")
    drawn = draw([run for run in results["runs"] if run["settings"] == settings], out)
    click.echo(f"{path}, {', '.join(p.name for p in drawn)}")


if __name__ == "__main__":
    main()
