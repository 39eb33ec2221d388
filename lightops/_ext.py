"""The native libraries: loaded here and nowhere else, once, at import. A failure is a recorded reason, never an error.

_C      pybind11, no torch: build facts, CPU features, packed sizes
_ops    stable-ABI operators for the CPU: `torch.ops.lightops.*`
_cuda   stable-ABI operators for CUDA
"""

import importlib.util
import platform
import sys
import warnings
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lightops import _env
from lightops._version import __version__

_FOLDER = Path(__file__).resolve().parent
_TORCH_FLOOR = (2, 10)
_REBUILD = "build it with `pip install .` (or `make build` in a checkout)"


def _one_line(error: BaseException) -> str:
    # torch wraps the loader's message, which names the missing symbol or file, in one that names only the path.
    return " ".join(str(error.__cause__ or error).split())


@cache
def _module() -> tuple[ModuleType | None, str]:
    """`_C` and "", or None and the reason. Looked for in this package's folder alone: never another copy's."""
    spec = PathFinder.find_spec("lightops._C", [str(_FOLDER)])
    if spec is None:
        others = sorted(path.name.split(".")[1] for path in _FOLDER.glob("_C.*.so"))
        if not others:
            return None, f"lightops._C is not built; {_REBUILD}"
        found = sys.implementation.cache_tag
        return None, f"lightops._C is built for {', '.join(others)}, this Python is {found}; re{_REBUILD}"
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        return None, f"lightops._C does not load: {_one_line(error)}; re{_REBUILD}"
    return module, ""


@cache
def build_info() -> dict[str, str]:
    """What the build was made with (torch, Python, compiler, flags, instruction sets, CUDA); empty when unknown."""
    module, _ = _module()
    return dict(module.build_info()) if module else {}


@cache
def _library(stem: str) -> str:
    """Load one operator library; "" when it is there, else the reason."""
    path = _FOLDER / f"{stem}.so"
    if not path.is_file():
        note = build_info().get("cuda", "") if stem == "_cuda" else ""
        return f"lightops/{path.name} is {note}" if note else f"lightops/{path.name} is not built; {_REBUILD}"
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < _TORCH_FLOOR:
        return f"lightops needs torch >= {'.'.join(map(str, _TORCH_FLOOR))}, found {torch.__version__}"
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        built = build_info().get("torch", "an unknown version")
        return (
            f"lightops/{path.name}, built for torch {built}, does not load in torch {torch.__version__}: "
            f"{_one_line(error)}; re{_REBUILD}"
        )
    return ""


def cpu_reason() -> str:
    """Why the CPU operators cannot run; "" when they can."""
    return _library("_ops") or _module()[1]


def _device_arch_reason() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device is visible"
    return ""


def cuda_reason() -> str:
    """Why the CUDA operators cannot run; "" when they can."""
    return _library("_cuda") or _device_arch_reason()


def triton_reason() -> str:
    """Why the Triton kernels cannot run; "" when they can. Does not import triton."""
    if importlib.util.find_spec("lightops.kernels") is None or not (_FOLDER / "kernels" / "triton").is_dir():
        return "this version has no Triton kernels"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return _device_arch_reason()


def isa() -> str:
    """The instruction set of the CPU kernels; "" when they are not built."""
    module, _ = _module()
    return module.isa() if module else ""


def reads_pairs() -> bool:
    """Whether the CPU kernels' products take weights in pairs of bfloat16 (AVX512-BF16)."""
    module, _ = _module()
    return module is not None and module.isa_reads_pairs()


def isas_built() -> list[str]:
    """Instruction sets in this build, best first."""
    module, _ = _module()
    return module.isas_built() if module else []


def cpu_supports(isa: str) -> bool:
    """Whether this CPU can run the kernels of an instruction set; False when they are not built."""
    module, _ = _module()
    return module is not None and module.cpu_supports(isa)


def guard_holds() -> Any:
    """The native check of `lightops.modules._guard.Guard`, or None when `_C` is missing."""
    module, _ = _module()
    return module.guard_holds if module else None


def packed_numel(out_channels: int, in_channels: int, kh: int, kw: int, algo: int, pairs: bool = False) -> int:
    """Elements of the blob that `pack_conv2d` returns for these sizes. Raises RuntimeError when `_C` is missing."""
    module, reason = _module()
    if module is None:
        raise RuntimeError(f"lightops: packed_numel needs the native module: {reason}")
    return module.packed_numel(out_channels, in_channels, kh, kw, algo, pairs)


def _check_isa() -> None:
    """An instruction set that was asked for by name and is not the one that runs is said aloud, once."""
    module, _ = _module()
    asked = _env.cpu_isa()
    if module and asked not in ("auto", module.isa()):
        warnings.warn(
            f"LIGHTOPS_CPU_ISA={asked!r} is not used: {module.isa_reason()} (built: {', '.join(module.isas_built())})",
            RuntimeWarning,
            stacklevel=3,
        )


def load() -> None:
    """Load whatever can be loaded. Never raises; `status()` tells the rest."""
    _module()
    _library("_ops")
    if torch.version.cuda is not None:
        _library("_cuda")
    _check_isa()


def status() -> dict[str, Any]:
    """What is on and off on this machine and why: the data behind `lightops.info()` and `lightops info`.

    Keys: `lightops`, `python`, `torch` (found, built_for, stable_abi_target), `backends` (by name: available, reason),
    `cpu` (isa, why, built, bfloat16_pairs, features), `build` (compiler, flags and notes),
    `environment` (our variables as set).
    """
    module, module_reason = _module()
    info = build_info()
    reasons = {"cuda": cuda_reason(), "triton": triton_reason(), "cpu": cpu_reason(), "reference": ""}
    return {
        "lightops": __version__,
        "python": platform.python_version(),
        "torch": {
            "found": torch.__version__,
            "built_for": info.get("torch", ""),
            "stable_abi_target": info.get("torch_target", ""),
        },
        "backends": {name: {"available": not why, "reason": why} for name, why in reasons.items()},
        "cpu": {
            "isa": isa(),
            "why": module.isa_reason() if module else module_reason,
            "built": isas_built(),
            "bfloat16_pairs": reads_pairs(),
            "features": module.cpu_features() if module else [],
            "torch_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "build": info,
        "environment": _env.as_set(),
    }
