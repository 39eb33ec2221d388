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
from lightops.bench.gpu_traffic import Kernel
from lightops.bench.subjects import DEFAULT_NETWORKS as NETWORKS

__all__ = ["NETWORKS", "Ceilings", "Prediction", "Record", "as_json", "newest_record", "predict", "read_record"]

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

    def assumptions(self) -> list[str]:
        return [
            f"each kernel takes the longest of bytes / {self.bytes_per_second / 1e12:g} TB/s, 2 x multiply-adds / "
            f"{self.flops / 1e12:g} TFLOP/s (measured on an H100, in no record here) and "
            f"{self.kernel_seconds * 1e6:g} us (assumed), and kernels do not overlap",
            "bytes: each input, output and tensor between two kernels once, weights once a kernel; the border that "
            "tiles share and re-reads of an input by other output channels come out of L2 and count nothing",
            "multiply-adds: those of the op, a 3x3 depthwise as the 80 that its tensor-core instructions take for 9; "
            "pixels and channels that overhang a tile count nothing",
            "left out: latency, tails of the grid, address arithmetic, split reductions, bank conflicts",
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
    """`measured`: contestant -> milliseconds of a CUDA graph replay, from the record."""

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


def predict(names: Iterable[str], batches: Iterable[int], record: Record, ceilings: Ceilings) -> list[Prediction]:
    """Networks of `lightops.networks` in fp16 at 224x224."""
    predictions = []
    for name in names:
        calls = calls_of(networks.create(name).eval(), torch.zeros(1, 3, RESOLUTION, RESOLUTION))
        for batch in batches:
            whole, ops = Part(name), {}
            for call in calls:
                op = call.op.removesuffix("_out").removesuffix("_")
                for kernel in call.kernels(batch, ELEMENT_BYTES):
                    whole.add(kernel, ceilings)
                    ops.setdefault(op, Part(op)).add(kernel, ceilings)
            times = {c: record.milliseconds.get((name, batch, c)) for c in CONTESTANTS}
            measured = {c: ms for c, ms in times.items() if ms is not None}
            predictions.append(Prediction(name, batch, whole, list(ops.values()), measured))
    return predictions


def read_record(path: Path) -> Record:
    """The networks' times in a record that `make gpu` wrote. Raises ValueError where the file is none."""
    try:
        content = json.loads(path.read_text())
        rows = content["steps"]["networks"]["rows"]
        machine = content["machine"]
        times = {(r["network"], r["batch"], r["contestant"]): r["graph_ms"] for r in rows if r.get("graph_ms")}
        conditions = f"{machine['device']}, torch {machine['versions']['torch']}, {machine['date'][:10]}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no times of networks: {type(error).__name__}: {error}") from error
    return Record(path, conditions, times)


def newest_record(folder: Path = RECORDS) -> Record:
    """The record with the networks' times that was written last; an empty one where there is none (an installed
    package has no records)."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_record(path))
        except ValueError:
            continue  # a record of other things
    return max(found, key=lambda r: r.path.name, default=Record(None, "", {}))


def as_json(predictions: list[Prediction], record: Record, ceilings: Ceilings) -> dict[str, Any]:
    return {
        "dtype": "fp16",
        "resolution": RESOLUTION,
        "ceilings": ceilings._asdict(),
        "assumptions": ceilings.assumptions(),
        "record": str(record.path) if record.path else None,
        "predictions": [
            {**asdict(p), "predicted_ms": p.whole.ms, "measured_over_predicted": {c: p.over(c) for c in p.measured}}
            for p in predictions
        ],
    }
