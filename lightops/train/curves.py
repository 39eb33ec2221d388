"""Loss and accuracy over the epochs of a run."""

from pathlib import Path
from typing import Any


def plot_curves(records: list[dict[str, Any]], path: Path) -> Path | None:
    """Draws a log (the run, then its epochs) into a PNG and returns its path; None without matplotlib or an epoch."""
    run, epochs = records[0], records[1:]
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    if not epochs:
        return None
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    numbers = [record["epoch"] for record in epochs]
    for axis, kind in zip(axes, ("loss", "accuracy"), strict=True):
        for split, style in (("train", "#7f9fc4"), ("test", "#d1495b")):
            axis.plot(numbers, [record[f"{split}_{kind}"] for record in epochs], "o-", ms=3, color=style, label=split)
        axis.set(xlabel="epoch", title=kind)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    kind = "stock" if run["options"]["stock"] else "swapped"
    last = epochs[-1]["test_accuracy"]
    figure.suptitle(f"{run['options']['network']} ({kind}) on {run['options']['data']}: {last:.2%}", fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
