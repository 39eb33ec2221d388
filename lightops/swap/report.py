"""What a swap did, block by block."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Fused(NamedTuple):
    """A block that runs fused. `note` holds the measured times, or by which rule the backend was taken, or why it ran
    stock code last; `seconds` the measured times of a call by backend, "stock" among them."""

    name: str
    op: str
    backend: str
    note: str = ""
    seconds: tuple[tuple[str, float], ...] = ()


class Declined(NamedTuple):
    """A block of a kind that lightops fuses, left as it was, and why."""

    name: str
    op: str
    reason: str


@dataclass
class SwapReport:
    """`fused` and `declined` records in model order; prints as a table."""

    fused: list[Fused] = field(default_factory=list)
    declined: list[Declined] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.fused and not self.declined:
            return "no block of a kind that lightops fuses was found: 0 fused, 0 declined"
        rows = [("module", "op", "backend", "")]
        rows += [(r.name, r.op, r.backend, r.note) for r in self.fused]
        rows += [(r.name, r.op, "-", f"declined: {r.reason}") for r in self.declined]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join((*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3])).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join([*lines, f"{len(self.fused)} fused, {len(self.declined)} declined"])


class SwapError(RuntimeError):
    """`swap_(strict=True)` could not fuse everything it recognised, or recognised nothing; the model is unchanged."""
