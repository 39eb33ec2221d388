"""Rows of results and the files they go to: CSV, JSON, plot and one-page summary."""

import csv
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
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


def load(folder: Path) -> Report:
    """Reads a report folder's `bench.json` back."""
    data = json.loads((folder / "bench.json").read_text())
    labelled = [
        Labelled(**(entry | {"answers": [Answer(**a) for a in entry["answers"]]})) for entry in data["labelled"]
    ]
    known = {f.name for f in fields(Report)} - {"rows", "labelled"}
    rest = {name: value for name, value in data.items() if name in known}
    return Report(rows=[Row(**row) for row in data["rows"]], labelled=labelled, **rest)


def write(report: Report, folder: Path) -> list[Path]:
    """Writes `bench.json`, `bench.csv`, `bench.png` (with matplotlib) and `index.html`; returns the paths."""
    from lightops.bench.html import write_html
    from lightops.bench.plots import plot_medians

    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "bench.json", folder / "bench.csv"]
    written[0].write_text(report.as_json())
    _write_csv(report, written[1])
    plot = plot_medians(report, folder / "bench.png")
    if plot is None:
        report.notes.append("no plot: matplotlib is not installed")
    else:
        written.append(plot)
    written.append(write_html(report, folder / "index.html", plot))
    return written


def _write_csv(report: Report, path: Path) -> None:
    state = report.conditions
    constant = {"date": state["date"], "device": state["device"], "lightops": state["lightops"], "isa": state["isa"]}
    constant |= {"torch": state["versions"].get("torch", ""), "dtype": report.settings["dtype"]}
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, [*constant, *(f.name for f in fields(Row))])
        writer.writeheader()
        writer.writerows(constant | asdict(row) for row in report.rows)
