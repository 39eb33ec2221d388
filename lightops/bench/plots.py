"""The bar plot: medians with their 10th to 90th percentile, one panel per network, batch and thread count."""

from pathlib import Path

from lightops.bench.report import Report, Row

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
    columns = min(len(panels), len({key[1:] for key in panels}))
    lines = -(-len(panels) // columns)
    size = (5.2 * columns, 0.6 + 2.1 * lines)
    figure, axes = pyplot.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (key, rows) in zip(axes.flat, panels.items(), strict=False):
        _draw(axis, key, rows)
    state = report.conditions
    figure.suptitle(
        f"ms per batch, median with 10-90% spread; {state['device']}, {report.settings['dtype']}", fontsize=9
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _draw(axis: object, key: tuple[str, int, int], rows: list[Row]) -> None:
    network, batch, threads = key
    names = [row.contestant for row in rows]
    medians = [row.median_ms for row in rows]
    spread = [[row.median_ms - row.p10_ms for row in rows], [row.p90_ms - row.median_ms for row in rows]]
    axis.barh(names, medians, xerr=spread, color=[_COLOURS[row.family] for row in rows], ecolor="#444444", capsize=2)
    axis.invert_yaxis()
    axis.set_title(f"{network}, batch {batch}, {threads} thread{'s' if threads != 1 else ''}", fontsize=9)
    axis.tick_params(labelsize=8)
    for position, row in enumerate(rows):
        axis.annotate(f" {row.median_ms:.1f}", (row.p90_ms, position), va="center", fontsize=7)
    axis.set_xlim(0, 1.15 * max(row.p90_ms for row in rows))
    axis.spines[["top", "right"]].set_visible(False)
