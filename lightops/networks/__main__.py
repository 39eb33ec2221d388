"""``python -m lightops.networks``: docs/networks.md, the papers' figures against ours, as Markdown."""

from __future__ import annotations

from .published import FAMILIES, Printed, Row, exact

INTRODUCTION = """\
# Reference networks

`lightops.networks` holds the papers' networks in stock torch modules; `lightops.networks.create(name, **kwargs)` builds
one. This page is the output of `python -m lightops.networks`; a test keeps the two equal.

- Parameters are scalars in `parameters()`; multiply-adds are of convolutions and linear layers, one image of the given
  size, without biases, norms and activations.
- DenseNet, SqueezeNet and MobileNet V2 have torchvision's parameter names, so its checkpoints load with `strict=True`.
  `convert_timm_mobilenet_v1` reads timm's `mobilenetv1_*`.
- "MB" in the SqueezeNet rows is the size of the fp32 weights in MiB, as the paper counts.
- Every network takes `num_classes` and `in_channels`; `small_input=True` (CIFAR nets are so already) is a stem for maps
  of 28 to 64 pixels.
"""

HEADER = """\
| network | arguments | input | parameters, printed | ours | multiply-adds, printed | ours | source |
|---|---|---|---:|---:|---:|---:|---|
"""

RELATIONS = {"rounded": "", "cut": "digits cut off, not rounded", "differs": "does not equal the count"}


class Notes:
    """Footnotes of one table, numbered in order of appearance; equal texts share a number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, printed: Printed) -> str:
        """Footnote mark for ``printed``, empty where the figure is the count rounded."""
        text = "; ".join(part for part in (RELATIONS[printed.relation], printed.note) if part)
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f" [{self.texts.index(text) + 1}]"


def _cells(printed: Printed | None, total: int, by_kind: dict[str, int], notes: Notes) -> tuple[str, str]:
    """(printed, ours) cells of one figure; ours with the same parts left out, and in MiB where a size is printed."""
    if printed is None:
        return "-", f"{total:,}"
    ours = exact(printed, total, by_kind)
    if printed.text.endswith("MB"):
        return printed.text + notes.mark(printed), f"{ours:,} = {ours * 4 / 2**20:.2f} MiB"
    return printed.text + notes.mark(printed), f"{ours:,}"


def _line(row: Row, notes: Notes) -> str:
    counted = row.counted
    arguments = ", ".join(f"{key}={value!r}" for key, value in row.kwargs.items()) or "-"
    size = "x".join(map(str, row.input_size))
    parameters = _cells(row.parameters, counted.parameters, counted.parameters_by_kind, notes)
    multiply_adds = _cells(row.multiply_adds, counted.multiply_adds, counted.multiply_adds_by_kind, notes)
    cells = (f"`{row.name}`", arguments, size, *parameters, *multiply_adds, row.source)
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for family, rows in FAMILIES.items():
        notes = Notes()
        lines = "\n".join(_line(row, notes) for row in rows)
        parts.append(f"## {family}\n\n{HEADER}{lines}\n")
        if notes.texts:
            parts.append("\n".join(f"- [{i}] {text}" for i, text in enumerate(notes.texts, start=1)) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(table(), end="")
