"""The one-page summary: everything in one file, the plot embedded."""

import base64
from html import escape
from pathlib import Path

from lightops.bench.machine import busy, summary
from lightops.bench.report import Labelled, Report
from lightops.bench.tables import ANSWER_COLUMNS, LABELLED_COLUMNS, columns, groups, matrix, saved_matrix, trains

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
th:first-child, td:first-child, td.text { text-align: left }
tr.lightops { font-weight: 600; background: #fbeef0 } tr.wrong td { color: #b00020 }
.note { color: #666 } .bad { color: #b00020; font-weight: 600 } img { max-width: 100% }
"""


def write_html(report: Report, path: Path, plot: Path | None) -> Path:
    """Writes the page and returns its path."""
    what = "gradients" if trains(report) else "answers"
    verdict = f"all {what} verified" if report.ok else '<span class="bad">verification failed, see below</span>'
    parts = [f"<h1>lightops bench</h1><p>{verdict}. <code>{escape(report.conditions['command'])}</code></p>"]
    parts.append(f'<p class="note">{escape(summary(report.conditions))}</p>')
    parts += [f'<p class="note">{escape(note)}</p>' for note in (busy(report.conditions), *report.notes) if note]
    header, lines = matrix(report)
    parts.append(f"<h2>Medians, ms per {'training step' if trains(report) else 'batch'}</h2>" + _table(header, lines))
    if trains(report):
        parts.append("<h2>Kept for the backward pass, MB</h2>" + _table(*saved_matrix(report)))
    if plot is not None:
        image = base64.b64encode(plot.read_bytes()).decode()
        parts.append(f'<img alt="medians with spread" src="data:image/png;base64,{image}">')
    if report.labelled:
        cells = [[show(entry) for show in LABELLED_COLUMNS.values()] for entry in report.labelled]
        parts.append("<h2>Same answers</h2>" + _table(list(LABELLED_COLUMNS), cells))
        parts += [_answers(entry) for entry in report.labelled if entry.answers]
    parts.append("<h2>Every setting</h2>")
    for title, rows in groups(report):
        shown = columns(trains(report))
        cells = [[show(row) for show in shown.values()] for row in rows]
        classes = ["wrong" if row.status == "wrong" else row.family for row in rows]
        parts.append(f"<h3>{escape(title)}</h3>" + _table(list(shown), cells, classes))
    parts += [
        f"<h3>{escape(name)}: what was swapped</h3><pre>{escape(text)}</pre>" for name, text in report.swaps.items()
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>lightops bench</title><style>{_STYLE}</style>'
    path.write_text(head + "\n".join(parts) + "</html>\n", encoding="utf-8")
    return path


def _answers(entry: Labelled) -> str:
    cells = [[show(answer) for show in ANSWER_COLUMNS.values()] for answer in entry.answers]
    return f"<h3>{escape(entry.network)} on photographs</h3>" + _table(list(ANSWER_COLUMNS), cells)


def _table(header: list[str], lines: list[list[str]], classes: list[str] | None = None) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = ""
    for index, line in enumerate(lines):
        kind = f' class="{classes[index]}"' if classes else ""
        body += f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"
