"""What a run found out: rows of results, answers, and what they were measured under."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Row:
    """One contestant at one setting. Times in milliseconds; None where it was not measured, `reason` says why.

    `ratio` is the best other contestant's median over this one's: above 1 it is the fastest. `error` is the largest
    absolute error against float64, `relative` the same over the largest output. `peak_mb` are the bytes of activation
    tensors alive at once, weights and input excluded, in 10^6.

    Of a training step, `error` is the distance of all gradients from float64's over their length, `peak_mb` includes
    the gradients, and `saved_mb` are the bytes kept for the backward pass, parameters and buffers excluded.
    """

    network: str
    batch: int
    threads: int
    contestant: str
    family: str
    status: str = "ok"
    reason: str = ""
    median_ms: float | None = None
    min_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    calls: int = 0
    images_per_s: float | None = None
    ratio: float | None = None
    error: float | None = None
    relative: float | None = None
    error_limit: float | None = None
    top1: float | None = None
    peak_mb: float | None = None
    saved_mb: float | None = None


@dataclass
class Answer:
    """One picture's class by the stock and by the swapped network, with their probabilities."""

    photo: str
    label: str | None
    stock: str
    stock_p: float
    swapped: str
    swapped_p: float
    same: bool


@dataclass
class Labelled:
    """Accuracy on labelled pictures of one network, stock and swapped, and how often both name the same class."""

    network: str
    weights: str
    data: str
    pictures: int
    stock: float | None
    swapped: float | None
    agreement: float
    error_stock: float
    error_swapped: float
    ok: bool
    answers: list[Answer] = field(default_factory=list)


@dataclass
class Report:
    """Everything a run found out."""

    conditions: dict[str, Any]
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    labelled: list[Labelled] = field(default_factory=list)
    swaps: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether lightops ran and every answer of it that was checked is right."""
        ours = [row for row in self.rows if row.family == "lightops"]
        return all(row.status in ("ok", "absent") for row in ours) and all(entry.ok for entry in self.labelled)

    def as_json(self) -> str:
        """The whole report as JSON text."""
        return json.dumps(asdict(self) | {"ok": self.ok}, indent=1)


def add_ratios(rows: list[Row]) -> None:
    """Fills `ratio` of the rows of one setting from their medians."""
    timed = [row for row in rows if row.median_ms]
    for row in timed:
        others = [other.median_ms for other in timed if other is not row]
        row.ratio = min(others) / row.median_ms if others else None
