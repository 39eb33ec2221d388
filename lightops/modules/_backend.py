"""Which backend a fused module takes: asked for, measured, or the first that serves."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lightops import _env
from lightops.modules._reader import Decline
from lightops.ops import OPS
from lightops.ops._dispatch import GPU


def choose_backend(op: str, x: Tensor, args: tuple, kwargs: dict[str, Any], chosen: str | None = None) -> str:
    """The backend by name: the one that LIGHTOPS_BACKEND asks for, else `chosen` where it serves, else the first that
    does. The reference is taken only when asked for: in its place the stock forward is as good and never slower.
    """
    requested = _env.backend()
    if _env.disabled():
        raise Decline("LIGHTOPS_DISABLE is set")
    with _without_autocast(x):
        if requested != "auto":
            return OPS[op].choose(requested, (x, *args), kwargs).name
        if chosen is not None and chosen in OPS[op].serving((x, *args), kwargs):
            return chosen
        backend, passed = OPS[op].decide((x, *args), kwargs)
    if backend.name == "reference":
        raise Decline("; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in passed.items()))
    return backend.name


def serving_backends(op: str, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> list[str]:
    """Every backend that `choose_backend` could be told to take."""
    requested = _env.backend()
    if requested != "auto":
        return [requested]
    with torch.no_grad(), _without_autocast(x):
        return OPS[op].serving((x, *args), kwargs)


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    # The dtype was settled by autocast's rule already; a backend is asked about that dtype.
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def packed_alike(a: str, b: str) -> bool:
    """Whether two backends read the same packed weights."""
    return a == b or {a, b} <= GPU


@torch.compiler.assume_constant_result
def backend_when_traced(op: str, device: str, dtype: torch.dtype, chosen: str | None) -> str | None:
    """`choose_backend` with nothing but the facts that a graph is specialised on anyway; None where it declines."""
    with torch.no_grad():
        try:
            return choose_backend(op, torch.empty((1, 1, 1, 1), dtype=dtype, device=device), (), {}, chosen)
        except (Decline, RuntimeError):
            return None
