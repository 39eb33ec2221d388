"""One run of the bench: every network, batch and thread count, every contestant verified, then timed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lightops._env import cache_dir
from lightops.bench import inference, machine, training
from lightops.bench.contestants import COMPILE, EAGER_NCHW, EAGER_NHWC, LIGHTOPS, Call, Contestant, Task, Unavailable
from lightops.bench.engines import ENGINES
from lightops.bench.labelled import evaluate
from lightops.bench.report import Report, Row, add_ratios
from lightops.bench.runner import interleave, synchronised
from lightops.bench.subjects import DEFAULT_NETWORKS, FASHION, Subject, load_subject

CONTESTANTS = (EAGER_NCHW, EAGER_NHWC, COMPILE, *ENGINES, LIGHTOPS)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


@dataclass(frozen=True)
class Options:
    """What to run. `seconds` is the time given to the timing of one setting; `only` keeps the named contestants.

    `train` times training steps instead of answers.
    """

    networks: tuple[str, ...] = DEFAULT_NETWORKS
    batches: tuple[int, ...] = (1, 16)
    threads: tuple[int, ...] = (1,)
    device: str = "cpu"
    dtype: str = "fp32"
    resolution: int | None = None
    compile: bool = False
    seconds: float = 10.0
    winograd: int = 2
    only: tuple[str, ...] = ()
    demonstrate: bool = True
    train: bool = False


class Listener:
    """Told what goes on; does nothing by itself."""

    def stage(self, text: str) -> None:
        """What is being done now."""

    def advance(self, share: float) -> None:
        """Share of the whole run that is done, 0 to 1."""

    def subject(self, subject: Subject) -> None:
        """A network was loaded."""

    def setting(self, rows: list[Row]) -> None:
        """All rows of one setting."""


def run(options: Options, listener: Listener | None = None) -> Report:
    """Runs the bench and returns its report. Raises `UnknownNetwork` before anything is measured."""
    listener = listener or Listener()
    device = torch.device(options.device)
    report = Report(machine.conditions(device), asdict(options))
    cells = [
        (name, batch, threads) for name in options.networks for batch in options.batches for threads in options.threads
    ]
    threads_before = torch.get_num_threads()
    done = 0
    try:
        for name in options.networks:
            listener.stage(f"{name}: loading")
            torch.set_num_threads(max(options.threads))
            subject = load_subject(name, options.resolution)
            report.notes += [note for note in subject.missing if note not in report.notes]
            listener.subject(subject)
            _demonstrate(subject, options, report, listener)
            for batch in options.batches:
                x = subject.batch(batch)
                task = Task(subject, x, 1, device, DTYPES[options.dtype], cache_dir() / "exports", options.winograd)
                listener.stage(f"{name}, batch {batch}: float64 {'gradients' if options.train else 'answer'}")
                torch.set_num_threads(max(options.threads))
                truth = _kind(options).truth(subject, batch)
                for threads in options.threads:
                    task = replace(task, threads=threads)
                    share = _scaled(listener.advance, done / len(cells), 1 / len(cells))
                    rows = _setting(task, truth, options, listener, share)
                    report.rows += rows
                    done += 1
                    listener.advance(done / len(cells))
                    listener.setting(rows)
        _accuracy_row(options, report, listener)
    finally:
        torch.set_num_threads(threads_before)
    return report


def _kind(options: Options) -> Any:
    """The module that says what is right and what is weighed: `inference` or `training`."""
    return training if options.train else inference


def _scaled(advance: Callable[[float], None], start: float, width: float) -> Callable[[float], None]:
    return lambda share: advance(start + width * share)


def _demonstrate(subject: Subject, options: Options, report: Report, listener: Listener) -> None:
    if options.train or not options.demonstrate or options.device != "cpu" or options.dtype != "fp32":
        return
    listener.stage(f"{subject.name}: {len(subject.photos)} pictures, stock and swapped")
    entry, swaps = evaluate(subject, options.winograd)
    report.labelled.append(entry)
    report.swaps[subject.name] = swaps


def _accuracy_row(options: Options, report: Report, listener: Listener) -> None:
    """The default networks have no trained DenseNet among them: a small one of our own answers for it."""
    if options.networks == DEFAULT_NETWORKS and not options.train:
        _demonstrate(load_subject(FASHION), options, report, listener)


def chosen(options: Options) -> list[Contestant]:
    """The contestants of this run, lightops last."""
    all_of_them = training.CONTESTANTS if options.train else CONTESTANTS
    listed = [c for c in all_of_them if options.compile or c.name != COMPILE.name]
    return [c for c in listed if not options.only or c.name in options.only or c.name == LIGHTOPS.name]


def _setting(
    task: Task, truth: Any, options: Options, listener: Listener, advance: Callable[[float], None]
) -> list[Row]:
    torch.set_num_threads(task.threads)
    rows, calls, stock_errors = [], {}, []
    where = f"{task.subject.name}, batch {task.x.shape[0]}, {task.threads} thread{'s' if task.threads != 1 else ''}"
    for contestant in chosen(options):
        row = Row(task.subject.name, task.x.shape[0], task.threads, contestant.name, contestant.family)
        rows.append(row)
        listener.stage(f"{where}: {contestant.name} is readied and verified")
        call = _verified(contestant, task, truth, stock_errors, row, _kind(options))
        if call is not None:
            calls[contestant.name] = synchronised(call, task.device)
    listener.stage(f"{where}: timing")
    timings = interleave(calls, options.seconds, advance)
    for row in rows:
        if row.contestant in timings:
            _fill(row, timings[row.contestant])
    add_ratios(rows)
    return rows


def _verified(
    contestant: Contestant, task: Task, truth: Any, stock_errors: list[float], row: Row, kind: Any
) -> Call | None:
    """Readies a contestant and checks its answer; fills the row and returns the call, or None when it is out."""
    try:
        call = contestant.build(task)
        kind.judge(call, contestant, task, truth, stock_errors, row)
        if row.status != "ok":
            return None
        kind.weigh(call, row)
    except Unavailable as reason:
        row.status, row.reason = "absent", str(reason)
        return None
    except Exception as error:  # a foreign runtime may raise anything; the row says what, the run goes on
        row.status, row.reason = (
            "failed",
            f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}",
        )
        return None
    if contestant.family == "stock":
        stock_errors.append(row.error)
    return call


def _fill(row: Row, timing: object) -> None:
    low, high = timing.spread
    row.median_ms, row.min_ms = timing.median * 1e3, timing.minimum * 1e3
    row.p10_ms, row.p90_ms, row.calls = low * 1e3, high * 1e3, len(timing.samples)
    row.images_per_s = row.batch / timing.median


def default_folder(report: Report) -> Path:
    """`reports/bench-<date>` (`train-bench-<date>` of training steps) in the current folder."""
    kind = "train-bench" if report.settings.get("train") else "bench"
    return Path("reports") / f"{kind}-{report.conditions['date'].replace(':', '').replace('+0000', 'Z')}"
