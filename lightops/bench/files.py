"""The files of a report folder: JSON, which is read back, CSV, plot and one-page summary."""

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path

from lightops.bench.html import write_html
from lightops.bench.plots import plot_medians
from lightops.bench.report import Answer, Labelled, Report, Row


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
