"""Fused kernels for light CNNs (DenseNet, SqueezeNet, MobileNet) in PyTorch.

    model = torchvision.models.densenet121(weights=...).eval()
    report = lightops.swap_(model)        # same parameters, same state_dict, same numbers, faster

Importing registers the native operators (`torch.ops.lightops.*`) where they are built; everything else is loaded on
first use. `lightops.info()` tells what is on, what is off, and why.
"""

import importlib
from typing import Any

from lightops import _ext
from lightops._version import __version__

# name -> where it lives; None: the submodule of that name
_LAZY = {
    "explain": "lightops.swap",
    "swap_": "lightops.swap",
    "unswap_": "lightops.swap",
    "FallbackWarning": "lightops.modules",
    "SwapError": "lightops.swap",
    "SwapReport": "lightops.swap",
    "modules": None,
    "networks": None,
    "ops": None,
    "reference": None,
    "swap": None,
    "testing": None,
}

__all__ = [
    "FallbackWarning", "SwapError", "SwapReport", "__version__", "explain", "info", "modules", "networks", "ops",
    "swap_", "unswap_",
]  # fmt: skip

info = _ext.status
_ext.load()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lightops' has no attribute {name!r}")
    home = _LAZY[name]
    value = getattr(importlib.import_module(home), name) if home else importlib.import_module(f"lightops.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
