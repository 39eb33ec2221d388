"""The Triton kernels as operators of their own, `torch.ops.lightops_triton.*`: with the schemas of the native ones, and
beside the CUDA library.

Defining them does not import triton; the first call does.
"""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

from lightops import _ext

NAMESPACE = "lightops_triton"

# Module of lightops.kernels.triton -> the operators it implements, under the same names.
OPERATORS = {
    "bn_relu_conv2d": ("bn_relu_conv2d",),
    "conv1x1_bn_act": ("conv1x1_bn_act",),
    "dense_block": ("dense_block", "dense_block_"),
    "depthwise_pointwise": ("depthwise_pointwise",),
    "fire": ("fire",),
    "head": ("head",),
    "inverted_residual": ("inverted_residual",),
    "max_pool2d": ("max_pool2d",),
    "stem": ("stem", "stem_out"),
    "transition": ("transition", "transition_out"),
}


@cache
def reason() -> str:
    """Why Triton does not serve CUDA tensors in this process; "" when it does."""
    return _ext.triton_reason() or _ext.cpu_reason()


def kernel(module: str, name: str) -> Callable[..., Any]:
    """The launcher of an operator, imported at its first call."""

    @cache
    def launcher() -> Callable[..., Any]:
        return getattr(importlib.import_module(f"lightops.kernels.triton.{module}"), name)

    def call(*args: Any) -> Any:
        return launcher()(*args)

    return call


def tuning() -> AbstractContextManager[None]:
    """Inside, kernels choose their configuration by measuring, at the first call of a shape; nothing where Triton does
    not serve."""
    if reason():
        return nullcontext()
    return importlib.import_module("lightops.kernels.triton._autotune").tuning()


def _define() -> torch.library.Library | None:
    """The schemas are read off the native operators, so that the two cannot differ."""
    if _ext.cpu_reason():
        return None
    library = torch.library.Library(NAMESPACE, "DEF")
    for module, names in OPERATORS.items():
        for name in names:
            schema = str(getattr(torch.ops.lightops, name).default._schema)
            library.define(schema.removeprefix("lightops::"))
            library.impl(name, kernel(module, name), "CUDA")
    return library


# Operators live as long as their library object.
_LIBRARY = _define()
