"""Builds the emulator with the host compiler and runs csrc/cuda kernels on it."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import struct
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = Path(os.environ.get("LIGHTOPS_EMULATOR_BUILD", HERE / "_build"))
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
ACT_CODES = {"none": 0, "relu": 1, "relu6": 2, "hardswish": 3, "silu": 4}

# -O1: the kernels' unrolled loops make -O2 twice as slow to compile and hardly faster to run; the emulator's own
# files get -O2.
SOURCES = (".cu", ".cpp")
FLAGS = ["-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DLIGHTOPS_EMULATE"]


def build(
    sources: list[Path] | None = None,
    name: str = "liblightops_emulator.so",
    kernels: Path = ROOT / "csrc/cuda",
    link: Sequence[str] = (),
    extra: dict[str, Sequence[str]] | None = None,
) -> Path:
    """Compiles what is out of date and returns the library. Safe to call from several processes at once.

    `sources` None: the emulator with the kernels of the folder `kernels`. `extra`: flags for the sources under a
    folder. Objects are shared between libraries.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    library = BUILD / name
    compiler = os.environ.get("CXX", "g++")
    includes = [f"-I{HERE / 'host'}", f"-I{ROOT / 'csrc/include'}", f"-I{kernels}"]
    sources = [*sorted((HERE / "host").glob("*.cpp")), *kernel_sources(kernels)] if sources is None else sources

    def compile_one(source: Path) -> None:
        target = object_of(source)
        optimise = "-O2" if source.parent.name == "host" else "-O1"
        more = next((flags for folder, flags in (extra or {}).items() if str(source).startswith(folder)), ())
        command = [compiler, *FLAGS, *more, optimise, *includes, "-MMD", "-MF", str(target.with_suffix(".d"))]
        command += ["-x", "c++", "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            target.unlink(missing_ok=True)
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")

    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", "2"))) as pool:
            list(pool.map(compile_one, [source for source in sources if out_of_date(object_of(source))]))
        objects = [object_of(source) for source in sources]
        listing, stamp = "\n".join(map(str, objects)), library.with_suffix(".objects")
        newest = max(o.stat().st_mtime for o in objects)
        same = stamp.exists() and stamp.read_text() == listing
        if not library.exists() or library.stat().st_mtime < newest or not same:
            # A process that has the old library mapped keeps it: a new file takes its name.
            fresh = library.with_suffix(".new")
            subprocess.run([compiler, "-shared", "-o", str(fresh), *map(str, objects), *link], check=True)
            fresh.replace(library)
            stamp.write_text(listing)
    return library


def kernel_sources(kernels: Path = ROOT / "csrc/cuda") -> list[Path]:
    return sorted(f for folder in (kernels, kernels / "training") for f in folder.glob("*.c*") if f.suffix in SOURCES)


def host_sources() -> list[Path]:
    """The emulator itself, without the C interface for the tests."""
    return sorted(f for f in (HERE / "host").glob("*.cpp") if f.stem not in ("harness", "training"))


def build_changed(name: str, kernels: Path, file: str) -> Path:
    """The emulator with `kernels`, a copy of csrc/cuda in which `file` differs: compiles anew what depends on it."""
    build()
    original = ROOT / "csrc/cuda"
    sources = sorted((HERE / "host").glob("*.cpp"))
    for source in kernel_sources(original):
        changed = str(original / file) in dependencies(object_of(source))
        sources.append(kernels / source.relative_to(original) if changed else source)
    return build(sources, name, kernels)


def object_of(source: Path) -> Path:
    """Sources of a copy have their objects beside it."""
    folder = (
        BUILD if source.is_relative_to(ROOT) else source.parents[len(source.parts) - 1 - source.parts.index("cuda")]
    )
    return folder / f"{'.'.join(source.parts[-3:])}.o"


def dependencies(target: Path) -> list[str]:
    """Files that the compiler named beside the object."""
    return target.with_suffix(".d").read_text().replace("\\\n", " ").split(":", 1)[1].split()


def out_of_date(target: Path) -> bool:
    """By the dependencies that the compiler wrote beside the object."""
    depfile = target.with_suffix(".d")
    if not target.exists() or not depfile.exists():
        return True
    made = target.stat().st_mtime
    return any(not Path(f).exists() or Path(f).stat().st_mtime > made for f in dependencies(target))


def build_bindings() -> Path:
    """csrc/torch/cuda with the emulator behind it: operators of the names of the real ones, for tensors of the CPU."""
    include = Path(torch.__file__).parent / "include"
    flags = ["-DTORCH_TARGET_VERSION=0x020a000000000000ULL", "-fvisibility=hidden", "-isystem", str(include)]
    folder = ROOT / "csrc/torch/cuda"
    schemas = [HERE / "bindings.cpp", ROOT / "csrc/torch/training/schemas.cpp", ROOT / "csrc/torch/chain.cpp"]
    bindings = [*sorted(folder.glob("*.cpp")), *sorted((folder / "training").glob("*.cpp")), *schemas]
    library = Path(torch.__file__).parent / "lib"
    link = ["-Wl,-Bsymbolic", f"-L{library}", "-ltorch_cpu", "-lc10"]
    extra = {str(path): flags for path in (folder, *schemas)}
    return build([*host_sources(), *kernel_sources(), *bindings], "liblightops_bindings.so", link=link, extra=extra)


@dataclass
class Gpu:
    """What the planner is told of the device; the defaults keep grids small, so that splits and tails are met often."""

    multiprocessors: int = 8
    shared_limit: int = 227 * 1024
    tf32: bool = False


@dataclass
class Outcome:
    refusal: str | None
    faults: list[dict]
    counters: dict = field(default_factory=dict)


class Emulator:
    def __init__(self, library: Path | None = None) -> None:
        self.library = ctypes.CDLL(str(library or build()))
        for name in ("emulator_run", "emulator_faults", "emulator_counters", "emulator_kernels"):
            getattr(self.library, name).restype = ctypes.c_char_p

    @contextmanager
    def dry(self) -> Iterator[None]:
        """Launches are noted and not executed."""
        self.library.emulator_dry(1)
        try:
            yield
        finally:
            self.library.emulator_dry(0)

    def kernels_run(self) -> set[str]:
        """Signatures of the launch of every kernel run since the library was loaded."""
        return {
            line.split("kKernel = ")[1].split(";")[0] for line in self.library.emulator_kernels().decode().splitlines()
        }

    def kernels_built(self) -> set[str]:
        """The same, of every kernel in the library: the compiler keeps each launch's signature as a string."""
        text = build().read_bytes()
        return {m.decode() for m in re.findall(rb"kKernel = ([^;\x00]+); Params", text)}

    def run(
        self,
        op: str,
        fields: list[int],
        regions: list[tuple[torch.Tensor, bool, str]],
        gpu: Gpu,
        counting: bool = False,
    ) -> Outcome:
        """`regions`: (tensor that owns the storage, writable, label); the kernels may touch nothing else."""
        self.library.emulator_reset(int(counting))
        for tensor, writable, label in regions:
            if tensor is not None and tensor.numel():
                self.library.emulator_region(
                    ctypes.c_void_p(tensor.data_ptr()),
                    ctypes.c_int64(storage_bytes(tensor)),
                    int(writable),
                    label.encode(),
                )
        array = (ctypes.c_int64 * len(fields))(*fields)
        refusal = self.library.emulator_run(op.encode(), array, gpu.multiprocessors, gpu.shared_limit, int(gpu.tf32))
        faults = json.loads(self.library.emulator_faults())
        counters = json.loads(self.library.emulator_counters()) if counting else {}
        return Outcome(refusal.decode() if refusal else None, faults, counters)


def storage_bytes(tensor: torch.Tensor) -> int:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=False)) + 1
    return last * tensor.element_size()


def nhwc_fields(tensor: torch.Tensor | None) -> list[int]:
    """A logical NCHW tensor whose channels are innermost, as lightops::Nhwc."""
    if tensor is None:
        return [0] * 7
    n, c, h, w = tensor.shape
    assert c == 1 or tensor.stride(1) == 1
    return [tensor.data_ptr(), n, h, w, c, tensor.stride(3), tensor.stride(0)]


def window_fields(kernel, stride=1, padding=0, dilation=1) -> list[int]:
    pair = lambda v: [v, v] if isinstance(v, int) else list(v)  # noqa: E731
    return [*pair(kernel), *pair(stride), *pair(padding), *pair(dilation)]


def norm_fields(mean=None, var=None, gamma=None, beta=None, eps: float = 0.0, batch: bool = False) -> list[int]:
    """lightops::Norm of float32 vectors; mean None: no normalisation."""
    bits = int.from_bytes(struct.pack("<d", eps), "little", signed=True)
    return [*map(pointer, (mean, var, gamma, beta)), bits, int(batch)]


def weight_fields(weight: torch.Tensor | None) -> list[int]:
    """lightops::TrainWeight: address and strides of [O, I, kh, kw]."""
    return [0] * 5 if weight is None else [weight.data_ptr(), *weight.stride()]


def pointer(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
