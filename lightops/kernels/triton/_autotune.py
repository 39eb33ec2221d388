"""Which of a shape class's configurations is the fastest for one problem: measured once, remembered on disk.

Off unless asked for: by `tuning()`, which `swap_(model, example)` uses, or by LIGHTOPS_AUTOTUNE=1. Then a problem that
is met for the first time is launched at most `MOST_LAUNCHES` times. Choices are kept for the process and, by device and
versions, in a JSON file below the cache folder; a process that does not tune does not read it.
"""

import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from lightops import _env
from lightops._version import __version__
from lightops.kernels.triton._common import precision
from lightops.kernels.triton._configs import Blocks, Problem

Launch = Callable[[Blocks], None]

_TIMED = 5  # launches of one measurement, after one that compiles
MOST_LAUNCHES = 4 * (1 + _TIMED)  # no row of the table has more than four configurations

# What a launch looks up: defaults too, so that a second launch of a problem costs one lookup.
_chosen: dict[Problem, Blocks] = {}
_tuned: dict[Problem, Blocks] = {}
_depth = 0  # of `tuning()`


@contextmanager
def tuning() -> Iterator[None]:
    """Problems met inside are measured, unless they have been."""
    global _depth
    _depth += 1
    _chosen.clear()
    _chosen.update(_tuned)
    try:
        yield
    finally:
        _depth -= 1


def blocks_for(problem: Problem, launch: Launch) -> Blocks:
    """The configuration of a launch. `launch` runs the problem, whose output it may write any number of times."""
    blocks = _chosen.get(problem)
    if blocks is not None:
        return blocks
    candidates = problem.candidates
    if not (_depth or _env.autotune()):
        return _chosen.setdefault(problem, candidates[0])
    if _capturing():
        return candidates[0]  # neither compiles nor waits; the problem is measured where it is met next
    blocks = _tuned[problem] = _chosen[problem] = _known(problem) or _measured(problem, launch)
    return blocks


def seconds(run: Callable[[], None]) -> float:
    """The time of one launch on the current stream."""
    run()  # compiles
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    # Half a millisecond in which the host gets ahead: launches shorter than their cost there are otherwise timed by it.
    torch.cuda._sleep(1_000_000)
    start.record()
    for _ in range(_TIMED):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / _TIMED


def _measured(problem: Problem, launch: Launch) -> Blocks:
    times: dict[Blocks, float] = {}
    for blocks in problem.candidates:
        try:
            times[blocks] = seconds(lambda blocks=blocks: launch(blocks))
        except (OutOfResources, PTXASError):
            continue  # too large for this device
    if not times:
        return problem.candidates[0]  # whose launch says why
    best = min(times, key=lambda blocks: times[blocks])
    _remember(problem, best, times[best])
    return best


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _known(problem: Problem) -> Blocks | None:
    """The choice on disk, where it is one of the configurations that there are."""
    choice = _stored(cache_file(problem.device)).get(str(problem))
    try:
        blocks = Blocks(*choice["blocks"])
    except (TypeError, KeyError):
        return None
    return blocks if blocks in problem.candidates else None


@cache
def device_name(index: int | None) -> str:
    return "interpreter" if index is None else torch.cuda.get_device_name(index)


def problem_of(kind: str, x: Tensor, out: Tensor, depth: int, form: str) -> Problem:
    device = device_name(x.device.index if x.is_cuda else None)
    dtype = "tf32" if precision(x.dtype) == "tf32" else str(x.dtype).removeprefix("torch.")
    return Problem(kind, dtype, x.element_size(), device, tuple(x.shape), tuple(out.shape), depth, form)


def _versions(device: str) -> dict[str, str]:
    return {"device": device, "lightops": __version__, "torch": torch.__version__, "triton": triton.__version__}


def cache_file(device: str) -> Path:
    """The file of choices for a device with the versions of this process."""
    name = re.sub(r"[^\w.]+", "-", " ".join(_versions(device).values()))
    return _env.cache_dir() / "triton" / f"{name}.json"


@cache
def _stored(path: Path) -> dict[str, Any]:
    """The choices of a file, read once a process."""
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    """The choices in a file; none where there is no file, or one that cannot be read, which is said."""
    try:
        choices = json.loads(path.read_text())["choices"]
        if not isinstance(choices, dict):
            raise TypeError(f"'choices' is a {type(choices).__name__}")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"lightops: {path} is ignored: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
        return {}
    return choices


def _remember(problem: Problem, blocks: Blocks, time: float) -> None:
    """Adds a choice to the file, beside those that other processes have written since. A reader sees the file before
    or after, never half of it."""
    path = cache_file(problem.device)
    chosen = {"blocks": list(blocks), "us": round(time * 1e6, 2)}
    content = {**_versions(problem.device), "choices": {**_read(path), str(problem): chosen}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.stem, delete=False) as file:
            json.dump(content, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        warnings.warn(f"lightops: tuned configurations are not kept: {error}", RuntimeWarning, stacklevel=2)
