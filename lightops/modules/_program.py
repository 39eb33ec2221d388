"""A chain of fused steps as a straight line: one check for all of them, then one op after the other.

A walk checks every step on its own, which costs a few microseconds a step: a tenth of a small network at batch 1. A
program checks the union of what the steps depend on and runs them back to back, by one native call where each is one
operator. It also runs a large batch depth first, a few images at a time: between steps the activations of those few
images are still in cache, and no tensor of the whole batch exists until the maps are small (MobileNet at batch 16, one
thread: 6.9 ms an image breadth first, 5.3 depth first).
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightops.modules._base import FusedModule
from lightops.modules._guard import Guard, is_plain
from lightops.modules._native_chain import Recorded, Step, dropped, record
from lightops.modules._runner import Runner, State, under_transform
from lightops.modules.dense_block import DenseBlockPiece

# Activations of the images that are in flight should fit the cache of the cores that work on them.
_CACHE_BYTES_PER_THREAD = 2 << 20

# Up to this many weights an activation are read again for every chunk rather than have the activations of the batch go
# through memory. Flat between 2 and 8 on the networks of `lightops bench`; chunking SqueezeNet's last blocks gains 3%,
# chunking MobileNetV1's 1024-channel block loses 2%.
_WEIGHTS_PER_ACTIVATION = 4


class Leaf(NamedTuple):
    """A fused piece with what it last ran with, or a stock child without parameters to fuse (`module`)."""

    runner: Runner | None
    state: State | None
    module: nn.Module | None


class Program:
    """Leaves in order, their merged guard, and the chunking of a large batch."""

    __slots__ = ("_chunk_images", "_guard", "_head", "_leaves", "_recorded", "_shape", "_tail", "dtype")

    def __init__(self, leaves: list[Leaf], guard: Guard, x: Tensor):
        self._leaves = leaves
        self._guard = guard
        self._shape = x.shape[1:]
        self.dtype = x.dtype
        self._plan_for(x[:1])

    def ready(self, x: Any) -> bool:
        """Whether nothing that any step depends on has changed since the program was made, and x is of its shape."""
        guard = self._guard
        return (
            type(x) is Tensor
            and x.shape[1:] == self._shape
            and x.shape[0] > 0
            and x.dtype is self.dtype
            and x.layout is torch.strided
            and x.device == guard.device
            and not under_transform()
            and not torch._C._is_any_autocast_enabled()
            and guard.holds()
            and not (torch.is_grad_enabled() and (x.requires_grad or guard.requires_grad()))
        )

    def run(self, x: Tensor) -> Tensor:
        """All steps; the result is channels_last."""
        chunk = self._chunk_images * torch.get_num_threads()
        if self._head and chunk < len(x):
            x = torch.cat([_through(self._head, part) for part in x.split(chunk)])
        else:
            x = _through(self._head, x)
        return _through(self._tail, x)

    def _plan_for(self, x: Tensor) -> None:
        """Run one image step by step to see how large activations are beside weights, and settle three things.

        The chunked prefix ends where weights outweigh the activations of a chunk: from there on they would be read
        again for every chunk. A producer writes into the buffer of the dense block behind it, unless its own input and
        that buffer together would be the largest pair of tensors of the whole chain: then the block copies its prefix
        (DenseNet's first transition: 44% of stock's peak instead of 59%, for 0.1 MB an image copied). Steps that are
        one native operator each are recorded, to be called together.
        """
        steps: list[Step] = [_step(leaf, None) for leaf in self._leaves]
        sizes, strides, numbers = [], [], []
        for step in steps:
            before = x.numel()
            strides.append(x.stride())
            x, number = record(step, x)
            numbers.append(number)
            sizes.append((before, x.numel()))
        self._chunk_images = max(1, _CACHE_BYTES_PER_THREAD // (max(map(sum, sizes)) * x.element_size()))
        light = [
            _weight_elements(leaf) <= _WEIGHTS_PER_ACTIVATION * sum(size) * self._chunk_images
            for leaf, size in zip(self._leaves, sizes, strict=True)
        ]
        # A GPU wants the whole batch at once: it has no cache of its own for each image in flight.
        prefix = max((i + 1 for i, ok in enumerate(light) if ok), default=0) if x.device.type == "cpu" else 0
        peak = max(map(sum, sizes))
        for i, (leaf, block) in enumerate(pairwise(self._leaves)):
            producer = leaf.runner is not None and leaf.runner.can_run_into and _is_dense_block(block)
            if producer and sizes[i][0] + sizes[i + 1][1] <= peak:
                steps[i] = _step(leaf, block.state.packed.out_channels)
                numbers[i] = dropped(numbers[i])
        self._recorded = Recorded(steps, numbers, strides)
        self._chunk(prefix)

    def _chunk(self, prefix: int) -> None:
        """Let the first `prefix` steps go through a batch in chunks, the others take it whole."""
        self._head, self._tail = self._recorded.joined(0, prefix), self._recorded.joined(prefix, len(self._leaves))


def make_program(
    leaves: list[Leaf], links: list[tuple[nn.Module, str, nn.Module]], chains: list[nn.Module], x: Tensor
) -> Program | None:
    """A program over leaves that have just run fused on x; None when one of them cannot be run unchecked."""
    guard = Guard()
    guard.attrs += [(_children, chain, _children(chain)) for chain in chains]  # one may have been appended
    for parent, key, module in links:
        guard.watch_module(parent, key, module)
    for runner, state, module in leaves:
        if runner is None:
            guard.watch_attrs(module, ("training",), (False,))
        elif state is None or state.backend == "reference" or state.plain_dtype is not x.dtype:
            return None
        else:
            guard.merge(state.guard)
    if guard.device != x.device or not guard.holds():
        return None
    return Program(leaves, guard, x)


def _children(chain: nn.Module) -> int:
    return len(chain._modules)


def leaves_of(child: nn.Module) -> list[Leaf] | None:
    """The leaves of one child of a chain that is not a chain itself; None where it must be called."""
    if not isinstance(child, FusedModule):
        # A norm without running statistics takes them from the batch, which a program may split.
        by_batch = any(isinstance(m, _BatchNorm) and m.running_mean is None for m in child.modules())
        return None if by_batch else [Leaf(None, None, child)]
    if not is_plain(child) or len(child._runners) != 1:
        return None
    return [leaf_of(child._runners[0])]


def leaf_of(runner: Runner) -> Leaf:
    return Leaf(runner, runner.state, None)


def _through(steps: list[Step], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _step(leaf: Leaf, room: int | None) -> Step:
    """The leaf as a function; `room` is the width of the dense block's buffer that it writes into."""
    runner, state, module = leaf
    if runner is None:
        return module
    if room is not None:
        return lambda x: runner.run_into_room(x, state, room)
    return lambda x: runner.run_channels_last(x, state)


def _is_dense_block(leaf: Leaf) -> bool:
    return leaf.runner is not None and isinstance(leaf.runner.piece, DenseBlockPiece)


def _weight_elements(leaf: Leaf) -> int:
    """Elements of packed weights; a dense block counts none: its kernel goes through a batch image by image anyway."""
    if leaf.runner is None or _is_dense_block(leaf):
        return 0
    return sum(t.numel() for t in _tensors(leaf.state.packed))


def _tensors(packed: Any) -> Iterator[Tensor]:
    for item in packed:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, tuple):
            yield from _tensors(item)
