"""What a fused block depends on, in a form that can be checked in a few microseconds before every call.

Stock modules are mutable in every way: children are replaced, hooked or parametrised, BN is switched to training, eps
is edited, a weight is written in place, re-assigned or moved. A fused block runs on packed copies of the weights, so
each of these must be noticed. The walk over the entries is native (csrc/python/guard.cpp).
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from lightops import _ext

_native_holds = _ext.guard_holds()

_HOOK_DICTS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

# Hooks on every module of the process (profilers, FLOP counters) expect each child to be called.
GLOBAL_HOOKS = tuple(getattr(torch.nn.modules.module, f"_global{name}") for name in _HOOK_DICTS)


def is_hooked(module: nn.Module) -> bool:
    """Whether something sees, or changes, a call of `module`."""
    own = module.__dict__  # names spelled out: a training step asks this a hundred times
    return bool(
        own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    )


def is_plain(module: nn.Module) -> bool:
    """No hooks and no forward of the instance's own: calling it and running its pieces are the same."""
    return not is_hooked(module) and "forward" not in module.__dict__


class Guard:
    """A snapshot of modules, attributes and tensors; `holds()` says whether everything is as it was.

    Everything is looked up again from the modules' own `__dict__`: a dict of children, parameters or hooks may itself
    be replaced (`del sequential[1]` does so).
    """

    __slots__ = ("absent", "attrs", "device", "dtype", "fields", "links", "samples", "storages", "tensors")

    def __init__(self) -> None:
        self.links: list[tuple[dict, str, nn.Module, type, dict]] = []
        self.fields: list[tuple] = []
        self.attrs: list[tuple[Callable[[Any], Any], Any, Any]] = []
        self.tensors: list[tuple[dict, str, str, Tensor, int, int]] = []
        self.absent: list[tuple[dict, str, str]] = []
        self.samples: list[tuple[memoryview, int, int]] = []
        self.storages: list[Tensor] = []
        self.dtype: torch.dtype | None = None
        self.device: torch.device | None = None

    def watch_module(self, parent: nn.Module, key: str, module: nn.Module) -> None:
        self.links.append((parent.__dict__, key, module, type(module), module.__dict__))

    def watch_attrs(self, module: nn.Module, names: tuple[str, ...], values: tuple) -> None:
        own = module.__dict__
        if all(name in own and not hasattr(type(module), name) for name in names):
            # What the class does not know is in the instance's dict: a look-up there instead of a call.
            self.fields.append((own, *(part for pair in zip(names, values, strict=True) for part in pair)))
        else:
            self.attrs.append((attrgetter(*names), module, values if len(names) > 1 else values[0]))

    def watch_tensor(self, module: nn.Module, kind: str, key: str) -> None:
        """`kind` is the dict that holds the tensor: `_parameters` or `_buffers`."""
        tensor = module.__dict__[kind][key]
        if tensor is None:
            self.absent.append((module.__dict__, kind, key))
            return
        self.tensors.append((module.__dict__, kind, key, tensor, tensor.data_ptr(), tensor._version))
        # Keeping the storage alive keeps its address from being given to the next `.data =` of the same parameter.
        self.storages.append(tensor.detach())
        self._sample(tensor)

    def _sample(self, tensor: Tensor) -> None:
        """Remember a word of a CPU tensor: a write through `.data` or numpy moves neither address nor version.

        Whole-tensor updates of that kind (an old optimizer, an EMA) are seen; an edit that misses all sampled words is
        not.
        """
        if tensor.device.type != "cpu" or not tensor.numel():
            return
        words = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[tensor.element_size()]
        flat = torch.empty(0, dtype=words).set_(tensor.detach().untyped_storage())
        flat = flat[tensor.storage_offset() : tensor.storage_offset() + _extent(tensor)]
        view = memoryview(flat.numpy())
        # A zero stays zero under the usual multiply, so non-zero words are preferred.
        picks = [i for i in _spread(len(view), 16) if view[i]][:1] or [0]
        self.samples += [(view, i, view[i]) for i in picks]

    def holds(self) -> bool:
        """False without the native library: nothing is trusted then, and everything is read again at every call."""
        if _native_holds is None or any(GLOBAL_HOOKS):
            return False
        return _native_holds(self.links, self.fields, self.attrs, self.tensors, self.absent, self.samples)

    def merge(self, other: "Guard") -> None:
        """Watch everything that `other` watches too."""
        self.links += other.links
        self.fields += other.fields
        self.attrs += other.attrs
        self.tensors += other.tensors
        self.absent += other.absent
        self.samples += other.samples
        self.storages += other.storages
        self.device = self.device or other.device

    def requires_grad(self) -> bool:
        return any(entry[3].requires_grad for entry in self.tensors)


def _extent(tensor: Tensor) -> int:
    """Elements from the first to the last that `tensor` addresses."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _spread(length: int, count: int) -> list[int]:
    """Up to `count` positions over `length`, away from both ends and off any power-of-two stride."""
    return sorted({(2 * i + 1) * length // (2 * count) for i in range(count)})
