"""What nvcc made of each kernel for each architecture, read from ptxas' own words and, where a cuobjdump is found,
from the disassembly: registers, spills, shared memory, occupancy bound, tensor-core instructions, width of global
accesses."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

# Per multiprocessor, from NVIDIA's table of compute capabilities: threads, blocks, shared memory in KiB.
LIMITS = {
    "80": (2048, 32, 164),
    "86": (1536, 16, 100),
    "89": (1536, 24, 100),
    "90": (2048, 32, 228),
    "100": (2048, 32, 228),
    "120": (1536, 24, 100),
}
REGISTERS = 65536  # per multiprocessor, every architecture above

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
_SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers.*?(?:(\d+) bytes smem)?")
# SASS of the instructions that matter; the width suffix is absent for 32 bits.
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s")
_TENSOR = re.compile(r"\b(HMMA|QMMA|UTCHMMA)\.(\S+)")
_GLOBAL = re.compile(r"\b(LDG|STG|LDGSTS)\.(\S+)")
_LOCAL = re.compile(r"\b(LDL|STL)\b")
_GENERIC = re.compile(r"\b(LD|ST)\.E")


@dataclass
class Kernel:
    name: str
    arch: str
    registers: int = 0
    stack: int = 0
    spill_bytes: int = 0
    threads: int = 0
    blocks_by_registers: int = 0
    tensor_core: int | None = None  # instructions in the code; None: not disassembled
    global_widths: dict[str, int] = field(default_factory=dict)  # "LDG 128": count
    local: int | None = None
    generic: int | None = None


def demangle(names: list[str]) -> dict[str, str]:
    filt = shutil.which("c++filt")
    if not filt or not names:
        return {name: name for name in names}
    out = subprocess.run([filt], input="\n".join(names), capture_output=True, text=True).stdout.split("\n")
    short = [re.sub(r"lightops::cuda::|\(anonymous namespace\)::|^void ", "", line) for line in out]
    return {name: re.sub(r"\((?:\w+Args)\)$", "", line) for name, line in zip(names, short, strict=False)}


def threads_of(name: str) -> int:
    """Threads of a block, from the kernel's tile shape: kM, kN, warps down, warps across, stages."""
    shape = re.search(r"TileShape<\w+, \d+, \d+, (\d+), (\d+), \d+>", name)
    return int(shape[1]) * int(shape[2]) * 32 if shape else 256


def read_log(text: str) -> list[Kernel]:
    kernels: list[Kernel] = []
    for line in text.splitlines():
        if match := _ENTRY.search(line):
            kernels.append(Kernel(match[1], match[2]))
        elif match := _SPILL.search(line):
            kernels[-1].stack, kernels[-1].spill_bytes = int(match[1]), int(match[2]) + int(match[3])
        elif match := _USED.search(line):
            kernels[-1].registers = int(match[1])
    return kernels


def occupancy(kernel: Kernel) -> int:
    """Blocks a multiprocessor holds by registers and threads (a warp's registers are given out in units of 256)."""
    threads, blocks, _ = LIMITS.get(kernel.arch, LIMITS["90"])
    per_warp = -(-kernel.registers * 32 // 256) * 256
    warps = kernel.threads // 32
    return min(blocks, threads // kernel.threads, REGISTERS // (per_warp * warps) if per_warp else blocks)


def find_cuobjdump() -> str | None:
    """On PATH, in CUDA_HOME, or the one that Triton's wheel carries."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    for path in (shutil.which("cuobjdump"), f"{home}/bin/cuobjdump"):
        if path and os.access(path, os.X_OK):
            return path
    spec = find_spec("triton")
    if spec and spec.submodule_search_locations:
        for found in Path(spec.submodule_search_locations[0]).rglob("cuobjdump"):
            return str(found)
    return None


def disassemble(cuobjdump: str, obj: Path, kernels: dict[tuple[str, str], Kernel]) -> None:
    # cuobjdump asks the nvdisasm beside it.
    env = {**os.environ, "PATH": f"{Path(cuobjdump).parent}:{os.environ['PATH']}"}
    text = subprocess.run([cuobjdump, "-sass", str(obj)], capture_output=True, text=True, env=env).stdout
    arch, kernel = "", None
    for line in text.splitlines():
        if match := re.search(r"arch = sm_(\w+)", line):
            arch = match[1]
        elif match := re.search(r"Function : (\w+)", line):
            kernel = kernels.get((match[1], arch))
            if kernel:
                kernel.tensor_core = kernel.local = kernel.generic = 0
        elif kernel and _INSTRUCTION.match(line):
            _count(kernel, line)


def _count(kernel: Kernel, line: str) -> None:
    if _TENSOR.search(line):
        kernel.tensor_core += 1
    elif match := _GLOBAL.search(line):
        width = next((w for w in ("256", "128", "64", "U16", "U8") if w in match[2].split(".")), "32")
        key = f"{match[1]} {width}"
        kernel.global_widths[key] = kernel.global_widths.get(key, 0) + 1
    elif _LOCAL.search(line):
        kernel.local += 1
    elif _GENERIC.search(line):
        kernel.generic += 1


def read(objects: list[Path]) -> list[Kernel]:
    table, cuobjdump = [], find_cuobjdump()
    for obj in objects:
        log = obj.with_suffix(".ptxas.txt")
        kernels = read_log(log.read_text()) if log.is_file() else []
        if cuobjdump and kernels:
            disassemble(cuobjdump, obj, {(k.name, k.arch): k for k in kernels})
        table += kernels
    names = demangle(sorted({k.name for k in table}))
    for kernel in table:
        kernel.name = names[kernel.name]
        kernel.threads = threads_of(kernel.name)
        kernel.blocks_by_registers = occupancy(kernel)
    return table


def faults(table: list[Kernel]) -> list[str]:
    """Spills anywhere, or a product that should run on the tensor cores and does not; one line for each kind."""
    spilled = [k for k in table if k.spill_bytes or k.local]
    products = [k for k in table if re.search(r"TileShape<(F16|BF16|TF32),", k.name)]
    found = (
        ("spill registers", spilled),
        ("have no tensor-core instruction", [k for k in products if k.tensor_core == 0]),
    )
    return [f"{len(ks)} kernels {what}, first {ks[0].name} for sm_{ks[0].arch}" for what, ks in found if ks]


def summary(table: list[Kernel]) -> str:
    lines = [f"{len(table)} kernels x architectures, {sum(bool(k.spill_bytes) for k in table)} with spills"]
    for arch in sorted({k.arch for k in table}, key=int):
        of_arch = [k for k in table if k.arch == arch]
        most = max(of_arch, key=lambda k: k.registers)
        tensor = sum(bool(k.tensor_core) for k in of_arch)
        seen = f"{tensor} with tensor-core instructions" if most.tensor_core is not None else "not disassembled"
        lines.append(f"  sm_{arch}: {len(of_arch)} kernels, up to {most.registers} registers, {seen}")
    return "\n".join(lines)


def write(table: list[Kernel], path: Path, nvcc: str) -> None:
    path.write_text(json.dumps({"nvcc": nvcc, "kernels": [asdict(k) for k in table]}, indent=1) + "\n")
