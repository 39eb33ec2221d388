"""The torch contestants. A contestant is a name and a function that readies one network for one setting.

`build(task)` returns a call without arguments that runs the network on the task's input and returns the output as torch
or numpy array. Whatever can be done once (copying, packing, compiling) is done in `build`. `Unavailable` carries the
reason why a contestant does not take part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightops.bench.subjects import Subject


class Unavailable(Exception):
    """Why a contestant does not take part in this setting."""


@dataclass(frozen=True)
class Task:
    """One network at one setting. `x` is float32 NCHW on the CPU; `cache` is a folder for exported models."""

    subject: Subject
    x: Tensor
    threads: int
    device: torch.device
    dtype: torch.dtype
    cache: Path
    winograd: int = 2


Call = Callable[[], Any]


@dataclass(frozen=True)
class Contestant:
    """A way to run a network. `family` is "stock" (torch itself), "other" (another runtime) or "lightops"."""

    name: str
    family: str
    build: Callable[[Task], Call]


def _placed(task: Task, layout: torch.memory_format) -> tuple[nn.Module, Tensor]:
    model = task.subject.copy().to(device=task.device, dtype=task.dtype, memory_format=layout)
    return model, task.x.to(device=task.device, dtype=task.dtype, memory_format=layout)


def _inference(model: nn.Module, x: Tensor) -> Call:
    def call() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return call


def build_eager_nchw(task: Task) -> Call:
    """The network as it is, contiguous."""
    return _inference(*_placed(task, torch.contiguous_format))


def build_eager_nhwc(task: Task) -> Call:
    """The network as it is, channels_last."""
    return _inference(*_placed(task, torch.channels_last))


def build_compile(task: Task) -> Call:
    """`torch.compile` of the channels_last network."""
    model, x = _placed(task, torch.channels_last)
    call = _inference(torch.compile(model), x)
    call()
    return call


def build_lightops(task: Task) -> Call:
    """The channels_last network after `lightops.swap_`, fed the same channels_last input as its stock twin."""
    model, x = _placed(task, torch.channels_last)
    swap(model, task.winograd)
    return _inference(model, x)


def swap(model: nn.Module, winograd: int = 2) -> Any:
    """`lightops.swap_` on `model`, returning its report.

    Without an example: with one it would time each block and leave the slower ones stock, and the bench would hide a
    loss.
    """
    from lightops.swap import swap_

    return swap_(model, winograd=winograd)


EAGER_NCHW = Contestant("torch eager NCHW", "stock", build_eager_nchw)
EAGER_NHWC = Contestant("torch eager NHWC", "stock", build_eager_nhwc)
COMPILE = Contestant("torch.compile", "stock", build_compile)
LIGHTOPS = Contestant("lightops", "lightops", build_lightops)
