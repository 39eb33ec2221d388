"""The columns of the result tables, once for the screen, the HTML page and the README."""

from collections.abc import Callable, Iterable

from lightops.bench.report import Answer, Labelled, Report, Row


def number(value: float | None, form: str) -> str:
    """The value in this format, "-" for None."""
    return "-" if value is None else format(value, form)


COLUMNS: dict[str, Callable[[Row], str]] = {
    "contestant": lambda row: row.contestant,
    "median ms": lambda row: number(row.median_ms, ".2f"),
    "min ms": lambda row: number(row.min_ms, ".2f"),
    "10-90%": lambda row: "-" if row.p10_ms is None else f"{row.p10_ms:.2f}-{row.p90_ms:.2f}",
    "images/s": lambda row: number(row.images_per_s, ".0f"),
    "x best other": lambda row: number(row.ratio, ".2f"),
    "max error": lambda row: number(row.error, ".1e"),
    "rel. error": lambda row: number(row.relative, ".1e"),
    "top-1 same": lambda row: number(row.top1, ".0%"),
    "peak MB": lambda row: number(row.peak_mb, ".1f"),
    "": lambda row: row.reason,
}


TRAIN_COLUMNS: dict[str, Callable[[Row], str]] = {
    "contestant": lambda row: row.contestant,
    "median ms": lambda row: number(row.median_ms, ".1f"),
    "min ms": lambda row: number(row.min_ms, ".1f"),
    "10-90%": lambda row: "-" if row.p10_ms is None else f"{row.p10_ms:.1f}-{row.p90_ms:.1f}",
    "images/s": lambda row: number(row.images_per_s, ".1f"),
    "x best other": lambda row: number(row.ratio, ".2f"),
    "saved MB": lambda row: number(row.saved_mb, ".1f"),
    "peak MB": lambda row: number(row.peak_mb, ".1f"),
    "gradient error": lambda row: number(row.error, ".1e"),
    "": lambda row: row.reason,
}


def trains(report: Report) -> bool:
    """Whether the report is of training steps."""
    return bool(report.settings.get("train"))


def columns(train: bool) -> dict[str, Callable[[Row], str]]:
    """The columns of one setting's table."""
    return TRAIN_COLUMNS if train else COLUMNS


def groups(report: Report) -> Iterable[tuple[str, list[Row]]]:
    """The rows of each setting under a title that names it."""
    keys = dict.fromkeys((row.network, row.batch, row.threads) for row in report.rows)
    for network, batch, threads in keys:
        rows = [row for row in report.rows if (row.network, row.batch, row.threads) == (network, batch, threads)]
        plural = "s" if threads != 1 else ""
        yield f"{network}, batch {batch}, {threads} thread{plural}, {report.settings['dtype']}", rows


LABELLED_COLUMNS: dict[str, Callable[[Labelled], str]] = {
    "network": lambda e: e.network,
    "weights": lambda e: e.weights,
    "pictures": lambda e: f"{e.pictures} {e.data}",
    "correct, stock": lambda e: number(e.stock, ".2%"),
    "correct, swapped": lambda e: number(e.swapped, ".2%"),
    "same class": lambda e: number(e.agreement, ".2%"),
    "error, stock": lambda e: number(e.error_stock, ".1e"),
    "error, swapped": lambda e: number(e.error_swapped, ".1e"),
}


ANSWER_COLUMNS: dict[str, Callable[[Answer], str]] = {
    "picture": lambda a: a.photo,
    "label": lambda a: a.label or "-",
    "stock says": lambda a: f"{a.stock} {a.stock_p:.3f}",
    "swapped says": lambda a: f"{a.swapped} {a.swapped_p:.3f}",
    "same": lambda a: "yes" if a.same else "NO",
}


def matrix(report: Report) -> tuple[list[str], list[list[str]]]:
    """One line per setting: each contestant's median, then lightops against the best other and eager NHWC."""
    names = list(dict.fromkeys(row.contestant for row in report.rows))
    header = ["network", "batch", "threads", *names, "vs best other", "vs eager NHWC"]
    lines = []
    for _, rows in groups(report):
        medians = {row.contestant: row.median_ms for row in rows}
        ratio = next((row.ratio for row in rows if row.contestant == "lightops"), None)
        cells = [number(medians.get(name), ".1f") for name in names]
        tail = [f"{ratio:.2f}x" if ratio else "-", _against_eager(medians)]
        lines.append([*_setting(rows), *cells, *tail])
    return header, lines


def saved_matrix(report: Report) -> tuple[list[str], list[list[str]]]:
    """One line per setting: the megabytes that each contestant keeps for the backward pass, and eager NHWC's share."""
    names = list(dict.fromkeys(row.contestant for row in report.rows))
    lines = []
    for _, rows in groups(report):
        saved = {row.contestant: row.saved_mb for row in rows}
        lines.append([*_setting(rows), *(number(saved.get(name), ".1f") for name in names), _against_eager(saved)])
    return ["network", "batch", "threads", *names, "eager NHWC / lightops"], lines


def _setting(rows: list[Row]) -> list[str]:
    return [rows[0].network, str(rows[0].batch), str(rows[0].threads)]


def _against_eager(values: dict[str, float | None]) -> str:
    ours, eager = values.get("lightops"), values.get("torch eager NHWC")
    return f"{eager / ours:.2f}x" if ours and eager else "-"
