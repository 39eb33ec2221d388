"""What this machine offers to a build: torch, compilers, instruction sets, CUDA, jobs. Nothing here imports torch."""

import functools
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

TORCH_FLOOR = "2.10"

# Instruction sets by machine, best first: (name, compiler flags). "baseline" is what any machine of the kind runs.
ISA_FLAGS = {
    "x86_64": (
        ("v4bf16", ("-march=x86-64-v4", "-mavx512bf16")),
        ("v4", ("-march=x86-64-v4",)),
        ("v3", ("-march=x86-64-v3",)),
        ("baseline", ()),
    ),
    "aarch64": (("neon", ()),),
}
GENERIC_ISA = (("baseline", ()),)


class BuildError(SystemExit):
    """Ends the build with one line that says what is missing and what to do."""

    def __init__(self, reason: str):
        super().__init__(f"lightops build: {reason}")


class Torch(NamedTuple):
    root: Path
    version: str

    @property
    def include(self) -> Path:
        return self.root / "include"

    @property
    def lib(self) -> Path:
        return self.root / "lib"

    @property
    def cuda(self) -> bool:
        """Whether this torch has CUDA. Whether a GPU is visible is another matter, and none of the build's."""
        return (self.lib / "libtorch_cuda.so").is_file()


class Nvcc(NamedTuple):
    command: str
    version: str


def _installed_torch_root() -> Path | None:
    """The folder of the torch that a plain start of this interpreter would import.

    pip's isolated builds run the same interpreter with a site of their own put in front through the environment, so
    the question goes to a fresh process without those variables; .pth files and --system-site-packages count as usual.
    """
    spec = importlib.util.find_spec("torch")
    if spec and spec.origin:
        return Path(spec.origin).parent
    query = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s and s.origin else '')"
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONHOME")}
    answer = subprocess.run([sys.executable, "-c", query], env=env, capture_output=True, text=True, cwd=os.sep)
    origin = answer.stdout.strip()
    return Path(origin).parent if origin else None


@functools.cache
def find_torch() -> Torch | None:
    """The torch to compile against, or None. Its version is read from its files: importing it costs seconds."""
    root = _installed_torch_root()
    if root is None or not (root / "version.py").is_file():
        return None
    match = re.search(r"__version__[^=\n]*=\s*['\"]([^'\"]+)", (root / "version.py").read_text())
    return Torch(root, match.group(1) if match else "unknown")


def torch_cuda(torch: Torch) -> str | None:
    """The CUDA release that torch was built with, such as "13.0"; None for a torch without CUDA."""
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)", (torch.root / "version.py").read_text(), re.MULTILINE)
    return match.group(1) if match else None


def require_torch() -> Torch:
    torch = find_torch()
    if torch is None:
        raise BuildError(
            f"no torch in {sys.executable}; install torch>={TORCH_FLOOR} first (pip install torch), "
            "or let pip do it by building with build isolation"
        )
    numbers = tuple(int(n) for n in re.findall(r"\d+", torch.version)[:2])
    floor = tuple(int(n) for n in TORCH_FLOOR.split("."))
    if numbers and numbers < floor:
        raise BuildError(f"torch {torch.version} in {torch.root} is too old; lightops needs torch>={TORCH_FLOOR}")
    return torch


def pybind11_include(torch: Torch) -> Path:
    """Headers of the pybind11 package, else torch's copy: a build without isolation may have no other."""
    spec = importlib.util.find_spec("pybind11")
    if spec and spec.origin:
        return Path(spec.origin).parent / "include"
    return torch.include


def find_cxx(cross: str = "") -> tuple[str, ...]:
    """The C++ compiler: $CXX (may carry arguments, such as "ccache g++"), else the first usual name on PATH."""
    if not cross and os.environ.get("CXX"):
        command = tuple(shlex.split(os.environ["CXX"]))
        if not shutil.which(command[0]):
            raise BuildError(f"CXX names {command[0]!r}, which is not on PATH")
        return command
    for name in (f"{cross}g++",) if cross else ("g++", "clang++", "c++"):
        if shutil.which(name):
            return (name,)
    raise BuildError("no C++ compiler found; install g++ (or clang++), or name one in CXX")


@functools.cache
def accepts(cxx: tuple[str, ...], flags: tuple[str, ...]) -> bool:
    """Whether the compiler takes these flags for an empty C++ file."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*cxx, *flags, "-x", "c++", "-c", os.devnull, "-o", os.path.join(folder, "probe.o")]
        return subprocess.run(command, capture_output=True).returncode == 0


def isas(cxx: tuple[str, ...], machine: str = "") -> list[tuple[str, tuple[str, ...]]]:
    """The instruction sets that this compiler can build for the machine, best first."""
    known = ISA_FLAGS.get(machine or platform.machine(), GENERIC_ISA)
    return [(name, flags) for name, flags in known if accepts(cxx, flags)]


def find_nvcc() -> Nvcc | None:
    """nvcc of $CUDA_HOME, PATH or the usual place. torch's own idea of CUDA_HOME is None beside a CPU-only torch."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [os.path.join(home, "bin", "nvcc")] if home else [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    for command in filter(None, candidates):
        if os.access(command, os.X_OK):
            text = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
            match = re.search(r"release (\d+\.\d+)", text)
            if match:
                return Nvcc(command, match.group(1))
    return None


def static_cudart(nvcc: Nvcc) -> Path | None:
    """The folder of this nvcc's static runtime, where it lies in one of the usual places."""
    home = Path(nvcc.command).resolve().parents[1]
    folders = [home / "lib64", home / "lib", *sorted(home.glob(f"targets/{platform.machine()}*/lib"))]
    return next((folder for folder in folders if (folder / "libcudart_static.a").is_file()), None)


@functools.cache
def nvcc_archs(nvcc: Nvcc) -> set[str]:
    """Compute capabilities that nvcc compiles for, such as "9.0"."""
    text = subprocess.run([nvcc.command, "--list-gpu-arch"], capture_output=True, text=True).stdout
    return {f"{major}.{minor}" for major, minor in re.findall(r"compute_(\d+)(\d)\b", text)}


def _memory_gib() -> float:
    """Memory that a build may use: what is free now, within the control group's limit where there is one."""
    limits = []
    try:
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        limits.append(int(available.group(1)) / 2**20)
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()) / 2**30)
    except (OSError, ValueError, AttributeError):
        pass
    return min(limits, default=4.0)


def jobs(gib_per_job: float, memory_gib: float | None = None) -> int:
    """Compilers at once: $MAX_JOBS, else as many as there are cores and memory for."""
    if os.environ.get("MAX_JOBS"):
        try:
            return max(1, int(os.environ["MAX_JOBS"]))
        except ValueError:
            raise BuildError(f"MAX_JOBS={os.environ['MAX_JOBS']!r} is not a whole number") from None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory_gib() if memory_gib is None else memory_gib
    return max(1, min(cores, int(memory / gib_per_job)))
