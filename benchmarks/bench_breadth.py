"""Breadth: `lightops.swap_` on networks of torchvision and timm that it was not tuned for, one row a network.

Each network has random weights and the BatchNorm statistics of photographs. Stock and swapped run in both layouts, in
turns, in one process. `ratio` is the faster stock layout over swapped channels_last, `NCHW ratio` stock over swapped,
both contiguous: below 1 lightops loses. Errors are the largest absolute ones against float64, `error` lightops' larger
one over stock's larger one. Detection networks run up to their head, without boxes.
"""

import copy
import inspect
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from common import append, timed
from torch import Tensor, nn

from lightops.bench import machine
from lightops.bench.contestants import swap
from lightops.bench.photos import TORCHVISION_PREPROCESS, imagenet_photos, make_batch
from lightops.bench.runner import interleave
from lightops.bench.subjects import UnknownNetwork, load_network
from lightops.bench.weights import calibrate
from lightops.cli._console import Integers, console
from lightops.swap import SwapReport, swap_

_TORCHVISION = """
    densenet121 densenet161 densenet169 densenet201 squeezenet1_0 squeezenet1_1 mobilenet_v2 mobilenet_v3_small
    mobilenet_v3_large mnasnet0_5 mnasnet1_0 mnasnet1_3 efficientnet_b0 efficientnet_v2_s regnet_x_400mf regnet_y_400mf
    resnet18 resnet50 googlenet inception_v3 shufflenet_v2_x1_0 convnext_tiny vgg11_bn deeplabv3_mobilenet_v3_large
    lraspp_mobilenet_v3_large ssdlite320_mobilenet_v3_large fasterrcnn_mobilenet_v3_large_320_fpn
"""
_TIMM = """
    densenet121 densenetblur121d mobilenetv1_100 mobilenetv2_100 mobilenetv3_large_100 mobilenetv4_conv_small
    mnasnet_100 semnasnet_075 efficientnet_b0 efficientnet_lite0 tf_efficientnet_lite0 efficientnet_es
    efficientnet_cc_b0_4e tinynet_a tinynet_e mixnet_s fbnetc_100 fbnetv3_b spnasnet_100 ghostnet_100 ghostnetv3_050
    hardcorenas_a lcnet_050 lcnet_100 regnetx_002 regnety_002 resnet18 resnet18d resnet50 resnetv2_50 vovnet39a
    ese_vovnet19b_slim_dw dla34 hrnet_w18_small cs3darknet_s dpn48b mobilevit_xxs mobilevitv2_050 repvgg_a0 mobileone_s0
    repvit_m0_9 rexnet_100 selecsls42b res2net50_14w_8s xception41 gernet_s starnet_s1 efficientvit_m0 edgenext_xx_small
    skresnet18 hgnetv2_b0 nf_regnet_b0
"""
NETWORKS = (
    *(f"torchvision:{name}" for name in _TORCHVISION.split()),
    *(f"timm:{name}" for name in _TIMM.split()),
    "mobilenet_v1",
    "preact_resnet50",
)
_LAYOUTS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}


@dataclass
class Row:
    """One network at one setting: the least milliseconds of a call."""

    network: str
    batch: int
    threads: int
    stock_nhwc_ms: float
    stock_nchw_ms: float
    swapped_nhwc_ms: float
    swapped_nchw_ms: float
    error_stock: float
    error_swapped: float
    fused: int
    declined: int

    @property
    def ratio(self) -> float:
        return min(self.stock_nhwc_ms, self.stock_nchw_ms) / self.swapped_nhwc_ms

    @property
    def ratio_nchw(self) -> float:
        return self.stock_nchw_ms / self.swapped_nchw_ms

    @property
    def error_ratio(self) -> float:
        return self.error_swapped / self.error_stock if self.error_stock else float("nan")


COLUMNS: dict[str, Callable[[Row], str]] = {
    f"{'network':42}": lambda r: f"{r.network:42}",
    "batch": lambda r: str(r.batch),
    "threads": lambda r: str(r.threads),
    "stock NHWC": lambda r: f"{r.stock_nhwc_ms:.2f}",
    "stock NCHW": lambda r: f"{r.stock_nchw_ms:.2f}",
    "swapped": lambda r: f"{r.swapped_nhwc_ms:.2f}",
    "ratio": lambda r: f"{r.ratio:.2f}",
    "swapped NCHW": lambda r: f"{r.swapped_nchw_ms:.2f}",
    "NCHW ratio": lambda r: f"{r.ratio_nchw:.2f}",
    "error": lambda r: f"{r.error_ratio:.2f}",
    "fused": lambda r: str(r.fused),
    "declined": lambda r: str(r.declined),
}


class Detector(nn.Module):
    """A detection network without what follows its convolutions: maps of features, and what its head says of them."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone = model.backbone
        self.head = getattr(model, "head", None) or model.rpn.head

    def forward(self, x: Tensor) -> Any:
        maps = list(self.backbone(x).values())
        return maps, self.head(maps)


@dataclass
class Subject:
    """A calibrated network and its photographs."""

    name: str
    model: nn.Module
    images: Tensor


def answers(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return list(_tensors(model(x)))


def _tensors(answer: Any) -> Iterator[Tensor]:
    if isinstance(answer, Tensor):
        yield answer.double()
    elif isinstance(answer, dict):
        yield from _tensors(list(answer.values()))
    elif isinstance(answer, list | tuple):
        for part in answer:
            yield from _tensors(part)


def load(name: str, resolution: int, batch: int) -> Subject:
    """The network with the BatchNorm statistics of photographs."""
    photos, _ = imagenet_photos()
    model = load_network(name)
    if "targets" in inspect.signature(model.forward).parameters:
        model = Detector(model)
    images = make_batch(photos, max(batch, 16), TORCHVISION_PREPROCESS, resolution)
    calibrate(model, images[:16])
    return Subject(name, model, images)


def measure(subject: Subject, batch: tuple[int, ...], threads: tuple[int, ...], seconds: float) -> Iterator[Row]:
    """The rows of one network. Errors are those of two photographs."""
    exact = answers(copy.deepcopy(subject.model).double(), subject.images[:2].double())
    models: dict[str, nn.Module] = {}
    errors: dict[str, float] = {}
    report = SwapReport()
    for layout, form in _LAYOUTS.items():
        for kind in ("stock", "swapped"):
            model = copy.deepcopy(subject.model).to(memory_format=form)
            if kind == "swapped":
                report = swap(model)
            got = answers(model, subject.images[:2].contiguous(memory_format=form))
            worst = max((a - b).abs().max().item() for a, b in zip(got, exact, strict=True))
            errors[kind] = max(errors.get(kind, 0.0), worst)
            models[f"{kind} {layout}"] = model
    for count in threads:
        torch.set_num_threads(count)
        for size in batch:
            calls = {
                name: timed(model, subject.images[:size].contiguous(memory_format=_LAYOUTS[name.split()[1]]))
                for name, model in models.items()
            }
            best = {name: timing.minimum * 1e3 for name, timing in interleave(calls, seconds).items()}
            yield Row(
                subject.name,
                size,
                count,
                *(best[name] for name in ("stock NHWC", "stock NCHW", "swapped NHWC", "swapped NCHW")),
                errors["stock"],
                errors["swapped"],
                len(report.fused),
                len(report.declined),
            )


def block_times(subject: Subject, batch: int) -> SwapReport:
    """The report of `swap_(model, example)`: each block's own time, stock and fused."""
    model = copy.deepcopy(subject.model).to(memory_format=torch.channels_last)
    return swap_(model, subject.images[:batch].contiguous(memory_format=torch.channels_last))


@click.command(help=__doc__)
@click.argument("networks", nargs=-1)
@click.option("--batch", type=Integers(), default="1", show_default=True)
@click.option("--threads", type=Integers(), default="1", show_default=True)
@click.option("--resolution", default=224, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="Time per network and setting.")
@click.option("--blocks", is_flag=True, help="Also each block's own time, stock and fused.")
@click.option("--csv", "path", default="reports/breadth.csv", show_default=True, type=click.Path(path_type=Path))
def command(
    networks: tuple[str, ...],
    batch: tuple[int, ...],
    threads: tuple[int, ...],
    resolution: int,
    seconds: float,
    blocks: bool,
    path: Path,
) -> None:
    """Measures the networks, `NETWORKS` without an argument; a row appears as soon as it is there."""
    screen = console()
    state = machine.conditions(torch.device("cpu"))
    screen.print(f"milliseconds of a call at {resolution}x{resolution}, minima; {machine.summary(state)}", style="dim")
    click.echo("  ".join(COLUMNS))
    rows: list[Row] = []
    for name in networks or NETWORKS:
        try:
            subject = load(name, resolution, max(batch))
        except (UnknownNetwork, RuntimeError) as reason:  # too small a picture, a missing extra
            screen.print(f"{name}: {reason}", style="yellow", markup=False, soft_wrap=True)
            continue
        for row in measure(subject, batch, threads, seconds):
            click.echo("  ".join(show(row).rjust(len(title)) for title, show in COLUMNS.items()))
            append(path, [row], state)
            rows.append(row)
        if blocks:
            click.echo(f"{block_times(subject, max(batch))}\n")
    if rows:
        medians = [statistics.median(values) for values in ([r.ratio for r in rows], [r.ratio_nchw for r in rows])]
        click.echo(f"median of {len(rows)}: ratio {medians[0]:.2f}, NCHW ratio {medians[1]:.2f}")
    screen.print(f"appended to {path}; {machine.busy(state) or 'the machine was idle'}", style="dim")


if __name__ == "__main__":
    command()
