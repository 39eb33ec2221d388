"""The short way into a training op, for a plain call in eager mode.

A call of the dispatcher op crosses between Python and C++ three times with all of its arguments: into autograd, out to
the implementation, into the native op; and torch's `register_autograd` reads the schema at every call. For
MobileNetV1's 29 ops that was 6 ms of a step of 93. A call that nothing looks into is an `autograd.Function` on the
native op instead, with the same `setup` and `backward`.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

_PLAIN = (Tensor, nn.Parameter)


class Kernel(Protocol):
    """What is called: `reason` says why not natively, "" where it can be."""

    def reason(self, args: Any) -> str: ...

    def run_native(self, args: Any) -> Any: ...


def plain(args: tuple[Any, ...]) -> bool:
    """Whether nothing but autograd takes part in the call: no tracing, autocast, mode, transform or subclass."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_any_autocast_enabled()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or has_torch_function(args)
    ) and all(type(a) in _PLAIN for a in args if isinstance(a, Tensor))


def eager(
    kernel: Kernel,
    handle: Callable[..., Any],
    setup: Callable[..., None] | None,
    backward: Callable[..., Any] | None,
) -> Callable[..., Any]:
    """`handle`, the dispatcher op, by the short way where that may be taken. Without `backward`, only where no gradient
    is wanted. For ops without lists of tensors among their arguments.
    """

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                out = kernel.run_native(args)
            setup(ctx, args, out)
            return out

    if backward is not None:
        Direct.backward = staticmethod(backward)

    def call(*args: Any) -> Any:
        if not plain(args) or kernel.reason(args):
            return handle(*args)
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return handle(*args) if backward is None else Direct.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return kernel.run_native(args)

    return call
