"""One picture per experiment: test error against what is varied, and against the number of parameters."""

from pathlib import Path
from statistics import median
from typing import Any

LABELS = {
    "densenet": ("layers", "DenseNet-BC: growth rate and depth"),
    "squeeze_ratio": ("squeeze ratio", "SqueezeNet: squeeze ratio"),
    "share_of_3x3": ("share of 3x3 filters", "SqueezeNet: share of 3x3 filters"),
    "bypass": ("bypass", "SqueezeNet: bypass"),
    "width": ("width multiplier", "MobileNet: width"),
    "resolution": ("pixels a side", "MobileNet: resolution"),
    "activation": ("layers", "ResNet: pre- and post-activation"),
}
# The second panel's axis: what the paper trades the error against.
COSTS = {"resolution": ("multiply_adds", "multiply-adds"), "width": ("multiply_adds", "multiply-adds")}
COLOURS = ("#d1495b", "#3d6a9e", "#6b8f3c", "#7f7f7f")


def draw(runs: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draws every experiment that has runs; returns the paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    paths = []
    for experiment, (label, title) in LABELS.items():
        mine = [run for run in runs if run["configuration"]["experiment"] == experiment]
        if not mine:
            continue
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 3.2), layout="constrained", sharey=True)
        cost, cost_label = COSTS.get(experiment, ("parameters", "parameters"))
        for colour, (series, points) in zip(COLOURS, _curves(mine).items(), strict=False):
            x, errors = [point[0] for point in points], [[100 * e for e in point[1]] for point in points]
            middle = [median(e) for e in errors]
            reach = [[m - min(e) for m, e in zip(middle, errors, strict=True)]]
            reach += [[max(e) - m for m, e in zip(middle, errors, strict=True)]]
            style = {"fmt": "o-", "ms": 4, "capsize": 2, "color": colour, "label": series}
            left.errorbar(x, middle, yerr=reach, **style)
            right.errorbar([point[2][cost] for point in points], middle, yerr=reach, **style)
        seeds = len({run["seed"] for run in mine})
        left.set(xlabel=label, ylabel="test error, %")
        costs = [run[cost] for run in mine]
        right.set(xlabel=cost_label, xscale="log" if max(costs) > 4 * min(costs) else "linear")
        left.legend(frameon=False, fontsize=8)
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
        settings = mine[0]["settings"]
        figure.suptitle(
            f"{title} ({settings['data']}, {settings['train']} pictures, {settings['epochs']} epochs; median and range "
            f"of {seeds} seed{'s' if seeds != 1 else ''})",
            fontsize=9,
        )
        paths.append(folder / f"{experiment}.png")
        figure.savefig(paths[-1], dpi=100)
        pyplot.close(figure)
    return paths


def _curves(runs: list[dict[str, Any]]) -> dict[str, list[tuple[Any, list[float], dict[str, Any]]]]:
    """Series -> points in the order of the table: x, the errors of all seeds, one run for its costs."""
    curves: dict[str, dict[Any, list[dict[str, Any]]]] = {}
    for run in runs:
        configuration = run["configuration"]
        curves.setdefault(configuration["series"], {}).setdefault(configuration["x"], []).append(run)
    return {
        series: [(x, [run["test_error"] for run in group], group[0]) for x, group in points.items()]
        for series, points in curves.items()
    }
