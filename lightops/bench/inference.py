"""Answers: whether a contestant gives the stock network's, and what one call allocates."""

from torch import Tensor

from lightops.bench.contestants import Call, Contestant, Task
from lightops.bench.memory import allocation
from lightops.bench.report import Row
from lightops.bench.subjects import Subject
from lightops.bench.verify import limit_for, measure


def truth(subject: Subject, batch: int) -> Tensor:
    """The stock network's answers to `batch` pictures in float64."""
    return subject.exact(batch)


def judge(call: Call, contestant: Contestant, task: Task, exact: Tensor, stock: list[float], row: Row) -> None:
    """Fills the row's errors and, where the answer is wrong, its status."""
    accuracy = measure(call(), exact, limit_for(contestant.family, exact, task.dtype, stock))
    row.error, row.relative, row.top1 = accuracy.error, accuracy.relative, accuracy.top1
    row.error_limit = accuracy.limit
    if not accuracy.ok:
        row.status, row.reason = "wrong", f"WRONG: error {accuracy.error:.1e} above {accuracy.limit:.1e}, not timed"


def weigh(call: Call, row: Row) -> None:
    """Fills the row's peak; the other runtimes have arenas of their own that the log does not see."""
    if row.family != "other":
        row.peak_mb = allocation(call).peak / 1e6
