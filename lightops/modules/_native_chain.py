"""Consecutive steps of a program as one native call (csrc/torch/chain.h)."""

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from lightops import _ext
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
    if x.device.type != "cpu" or _ext.cpu_reason():
        return step(x), 0
    _record(x)
    y = None
    try:
        y = step(x)
    finally:
        number = _recorded(x, _CPU if y is None else y)
    return y, number


def dropped(number: int) -> int:
    """Frees the native form of a step that is exchanged for another; 0, the number of a step without one."""
    if number:
        _free(_CPU, number)
    return 0


class NativeChain:
    """`steps` one after the other, which were recorded as `numbers`, for inputs of the strides recorded with.

    Under a dispatch mode, which expects to see every operator, and for other strides, the steps themselves run.
    """

    __slots__ = ("__weakref__", "_number", "_steps", "_stride")

    def __init__(self, steps: list[Step], numbers: list[int], stride: tuple[int, ...]):
        self._steps = steps
        self._stride = stride
        self._number = _joined(_CPU, numbers)
        _free_with(self, [self._number])

    def __call__(self, x: Tensor) -> Tensor:
        if x.stride() == self._stride and not torch._C._len_torch_dispatch_stack():
            return _run(x, self._number)
        for step in self._steps:
            x = step(x)
        return x


class Recorded:
    """Steps with the numbers of their native forms and the strides of their inputs."""

    __slots__ = ("__weakref__", "_numbers", "_steps", "_strides")

    def __init__(self, steps: list[Step], numbers: list[int], strides: list[tuple[int, ...]]):
        self._steps, self._numbers, self._strides = steps, numbers, strides
        _free_with(self, [number for number in numbers if number])

    def joined(self, first: int, last: int) -> list[Step]:
        """Steps [first, last), every run of two or more with a native form as one."""
        out: list[Step] = []
        while first < last:
            end = first
            while end < last and self._numbers[end]:
                end += 1
            if end - first > 1:
                out.append(NativeChain(self._steps[first:end], self._numbers[first:end], self._strides[first]))
            else:
                end = first + 1
                out.append(self._steps[first])
            first = end
        return out


def _free_with(owner: object, numbers: list[int]) -> None:
    weakref.finalize(owner, _free_all, numbers).atexit = False


def _free_all(numbers: list[int]) -> None:
    for number in numbers:
        _free(_CPU, number)
