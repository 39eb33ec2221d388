"""Which backend runs an op: a table of backends with reasons, the `backend=` argument, `LIGHTOPS_BACKEND`,
`LIGHTOPS_DISABLE`.

Hot paths (`run_<op>`) do not come through here: a module decides once and then calls the kernel.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightops import _env, _ext
from lightops.kernels import cuda
from lightops.ops import _triton

# The rule where nothing was measured. CUDA before Triton: its Fire is one kernel and not three, its stem one and not
# two, small grids split their reductions, and a launch costs the host less. `swap_(model, example)` measures.
ORDER = ("cuda", "triton", "cpu", "reference")
# Backends whose packed weights are the same (lightops/kernels/cuda.py).
GPU = frozenset({"cuda", "triton"})
# The argument `backend` of `run_<op>` for the operators of the native libraries, which go by the device of x.
NATIVE = "cpu"
# Read once: the library is loaded at import or not at all, and tracing must not follow the file system.
_CPU_REASON = _ext.cpu_reason()
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class BackendUnavailable(RuntimeError):
    """A backend that was asked for by name cannot serve the call; the message lists reasons and what is available."""


class Backend(NamedTuple):
    """One way to run an op.

    `supports` gets the op's public arguments and returns the reasons against, empty meaning yes.
    """

    name: str
    supports: Callable[..., list[str]]
    run: Callable[..., Tensor]


class Decision(NamedTuple):
    """What `explain` reports: the backend chosen for a call, and why each one before it was passed over."""

    op: str
    backend: str
    reasons: dict[str, list[str]]

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.backend}"]
        lines += [f"  {name}: {'; '.join(reasons)}" for name, reasons in self.reasons.items()]
        return "\n".join(lines)


class OpTable:
    """The backends of one op, in order of preference."""

    def __init__(self, name: str, *backends: Backend):
        self.name = name
        self.backends = backends
        OPS[name] = self

    def decide(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Backend, dict[str, list[str]]]:
        """The first backend without a reason against it, and the reasons of those before."""
        passed: dict[str, list[str]] = {}
        for backend in self.backends:
            reasons = _reasons(backend, args, kwargs)
            if not reasons:
                return backend, passed
            passed[backend.name] = reasons
        raise BackendUnavailable(f"{self.name}: no backend can serve this call: {_join(passed)}")

    def serving(self, args: tuple, kwargs: dict[str, Any]) -> list[str]:
        """Every backend but the reference without a reason against it, in order."""
        return [b.name for b in self.backends if b.name != "reference" and not _reasons(b, args, kwargs)]

    def call(self, requested: str, *args: Any, **kwargs: Any) -> Tensor:
        """Run the op with the requested backend, or the best one for `"auto"`."""
        return self.choose(requested, args, kwargs).run(*args, **kwargs)

    def choose(self, requested: str, args: tuple, kwargs: dict[str, Any]) -> Backend:
        if requested == "auto":
            requested = _env.backend()
        if requested != "auto":
            return self._named(requested, args, kwargs)
        backend, passed = self.decide(args, kwargs)
        if backend.name == "reference" and not _env.disabled() and not torch.compiler.is_compiling():
            _warn_once(f"lightops.{self.name}: falling back to the reference implementation ({_join(passed)})")
        return backend

    def _named(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Backend:
        if name not in ORDER:
            raise ValueError(f"{self.name}: got backend={name!r}, wants 'auto' or one of {', '.join(ORDER)}")
        reasons = {b.name: _reasons(b, args, kwargs) for b in self.backends}
        for backend in self.backends:
            if backend.name == name and not reasons[name]:
                return backend
        why = "; ".join(reasons.get(name, ["this op has no such backend in this build"]))
        available = ", ".join(n for n, r in reasons.items() if not r)
        raise BackendUnavailable(f"{self.name}: backend {name!r} cannot serve this call: {why}. Available: {available}")


OPS: dict[str, OpTable] = {}
_warned: set[str] = set()


def explain(op: str | Callable, *args: Any, **kwargs: Any) -> Decision:
    """Which backend `lightops.ops.<op>(*args, **kwargs)` would use, and the reason each preferred one is passed over.

    Runs nothing.
    """
    name = op if isinstance(op, str) else op.__name__
    if name not in OPS:
        raise ValueError(f"explain: got op={name!r}, wants one of {', '.join(sorted(OPS))}")
    kwargs.pop("backend", None)
    backend, passed = OPS[name].decide(args, kwargs)
    return Decision(name, backend.name, passed)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dict values."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def _inference_reasons(args: tuple, kwargs: dict[str, Any]) -> list[str]:
    """Reasons against any of the native kernels: they are inference kernels, outside torch's transforms."""
    reasons = []
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors_in((args, kwargs))):
        reasons.append("gradients required")
    if autocasts(args[0]):
        reasons.append("autocast is on, which casts each operation of the reference")
    if not torch.compiler.is_compiling() and _transformed():
        reasons.append("inside a torch.func transform or forward-mode differentiation")
    return reasons


def cpu_supports(*args: Any, **kwargs: Any) -> list[str]:
    """Reasons against the CPU kernels: not built, other device or dtype, or a gradient is wanted (they are inference
    kernels)."""
    reasons = [_CPU_REASON] if _CPU_REASON else []
    x = args[0]
    if x.device.type not in ("cpu", "meta"):
        reasons.append(f"input is on {x.device}, wants cpu")
    if x.dtype not in KERNEL_DTYPES:
        reasons.append(f"dtype {x.dtype} has no kernel")
    return reasons + _inference_reasons(args, kwargs)


def _gpu_reasons(library: Callable[[], str], args: tuple, kwargs: dict[str, Any]) -> list[str]:
    """Reasons against kernels for CUDA tensors: no library or device, other dtype, or a gradient is wanted."""
    x = args[0]
    if x.device.type != "cuda":
        return [f"input is on {x.device}, wants cuda"]
    reasons = [why] if (why := library()) else []
    if x.dtype not in cuda.DTYPES:
        reasons.append(f"dtype {x.dtype} has no kernel")
    return reasons + _inference_reasons(args, kwargs)


def cuda_supports(*args: Any, **kwargs: Any) -> list[str]:
    return _gpu_reasons(_ext.cuda_reason, args, kwargs)


def triton_supports(*args: Any, **kwargs: Any) -> list[str]:
    return _gpu_reasons(_triton.reason, args, kwargs)


def autocasts(x: Tensor) -> bool:
    """True where autocast is on for the device of x."""
    return x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type)


def op_table(name: str, kernels: Callable[..., Tensor], reference: Callable[..., Tensor]) -> OpTable:
    """The table of an op. `kernels` takes the op's public arguments and `backend`: packing goes by the tensors' device.
    `reference`, its specification, serves every call, is differentiable and has no Winograd choice to make.
    """

    def run_reference(*args: Any, winograd: int = 0, **kwargs: Any) -> Tensor:
        return reference(*args, **kwargs)

    supports = {"cuda": cuda_supports, "triton": triton_supports, "cpu": cpu_supports}
    backends = (Backend(key, rule, partial(kernels, backend=key)) for key, rule in supports.items())
    return OpTable(name, *backends, Backend("reference", lambda *args, **kwargs: [], run_reference))


def _transformed() -> bool:
    """True inside vmap, grad, jvp: the kernels have no rules for these, and forward mode would silently lose the
    tangent."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _reasons(backend: Backend, args: tuple, kwargs: dict[str, Any]) -> list[str]:
    if backend.name != "reference" and _env.disabled():
        return ["LIGHTOPS_DISABLE is set"]
    return backend.supports(*args, **kwargs)


def _join(passed: dict[str, list[str]]) -> str:
    return "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in passed.items())


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=5)
