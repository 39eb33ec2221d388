"""The bar plot: medians with their 10th to 90th percentile, one panel per network, batch and thread count.

Of training steps there is a second panel beside each: the megabytes kept for the backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lightops.bench.report import Report, Row
from lightops.bench.tables import trains

_COLOURS = {"stock": "#b8b8b8", "other": "#7f9fc4", "lightops": "#d1495b"}


def plot_medians(report: Report, path: Path) -> Path | None:
    """Draws the report into a PNG and returns its path; None without matplotlib or without a single time."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    panels: dict[tuple[str, int, int], list[Row]] = {}
    for row in report.rows:
        if row.median_ms is not None:
            panels.setdefault((row.network, row.batch, row.threads), []).append(row)
    if not panels:
        return None
    values = (_TIME, _SAVED) if trains(report) else (_TIME,)
    columns = len(values) * min(len(panels), len({key[1:] for key in panels}))
    lines = -(-len(panels) * len(values) // columns)
    size = (5.2 * columns, 0.6 + 2.1 * lines)
    figure, axes = pyplot.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    bars = [(value, key, rows) for key, rows in panels.items() for value in values]
    for axis in axes.flat[len(bars) :]:
        axis.set_axis_off()
    for axis, (value, key, rows) in zip(axes.flat, bars, strict=False):
        _draw(axis, value, key, rows)
    state = report.conditions
    unit = "training step" if trains(report) else "batch"
    figure.suptitle(
        f"ms per {unit}, median with 10-90% spread; {state['device']}, {report.settings['dtype']}", fontsize=9
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _draw(axis: object, value: "_Value", key: tuple[str, int, int], rows: list[Row]) -> None:
    network, batch, threads = key
    names = [row.contestant for row in rows]
    middle, low, high = zip(*(value.of(row) for row in rows), strict=True)
    spread = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
    axis.barh(names, middle, xerr=spread, color=[_COLOURS[row.family] for row in rows], ecolor="#444444", capsize=2)
    axis.invert_yaxis()
    axis.set_title(f"{network}, batch {batch}, {threads} thread{'s' if threads != 1 else ''}{value.title}", fontsize=9)
    axis.tick_params(labelsize=8)
    for position, (shown, end) in enumerate(zip(middle, high, strict=True)):
        axis.annotate(f" {shown:.1f}", (end, position), va="center", fontsize=7)
    axis.set_xlim(0, 1.15 * max(high))
    axis.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True)
class _Value:
    """What a panel's bars show: middle, low and high of a row."""

    title: str
    of: Callable[[Row], tuple[float, float, float]]


_TIME = _Value("", lambda row: (row.median_ms, row.p10_ms, row.p90_ms))
_SAVED = _Value(": MB kept for backward", lambda row: (row.saved_mb,) * 3)
