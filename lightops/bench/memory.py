"""What a call allocates, what a forward pass keeps for the backward one, and how often a call goes over memory.

Allocation and passes have an instrument each, because one sees what the other cannot: the allocator's own log (every
tensor, also those made inside an operator) and the dispatcher (which operators ran, and the tensors that went in and
out). What is kept is asked of autograd.
"""

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators that make another view of a tensor, or read its metadata: they move no data.
_VIEWS = {
    "view",
    "_unsafe_view",
    "t",
    "transpose",
    "permute",
    "expand",
    "slice",
    "select",
    "detach",
    "alias",
    "as_strided",
}
_VIEWS |= {"unsqueeze", "squeeze", "narrow", "split", "chunk", "unbind", "flatten", "empty", "empty_like", "lift_fresh"}


@dataclass(frozen=True)
class Allocation:
    """Bytes of tensors alive at once (`peak`), bytes of all tensors made (`total`) and their number (`count`)."""

    peak: int
    total: int
    count: int


@dataclass(frozen=True)
class Traffic:
    """Passes over memory: operators that moved data, bytes of the tensors they read and wrote, and their names."""

    passes: int
    bytes_read: int
    bytes_written: int
    operators: Counter


def allocation(call: Callable[[], Any]) -> Allocation:
    """Runs `call` once under the allocator's log; weights and input exist before, so they do not count."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with _silenced_stderr(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = total = count = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        size = event.nbytes()
        alive += size
        peak = max(peak, alive)
        total += max(size, 0)
        count += size > 0
    return Allocation(peak, total, count)


def saved_for_backward(forward: Callable[[], Tensor], besides: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of `forward`: each storage once and whole, those of `besides`
    (parameters, buffers) left out. Tensors that an operator hides from autograd's saved-tensor hooks are not seen."""
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    # Held until the end: an address that is free again would be counted as one with its next owner.
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in found.values())


def traffic(call: Callable[[], Any]) -> Traffic:
    """Runs `call` once and counts the data-moving operators of its top level."""
    with _Recorder() as recorder:
        call()
    return Traffic(recorder.passes, recorder.read, recorder.written, recorder.operators)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.passes = self.read = self.written = 0
        self.operators: Counter = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in _VIEWS:
            self.passes += 1
            self.read += _bytes((args, kwargs))
            # An operator that returns nothing writes into an argument; its size is counted as read.
            self.written += _bytes(result)
            self.operators[name] += 1
        return result


def _bytes(tree: Any) -> int:
    tensors = {id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


@contextlib.contextmanager
def _silenced_stderr() -> Iterator[None]:
    """The profiler's C++ side writes trace points to file descriptor 2; they would tear a progress bar apart."""
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as sink:
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
