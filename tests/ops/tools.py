"""How the tests call an op: on poisoned memory, as stock, at its native boundary, with a changed BN."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightops import ops, reference
from lightops.reference import BatchNormParams
from lightops.testing.calls import Call
from lightops.testing.layouts import poisoned_outputs


def run_public(call: Call, backend: str = "cpu") -> Tensor:
    """The public op on poisoned memory."""
    with torch.no_grad(), poisoned_outputs():
        return getattr(ops, call.op)(*call.args, backend=backend, **call.kwargs)


def stock(call: Call) -> Tensor:
    """The op as PyTorch's own operators compute it, in the call's dtype."""
    kwargs = {key: value for key, value in call.kwargs.items() if key != "winograd"}
    with torch.no_grad():
        return getattr(reference, call.op)(*call.args, **kwargs)


def native_arguments(call: Call) -> tuple[Any, tuple]:
    """The operator `lightops::<op>` behind a public call, and the packed arguments that it is called with."""
    module = importlib.import_module(f"lightops.ops.{call.op}")
    handle, seen = module._ops["cpu"], []

    def record(*args: Any) -> Tensor:
        seen.append(args)
        return handle(*args)

    module._ops["cpu"] = record
    try:
        run_public(call)
    finally:
        module._ops["cpu"] = handle
    return handle, seen[0]


def replace_bn(call: Call, change: Callable[[BatchNormParams], Any], index: int = 0) -> Call:
    """The call with `change` applied to its BN number `index`, in argument order; IndexError past the last."""
    seen = 0

    def visit(value: Any) -> Any:
        nonlocal seen
        if isinstance(value, BatchNormParams):
            seen += 1
            return change(value) if seen == index + 1 else value
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(visit, value))
        if isinstance(value, (tuple, list)):
            return type(value)(map(visit, value))
        if isinstance(value, dict):
            return {key: visit(item) for key, item in value.items()}
        return value

    changed = call._replace(args=visit(call.args), kwargs=visit(call.kwargs))
    if seen <= index:
        raise IndexError(f"{call.op} has {seen} BNs")
    return changed


def significant_strides(t: Tensor) -> list[int]:
    """Strides of the dimensions that have more than one element: the others address nothing."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]
