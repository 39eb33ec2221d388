"""Wiring of the training ops: schema, backend, fake and autograd of `lightops_training::<op>`.

Every op is a dispatcher op of its own, and so is its backward: torch.compile, opcheck and autograd see opaque calls
with shapes. Inside a call the native op `lightops::<op>` computes where it exists for the tensors' device and supports
the arguments; otherwise the reference does, in the backward by differentiating it again. A native op gets the arguments
that its own schema names.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightops import _env, _ext
from lightops.kernels import cuda
from lightops.ops._dispatch import KERNEL_DTYPES
from lightops.ops._native import to_nhwc
from lightops.ops.training._eager import eager
from lightops.reference import ACTIVATIONS

NAMESPACE = "lightops_training"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality

# The prologue's arguments in every schema.
PROLOGUE = "Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float eps, int act"

# What autocast casts from.
_CAST_FROM = (torch.float32, torch.float16, torch.bfloat16)

Casts = Sequence[str]
Supports = Callable[[dict[str, Any]], str]


def always(arguments: dict[str, Any]) -> str:
    """No reason against the native kernel."""
    del arguments
    return ""


TRAINING_DTYPES = {"cpu": KERNEL_DTYPES, "cuda": cuda.DTYPES}
# Read once: tracing must not follow the file system.
_CPU_REASON = _ext.cpu_reason()


@torch.compiler.assume_constant_result
def training_reason(device: str) -> str:
    """Why no training op has kernels for tensors of a kind of device; "" where they have."""
    if device not in TRAINING_DTYPES:
        return f"kernels are for {' and '.join(TRAINING_DTYPES)}"
    return _CPU_REASON or (_ext.cuda_reason() if device == "cuda" else "")


class Kernel:
    """The implementation of one op: native where it is there for the device of the tensors and `supports` has no
    reason against it.
    """

    def __init__(self, name: str, names: list[str], reference: Callable[..., Any], supports: Supports):
        self.name = name
        self.names = names
        self.reference = reference
        self.supports = supports
        self.native: Callable[..., Any] | None = None
        packet = None if _CPU_REASON else getattr(torch.ops.lightops, name, None)
        if packet is not None:
            self.native = packet.default
            self._picks = [names.index(argument.name) for argument in self.native._schema.arguments]

    def reason(self, args: Sequence[Any]) -> str:
        """Why the reference would compute this call; "" where the native kernel does."""
        if self.native is None:
            return "no native kernel in this build"
        if _env.disabled() or _env.backend() == "reference":
            return "turned off by the environment"
        tensor = next(a for a in args if isinstance(a, Tensor))
        device = tensor.device.type
        if device not in TRAINING_DTYPES:
            return f"input is on {tensor.device}, wants cpu or cuda"
        if tensor.dtype not in TRAINING_DTYPES[device]:
            return f"dtype {tensor.dtype} has no kernel"
        if device == "cuda" and (why := self.cuda_reason):
            return why
        return self.supports(dict(zip(self.names, args, strict=True)))

    @cached_property
    def cuda_reason(self) -> str:
        """Why no CUDA tensor is served; asked at the first one, because torch looks for devices then."""
        if why := training_reason("cuda"):
            return why
        there = torch._C._dispatch_has_kernel_for_dispatch_key(f"lightops::{self.name}", "CUDA")
        return "" if there else "no CUDA kernel in this build"

    def run_native(self, args: Sequence[Any]) -> Any:
        """The native kernel, where there is no reason against it."""
        return self.native(*[args[i] for i in self._picks])

    def __call__(self, *args: Any) -> Any:
        return self.reference(*args) if self.reason(args) else self.run_native(args)


KERNELS: dict[str, Kernel] = {}


def define(
    name: str,
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    supports: Supports = always,
    casts: Casts = (),
    setup: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Define `lightops_training::<name>` and return what calls it. Without `backward` its derivative raises. `casts`
    are the arguments that autocast casts, as it casts those of a convolution.
    """
    _LIBRARY.define(name + schema)
    handle = getattr(getattr(torch.ops, NAMESPACE), name).default
    kernel = KERNELS[name] = Kernel(name, [a.name for a in handle._schema.arguments], reference, supports)
    _LIBRARY.impl(name, kernel.__call__, "CompositeExplicitAutograd")
    qualified = f"{NAMESPACE}::{name}"
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    derivative = backward or _no_double_backward(name.removesuffix("_backward"))
    torch.library.register_autograd(qualified, derivative, setup_context=setup, lib=_LIBRARY)
    for device in ("CPU", "CUDA"):
        rule = _autocast(handle, tuple(kernel.names.index(argument) for argument in casts), device.lower())
        _LIBRARY.impl(name, rule, f"Autocast{device}")
    types = (str(argument.type) for argument in handle._schema.arguments)
    lists = any("List" in kind and "Tensor" in kind for kind in types)
    return handle if lists else eager(kernel, handle, setup, backward)


def _autocast(handle: Callable[..., Any], casts: tuple[int, ...], device: str) -> Callable[..., Any]:
    """The op with its arguments cast, and autocast off inside it: the reference consists of torch's operations."""
    key = {"cpu": torch._C.DispatchKey.AutocastCPU, "cuda": torch._C.DispatchKey.AutocastCUDA}[device]
    off = torch._C.DispatchKeySet(key)

    def run(*args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        cast = [_cast(a, dtype) if i in casts else a for i, a in enumerate(args)]
        with torch._C._ExcludeDispatchKeyGuard(off):
            return handle(*cast)

    return run


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, (list, tuple)):  # weights are the tensors among vectors
        return [_cast(t, dtype) if isinstance(t, Tensor) and t.dim() == 4 else t for t in value]
    return value.to(dtype) if isinstance(value, Tensor) and value.dtype in _CAST_FROM else value


def explain(name: str, *args: Any) -> str:
    """Why the reference would compute `lightops_training::<name>(*args)`; "" where the native kernel does."""
    return KERNELS[name].reason(args)


def _no_double_backward(op: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Tensor) -> Any:
        del ctx, grads
        raise NotImplementedError(
            f"lightops {op}: no double backward. To differentiate gradients, put the stock modules back first: "
            "lightops.unswap_(model)"
        )

    return backward


def by_name(reference: Callable[..., Any], position: int) -> Callable[..., Any]:
    """`reference`, which names the activation at `position`, called with the activation's code."""

    def run(*args: Any) -> Any:
        return reference(*args[:position], ACTIVATIONS[args[position]], *args[position + 1 :])

    return run


def differentiate(
    forward: Callable[..., Any], inputs: Sequence[Tensor | None], wanted: Sequence[bool], grad: Tensor
) -> list[Tensor]:
    """Gradients of `forward(*inputs)` (of its first result, where there are several) in each wanted input; an empty
    tensor for the others.
    """
    excluded = torch._C._dispatch_tls_is_dispatch_key_excluded(_AUTOGRAD)
    torch._C._dispatch_tls_set_dispatch_key_excluded(_AUTOGRAD, False)  # an op runs below autograd
    try:
        with torch.enable_grad():
            leaves = [_leaf(t, want) for t, want in zip(inputs, wanted, strict=True)]
            out = forward(*leaves)
            asked = [t for t in leaves if t is not None and t.requires_grad]
            found = iter(_gradients(out[0] if isinstance(out, tuple) else out, asked, grad))
    finally:
        torch._C._dispatch_tls_set_dispatch_key_excluded(_AUTOGRAD, excluded)
    return [next(found) if t is not None and t.requires_grad else grad.new_empty(0) for t in leaves]


def _leaf(t: Tensor | None, wanted: bool) -> Tensor | None:
    return None if t is None else t.detach().requires_grad_(wanted)


def _gradients(out: Tensor, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    if not inputs:
        return []
    grads = torch.autograd.grad(out, inputs, grad.to(out.dtype), allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, grads, strict=True)]


def nhwc_input(op: str, x: Any) -> Tensor:
    """The `[N, C, H, W]` that every op reads, channels innermost."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: argument 'x' got {type(x).__name__}, wants torch.Tensor")
    if x.dim() != 4:
        raise ValueError(f"{op}: argument 'x' expected 4D input (got {x.dim()}D input of shape {list(x.shape)})")
    return to_nhwc(x)[0]


def innermost(x: Tensor, shape: Sequence[int]) -> Tensor:
    """An output of `shape` in the dtype of x, channels innermost."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def sums(x: Tensor, *shape: int) -> Tensor:
    """An output in the dtype of sums for x."""
    return x.new_empty(shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
