"""The conditions of a measurement: machine, versions, load. A number without them is not a number."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "timm", "onnxruntime", "openvino", "ncnn", "onnx", "pnnx", "numpy")


def conditions(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge a number: date, device, cores, instruction set, load, versions, command line."""
    from lightops import info

    state = info()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command("lightops", *sys.argv[1:]),
        "device": device_name(device),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "lightops": state["lightops"],
        "isa": state["cpu"]["isa"] or "not built",
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def command(*words: str) -> str:
    """The command as typed, without the report folder: that is a matter of one machine."""
    kept = list(words)
    if "--out" in kept:
        at = kept.index("--out")
        del kept[at : at + 2]
    return shlex.join(word for word in kept if not word.startswith("--out="))


def device_name(device: torch.device) -> str:
    """The processor's or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with_names = Path("/proc/cpuinfo")
    if with_names.is_file():
        for line in with_names.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def busy(state: dict[str, Any]) -> str:
    """A warning when other work had the cores as the measurement began, else ""."""
    load = state["load"]
    if load is None or load < 0.5:
        return ""
    return f"the machine was not idle: load average {load} on {state['cores']} cores; compare ratios, not times"


def summary(state: dict[str, Any]) -> str:
    """One line for the foot of a table."""
    versions = ", ".join(f"{name} {version}" for name, version in state["versions"].items())
    return (
        f"{state['device']}, {state['cores']} cores, {state['system']}, lightops {state['lightops']} ({state['isa']}), "
        f"Python {state['python']}, {versions}, {state['date']}, load {state['load']}"
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
