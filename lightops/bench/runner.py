"""Timing: all contestants in one process, in turns, so that whatever disturbs the machine disturbs each alike.

A round gives every contestant one burst of calls, in an order that rotates. Between bursts lies a short pause in
which the thread pools of the one before (OpenMP, TBB, ONNX Runtime's own) stop spinning; the first call of a burst
wakes the pool, refills the caches and is not counted, unless a call is so long that this does not matter.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

PAUSE_S = 0.005
BURST_S = 0.1
LONG_CALL_S = 0.15
MIN_ROUNDS, MAX_ROUNDS = 5, 200
# On a machine so busy that five rounds take this many times the time given, two must do.
PATIENCE, HURRIED_ROUNDS = 4, 2


@dataclass
class Timing:
    """Seconds per call of one contestant."""

    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle call."""
        return statistics.median(self.samples)

    @property
    def minimum(self) -> float:
        """The fastest call."""
        return min(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The 10th and 90th percentile."""
        ordered = sorted(self.samples)
        last = len(ordered) - 1
        return ordered[round(0.1 * last)], ordered[round(0.9 * last)]


def synchronised(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`call`, followed on a GPU by waiting for it."""
    if device.type != "cuda":
        return call

    def waiting() -> object:
        result = call()
        torch.cuda.synchronize(device)
        return result

    return waiting


def interleave(
    calls: dict[str, Callable[[], object]],
    seconds: float,
    progress: Callable[[float], None] = lambda share: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times the calls in turns until about `seconds` have passed, at least `MIN_ROUNDS` rounds; returns their timings.

    When `PATIENCE` times the seconds are gone, `HURRIED_ROUNDS` rounds are enough.

    `progress` is told the share that is done.
    """
    estimates = {name: _estimate(call, clock) for name, call in calls.items()}
    timings = {name: Timing() for name in calls}
    names = list(calls)
    started = clock()
    for round_ in range(MAX_ROUNDS):
        shift = round_ % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            time.sleep(PAUSE_S)
            timings[name].samples += _burst(calls[name], estimates[name], clock)
        share = (clock() - started) / seconds if seconds else 1.0
        needed = HURRIED_ROUNDS if seconds and share >= PATIENCE else MIN_ROUNDS
        progress(min(share, (round_ + 1) / needed, 1.0))
        if round_ + 1 >= needed and share >= 1:
            break
    return timings


def _estimate(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of a second call: the first may allocate or pack."""
    call()
    started = clock()
    call()
    return clock() - started


def _burst(call: Callable[[], object], estimate: float, clock: Callable[[], float]) -> list[float]:
    if estimate < LONG_CALL_S:
        call()
    samples = []
    for _ in range(max(1, min(50, round(BURST_S / max(estimate, 1e-6))))):
        started = clock()
        call()
        samples.append(clock() - started)
    return samples
