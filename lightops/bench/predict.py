"""Predicted times of the networks on a GPU, by the bytes and multiply-adds of every kernel over measured ceilings,
beside the times that a record under `benchmarks/records` holds."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightops import networks
from lightops.bench.gpu_calls import calls_of
from lightops.bench.gpu_traffic import Kernel, Map
from lightops.bench.gpu_training_calls import step_of
from lightops.bench.gpu_training_traffic import outside
from lightops.bench.subjects import DEFAULT_NETWORKS as NETWORKS

__all__ = [
    "NETWORKS",
    "Ceilings",
    "Prediction",
    "Record",
    "as_json",
    "newest_record",
    "predict",
    "predict_training",
    "read_record",
]

RECORDS = Path(__file__).resolve().parents[2] / "benchmarks" / "records"
CONTESTANTS = ("lightops", "torch.compile", "eager NHWC")
RESOLUTION, ELEMENT_BYTES = 224, 2


class Ceilings(NamedTuple):
    """What bounds a kernel: an H100's memory and tensor cores as measured (a copy, an fp16 product), and the
    least time between the starts of two dependent kernels of a CUDA graph, which is assumed."""

    bytes_per_second: float = 2.95e12
    flops: float = 730e12
    kernel_seconds: float = 2e-6

    def seconds(self, kernel: Kernel) -> tuple[float, str]:
        """The time of one kernel and what bounds it."""
        return max(
            (kernel.bytes / self.bytes_per_second, "bytes"),
            (2 * kernel.macs / self.flops, "products"),
            (self.kernel_seconds, "launches"),
        )

    def assumptions(self, train: bool = False) -> list[str]:
        products = (
            "multiply-adds: those of the products; a depthwise convolution runs on the ordinary cores and counts none"
            if train
            else "multiply-adds: the op's, a 3x3 depthwise as the 80 that its tensor-core instructions take for 9"
        )
        step = (
            "a step: forward, backward and SGD with momentum under autocast; of what torch does, the casts of "
            "pictures, weights and gradients, the classifier and the optimizer, each as one launch; loss, dropout and "
            "the update of running statistics count nothing",
        )
        return [
            f"each kernel takes the longest of bytes / {self.bytes_per_second / 1e12:g} TB/s, 2 x multiply-adds / "
            f"{self.flops / 1e12:g} TFLOP/s (measured on an H100, in no record here) and "
            f"{self.kernel_seconds * 1e6:g} us (assumed), and kernels do not overlap",
            "bytes: each input, output and tensor between two kernels once, weights once a kernel; the border that "
            "tiles share and re-reads of an input by other output channels come out of L2 and count nothing",
            f"{products}; pixels and channels that overhang a tile count nothing",
            "left out: latency, tails of the grid, address arithmetic, split reductions, bank conflicts",
            *(step if train else ()),
        ]


@dataclass
class Part:
    """Kernels of one op in one network, or of the whole network: totals and the predicted time by what bounds it."""

    name: str
    kernels: int = 0
    bytes: int = 0
    macs: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"bytes": 0.0, "products": 0.0, "launches": 0.0})

    @property
    def ms(self) -> float:
        return sum(self.seconds.values()) * 1e3

    @property
    def bound(self) -> str:
        """What most of the time is bound by."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    def add(self, kernel: Kernel, ceilings: Ceilings) -> None:
        seconds, bound = ceilings.seconds(kernel)
        self.kernels += 1
        self.bytes += kernel.bytes
        self.macs += kernel.macs
        self.seconds[bound] += seconds


@dataclass
class Prediction:
    """`measured`: contestant -> milliseconds from the record, of a CUDA graph replay or of a training step."""

    network: str
    batch: int
    whole: Part
    ops: list[Part]
    measured: dict[str, float]

    def over(self, contestant: str) -> float | None:
        """The contestant's measured time over the predicted time of lightops."""
        ms = self.measured.get(contestant)
        return None if ms is None else ms / self.whole.ms


class Record(NamedTuple):
    """`path` None: there is no record, and no time is known."""

    path: Path | None
    conditions: str
    milliseconds: dict[tuple[str, int, str], float]
    training: dict[tuple[str, int, str], float]


def predict(names: Iterable[str], batches: Iterable[int], record: Record, ceilings: Ceilings) -> list[Prediction]:
    """Networks of `lightops.networks` in fp16 at 224x224."""
    predictions = []
    for name in names:
        calls = calls_of(networks.create(name).eval(), torch.zeros(1, 3, RESOLUTION, RESOLUTION))
        for batch in batches:
            kernels = [(_op(call.op), kernel) for call in calls for kernel in call.kernels(batch, ELEMENT_BYTES)]
            predictions.append(_prediction(name, batch, kernels, record.milliseconds, ceilings))
    return predictions


def predict_training(
    names: Iterable[str], batches: Iterable[int], record: Record, ceilings: Ceilings
) -> list[Prediction]:
    """Training steps of networks of `lightops.networks` in bf16 at 224x224."""
    predictions = []
    for name in names:
        step = step_of(networks.create(name), torch.zeros(1, 3, RESOLUTION, RESOLUTION))
        for batch in batches:
            kernels = [(call.op, kernel) for call in step.calls for kernel in call.kernels(batch, ELEMENT_BYTES)]
            pictures = Map(batch, 3, RESOLUTION, RESOLUTION)
            kernels += [("torch", k) for k in outside(step.parameters, pictures, step.features, step.classes)]
            predictions.append(_prediction(name, batch, kernels, record.training, ceilings))
    return predictions


def _op(name: str) -> str:
    return name.removesuffix("_out").removesuffix("_")


def _prediction(
    name: str,
    batch: int,
    kernels: list[tuple[str, Kernel]],
    times: dict[tuple[str, int, str], float],
    ceilings: Ceilings,
) -> Prediction:
    """`kernels`: each with the op it belongs to."""
    whole, ops = Part(name), {}
    for op, kernel in kernels:
        whole.add(kernel, ceilings)
        ops.setdefault(op, Part(op)).add(kernel, ceilings)
    measured = {c: ms for c in CONTESTANTS if (ms := times.get((name, batch, c))) is not None}
    return Prediction(name, batch, whole, list(ops.values()), measured)


def read_record(path: Path) -> Record:
    """The networks' times in a record that `make gpu` wrote. Raises ValueError where the file is none."""
    try:
        content = json.loads(path.read_text())
        rows = content["steps"]["networks"]["rows"]
        machine = content["machine"]
        steps = content["steps"].get("training", {}).get("rows", [])
        times = {(r["network"], r["batch"], r["contestant"]): r["graph_ms"] for r in rows if r.get("graph_ms")}
        training = {(r["network"], r["batch"], r["contestant"]): r["ms"] for r in steps if "network" in r and "ms" in r}
        conditions = f"{machine['device']}, torch {machine['versions']['torch']}, {machine['date'][:10]}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no times of networks: {type(error).__name__}: {error}") from error
    return Record(path, conditions, times, training)


def newest_record(folder: Path = RECORDS) -> Record:
    """The record with the networks' times that was written last; an empty one where there is none (an installed
    package has no records)."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_record(path))
        except ValueError:
            continue  # a record of other things
    return max(found, key=lambda r: r.path.name, default=Record(None, "", {}, {}))


def as_json(predictions: list[Prediction], record: Record, ceilings: Ceilings, train: bool = False) -> dict[str, Any]:
    return {
        "dtype": "bf16" if train else "fp16",
        "train": train,
        "resolution": RESOLUTION,
        "ceilings": ceilings._asdict(),
        "assumptions": ceilings.assumptions(train),
        "record": str(record.path) if record.path else None,
        "predictions": [
            {**asdict(p), "predicted_ms": p.whole.ms, "measured_over_predicted": {c: p.over(c) for c in p.measured}}
            for p in predictions
        ],
    }
