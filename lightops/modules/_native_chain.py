"""Consecutive steps of a program as one native call (csrc/torch/chain.h)."""

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from lightops.ops._native import native_op

Step = Callable[[Tensor], Tensor]

_record = native_op("chain_record")
_recorded = native_op("chain_recorded")
_joined = native_op("chain_joined")
_run = native_op("chain_run")
_free = native_op("chain_free")

_CPU = torch.empty(0)  # what calls without an image of their own are dispatched by


def record(step: Step, x: Tensor) -> tuple[Tensor, int]:
    """`step(x)` and the number of its native form; 0 where it is more or less than one operator of the CPU on x."""
    if x.device.type != "cpu":
        return step(x), 0
    _record(x)
    y = None
    try:
        y = step(x)
    finally:
        number = _recorded(x, _CPU if y is None else y)
    return y, number


class NativeChain:
    """`steps` one after the other, which were recorded as `numbers`, for inputs of the strides recorded with.

    Under a dispatch mode, which expects to see every operator, and for other strides, the steps themselves run.
    """

    __slots__ = ("__weakref__", "_number", "_steps", "_stride")

    def __init__(self, steps: list[Step], numbers: list[int], stride: tuple[int, ...]):
        self._steps = steps
        self._stride = stride
        self._number = _joined(_CPU, numbers)
        weakref.finalize(self, _free, _CPU, self._number).atexit = False

    def __call__(self, x: Tensor) -> Tensor:
        if x.stride() == self._stride and not torch._C._len_torch_dispatch_stack():
            return _run(x, self._number)
        for step in self._steps:
            x = step(x)
        return x


def joined(steps: list[Step], numbers: list[int], strides: list[tuple[int, ...]]) -> list[Step]:
    """`steps` with every run of two or more that have a native form (`numbers`) as one step; the forms are freed."""
    out: list[Step] = []
    first = 0
    while first < len(steps):
        last = first
        while last < len(steps) and numbers[last]:
            last += 1
        if last - first > 1:
            out.append(NativeChain(steps[first:last], numbers[first:last], strides[first]))
        else:
            last = first + 1
            out.append(steps[first])
        first = last
    return out


def free(numbers: list[int]) -> None:
    for number in numbers:
        if number:
            _free(_CPU, number)
