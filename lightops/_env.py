"""The environment variables of lightops, read here alone (the native layer reads LIGHTOPS_CPU_ISA for itself).

| variable | values | effect |
|---|---|---|
| `LIGHTOPS_DISABLE` | 0 (default), 1 | 1: no fused path; ops run their reference, modules their stock forward |
| `LIGHTOPS_BACKEND` | auto (default), cuda, triton, cpu, reference | forces a backend; one that cannot serve raises |
| `LIGHTOPS_CPU_ISA` | auto (default), v4bf16, v4, v3, baseline, neon | instruction set of the CPU kernels |
| `LIGHTOPS_AUTOTUNE` | 0 (default), 1 | 1: Triton kernels measure their configurations at the first call of a shape |
| `LIGHTOPS_CACHE` | a folder (default `~/.cache/lightops`, by XDG_CACHE_HOME) | what is fetched, exported, tuned |
"""

import os
from pathlib import Path

BACKENDS = ("cuda", "triton", "cpu", "reference")


def _choice(name: str, allowed: tuple[str, ...], default: str) -> str:
    if name not in os.environ:  # half a microsecond at every call of an op; `get` takes two
        return default
    value = os.environ[name] or default
    if value not in allowed:
        raise ValueError(f"{name}={value!r}; expected one of {', '.join(allowed)}")
    return value


def disabled() -> bool:
    """Whether LIGHTOPS_DISABLE turns lightops off."""
    return _choice("LIGHTOPS_DISABLE", ("0", "1"), "0") == "1"


def backend() -> str:
    """The backend that LIGHTOPS_BACKEND asks for; "auto" when it asks for none."""
    return _choice("LIGHTOPS_BACKEND", ("auto", *BACKENDS), "auto")


def autotune() -> bool:
    """Whether LIGHTOPS_AUTOTUNE asks for measured configurations."""
    return _choice("LIGHTOPS_AUTOTUNE", ("0", "1"), "0") == "1"


def cpu_isa() -> str:
    """The value of LIGHTOPS_CPU_ISA as given (judged at load, where the reason is recorded); "auto" when unset."""
    return os.environ.get("LIGHTOPS_CPU_ISA") or "auto"


def as_set() -> dict[str, str]:
    """The variables that are set, with their values as given, valid or not."""
    names = ("LIGHTOPS_DISABLE", "LIGHTOPS_BACKEND", "LIGHTOPS_CPU_ISA", "LIGHTOPS_AUTOTUNE", "LIGHTOPS_CACHE")
    return {name: os.environ[name] for name in names if name in os.environ}


def cache_dir() -> Path:
    """The folder of files that can be made again (downloads, exported models); not created here."""
    asked = os.environ.get("LIGHTOPS_CACHE")
    if asked:
        return Path(asked)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightops"
