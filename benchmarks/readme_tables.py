"""Refreshes the tables of README.md from a report folder: `python benchmarks/readme_tables.py REPORT [--readme FILE]`.

The text between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is replaced, for NAME in medians, memory, answers and
conditions; from a report of `lightops bench --train` that between `<!-- train:NAME -->` and its end, for NAME in steps,
saved and conditions; from one with `--dtype bf16` that of `<!-- bf16:NAME -->`, for NAME in medians and conditions.
Nothing else in the file is touched; a marker without its twin is an error and nothing is written.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from lightops.bench.files import load
from lightops.bench.machine import busy, summary
from lightops.bench.report import Report
from lightops.bench.tables import LABELLED_COLUMNS, groups, matrix, number, saved_matrix, trains


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table; the first columns are text, the others numbers."""
    rule = ["---" if index < text_columns else "---:" for index in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def medians(report: Report) -> str:
    """Medians of all contestants, the fastest in bold."""
    header, lines = matrix(report)
    shown = [i for i, name in enumerate(header) if i < 3 or any(line[i] != "-" for line in lines)]
    marked = []
    for line in lines:
        times = {i: float(line[i]) for i in range(3, len(header) - 2) if line[i] != "-"}
        best = min(times, key=times.get) if times else None
        marked.append([f"**{cell}**" if i == best else cell for i, cell in enumerate(line)])
    return markdown([header[i] for i in shown], [[line[i] for i in shown] for line in marked])


def memory(report: Report) -> str:
    """Peak of activation memory and error of the torch contestants at one thread count."""
    lines = []
    for _, rows in groups(report):
        found = {row.contestant: row for row in rows}
        stock = [found[name] for name in ("torch eager NCHW", "torch eager NHWC") if name in found]
        ours = found.get("lightops")
        if not ours or not stock or ours.threads != report.settings["threads"][0] or ours.peak_mb is None:
            continue
        peaks = [row.peak_mb for row in stock]
        share = number(ours.peak_mb / min(peaks), ".0%")
        errors = [number(max(row.error for row in stock), ".1e"), number(ours.error, ".1e")]
        mb = [number(value, ".1f") for value in (*peaks, ours.peak_mb)]
        lines.append([ours.network, str(ours.batch), *mb, share, *errors])
    header = ["network", "batch", "NCHW MB", "NHWC MB", "lightops MB", "of NHWC", "error, stock", "error, lightops"]
    return markdown(header, lines)


def answers(report: Report) -> str:
    """Accuracy of stock and swapped on labelled pictures."""
    return markdown(
        list(LABELLED_COLUMNS), [[show(e) for show in LABELLED_COLUMNS.values()] for e in report.labelled], 3
    )


def conditions(report: Report) -> str:
    """Command, machine, versions, load."""
    lines = [f"`{report.conditions['command']}`", summary(report.conditions), busy(report.conditions)]
    return "\n\n".join(line for line in lines if line)


def saved(report: Report) -> str:
    """Megabytes kept for the backward pass."""
    return markdown(*saved_matrix(report))


TABLES: dict[str, dict[str, Callable[[Report], str]]] = {
    "bench": {"medians": medians, "memory": memory, "answers": answers, "conditions": conditions},
    "bf16": {"medians": medians, "conditions": conditions},
    "train": {"steps": medians, "saved": saved, "conditions": conditions},
}


def refresh(text: str, report: Report) -> str:
    """`text` with every marked part replaced; raises ValueError for a marker that is unknown or has no end."""
    kind = "train" if trains(report) else "bf16" if report.settings.get("dtype") == "bf16" else "bench"
    for name in re.findall(rf"<!-- {kind}:(\w+) -->", text):
        if name not in TABLES[kind]:
            raise ValueError(f"marker {kind}:{name} is none of {', '.join(TABLES[kind])}")
        begin, end = f"<!-- {kind}:{name} -->", f"<!-- /{kind}:{name} -->"
        head, _, rest = text.partition(begin)
        _, closing, tail = rest.partition(end)
        if not closing:
            raise ValueError(f"marker {kind}:{name} has no {end}")
        text = f"{head}{begin}\n{TABLES[kind][name](report)}\n{end}{tail}"
    return text


@click.command(help=__doc__)
@click.argument("report", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--readme", default=Path(__file__).parent.parent / "README.md", type=click.Path(path_type=Path))
def main(report: Path, readme: Path) -> None:
    """Rewrites the file in place."""
    try:
        text = refresh(readme.read_text(), load(report))
    except ValueError as error:
        raise click.ClickException(f"{readme}: {error}") from error
    readme.write_text(text)
    click.echo(f"{readme}: tables from {report}")


if __name__ == "__main__":
    main()
