"""What is compiled from what, with which flags: the list of steps from csrc/ to the three libraries of the package.

    csrc/cpu/**/*.cpp     one object per instruction set   \\
    csrc/cpu/once/*.cpp   one object (ISA choice, packing)  >  _ops.so   stable ABI, loaded by torch.ops.load_library
    csrc/torch/*.cpp      stable-ABI bindings              /      training/*.cpp too
    csrc/python/*.cpp     pybind11, no torch            -> _C.<tag>.so   with the parts of csrc/cpu that it refers to
    csrc/cuda/*.cu        nvcc, no torch                \\  training/*.cu too
    csrc/torch/cuda/*.cpp stable-ABI bindings            -> _cuda.so   training/*.cpp too
"""

import os
import platform
import re
import shlex
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from build_backend import host
from build_backend.runner import Step

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
TORCH_TARGET = "0x020a000000000000ULL"  # the stable ABI of torch 2.10

# Contraction to FMA is wanted in every kernel; errno and FP traps are what keeps GCC from vectorising min/max.
KERNEL_FLAGS = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
COMMON_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
# Covers Ampere to Blackwell; the last one also as PTX, for what comes after. Those that nvcc lacks are left out.
CUDA_ARCHS = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")


@dataclass
class Toolchain:
    """The C++ compiler with the options that hold for every file."""

    cxx: tuple[str, ...]
    machine: str = field(default_factory=platform.machine)
    sanitize: str = field(default_factory=lambda: os.environ.get("LIGHTOPS_SANITIZE", ""))
    debug: bool = field(default_factory=lambda: os.environ.get("DEBUG", "0") not in ("", "0"))

    @property
    def mode_flags(self) -> tuple[str, ...]:
        flags = ("-Og", "-g") if self.debug else ("-O3",)
        if self.sanitize:
            flags = ("-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={self.sanitize}", "-fno-sanitize-recover=all")
        return flags

    def object(self, source: Path, output: Path, *flags: str) -> Step:
        depfile = output.with_suffix(".d")
        command = (*self.cxx, *COMMON_FLAGS, *self.mode_flags, *flags, f"-I{CSRC / 'include'}")
        command += ("-MMD", "-MF", str(depfile), "-c", str(source), "-o", str(output))
        return Step(output, command, (source,), depfile)

    def shared(self, output: Path, inputs: list[Path], *flags: str) -> Step:
        # -O1 sorts exports; --exclude-libs keeps archive members private even where a file forgot to hide them.
        strip = () if self.debug or self.sanitize else ("-Wl,--strip-debug",)
        command = (*self.cxx, "-shared", *self.mode_flags, *strip, "-Wl,--exclude-libs,ALL", "-o", str(output))
        return Step(output, (*command, *map(str, inputs), *flags), tuple(inputs))


def sources(folder: str, suffix: str = ".cpp") -> list[Path]:
    return sorted((CSRC / folder).glob(f"*{suffix}"))


def cpu_objects(tools: Toolchain, folder: Path) -> list[Step]:
    """Kernel objects, one per instruction set, and the once-only objects, which are told the instruction sets built."""
    built = host.isas(tools.cxx, tools.machine)
    base, include = CSRC / "cpu", f"-I{CSRC / 'cpu'}"
    steps = [
        tools.object(
            src,
            (folder / "cpu" / isa / src.relative_to(base)).with_suffix(".o"),
            *(*KERNEL_FLAGS, *flags, f"-DLIGHTOPS_ISA={isa}", include),
        )
        for isa, flags in built
        for src in sorted(base.rglob("*.cpp"))
        if src.parent.name != "once"
    ]
    each = "-DLIGHTOPS_FOR_EACH_ISA(X)=" + " ".join(f"X({isa})" for isa, _ in built)
    once = folder / "cpu" / "once"
    return steps + [tools.object(src, once / f"{src.stem}.o", each, include) for src in sources("cpu/once")]


def native_test(tools: Toolchain, folder: Path) -> tuple[Path, list[Step]]:
    """The C++ self-test of the CPU kernels: kernels and tests/native, no torch, no Python."""
    kernels = cpu_objects(tools, folder)
    flags = (f"-I{CSRC / 'cpu'}", "-pthread")
    files = sorted((ROOT / "tests" / "native").glob("*.cpp"))
    tests = [tools.object(src, folder / "test" / f"{src.stem}.o", *flags) for src in files]
    inputs = tuple(step.output for step in (*tests, *kernels))
    program = folder / "selftest"
    static = ("-static",) if tools.machine != platform.machine() else ()  # qemu-user then needs no target libraries
    link = (*tools.cxx, *tools.mode_flags, *static, "-pthread", "-o", str(program), *map(str, inputs))
    return program, [*kernels, *tests, Step(program, link, inputs)]


def cuda_objects(tools: Toolchain, nvcc: host.Nvcc, folder: Path) -> list[Step]:
    """The CUDA kernels by nvcc, their planner by the C++ compiler: the seam headers alone. What ptxas says of each
    kernel goes to a log beside the object, for `make cuda`."""
    mode = ("-g", "-lineinfo") if tools.debug else ("-O3",)
    include = f"-I{CSRC / 'cuda'}"
    compile_ = (nvcc.command, "-ccbin", tools.cxx[-1], "-std=c++17", *mode, *_gencode(cuda_archs(nvcc)))
    # The planner's constexpr size formulas are shared with the kernels.
    compile_ += ("--expt-relaxed-constexpr", "-Xptxas", "-v")
    compile_ += ("-Xcompiler", "-fPIC,-fvisibility=hidden", f"-I{CSRC / 'include'}", include)
    base = CSRC / "cuda"
    steps = [
        tools.object(src, (folder / "cuda" / src.relative_to(base)).with_suffix(".cpp.o"), include)
        for src in [*sources("cuda"), *sources("cuda/training")]
    ]
    for src in [*sources("cuda", ".cu"), *sources("cuda/training", ".cu")]:
        out = (folder / "cuda" / src.relative_to(base)).with_suffix(".o")
        command = (*compile_, "-MMD", "-MF", str(out.with_suffix(".d")), "-c", str(src), "-o", str(out))
        logged = (
            sys.executable,
            str(ROOT / "build_backend" / "ptxas.py"),
            str(out.with_suffix(".ptxas.txt")),
            *command,
        )
        steps.append(Step(out, logged, (src,), out.with_suffix(".d"), "nvcc"))
    return steps


def _torch_flags(torch: host.Torch) -> tuple[str, ...]:
    # System include: torch's own headers are not held to our warnings.
    return (f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", "-isystem", str(torch.include))


def ops_library(tools: Toolchain, torch: host.Torch, kernels: list[Step], folder: Path, target: Path) -> list[Step]:
    """`_ops.so`: nothing when there are no bindings."""
    base = CSRC / "torch"
    objects = [
        tools.object(s, (folder / "torch" / s.relative_to(base)).with_suffix(".o"), *_torch_flags(torch))
        for s in [*sources("torch"), *sources("torch/training")]
    ]
    if not objects:
        return []
    inputs = [step.output for step in (*objects, *kernels)]
    link = tools.shared(target / "_ops.so", inputs, f"-L{torch.lib}", "-ltorch_cpu", "-lc10", "-Wl,-z,defs")
    return [*objects, link]


def python_module(
    tools: Toolchain, torch: host.Torch, kernels: list[Step], info: dict[str, str], folder: Path, output: Path
) -> list[Step]:
    """`_C`: takes from an archive of the CPU objects just those that module.cpp refers to."""
    write_build_info(info, folder / "generated" / "build_info.inc")
    flags = ("-isystem", str(host.pybind11_include(torch)), "-isystem", sysconfig.get_path("include"))
    flags += (f"-I{folder / 'generated'}",)
    objects = [tools.object(s, folder / "python" / f"{s.stem}.o", *flags) for s in sources("python")]
    steps, inputs = list(objects), [step.output for step in objects]
    if kernels:
        archive = folder / "libcpu.a"
        members = tuple(step.output for step in kernels)
        remake = f"rm -f {shlex.quote(str(archive))} && ar rcs {shlex.join([str(archive), *map(str, members)])}"
        steps.append(Step(archive, ("sh", "-c", remake), members))
        inputs.append(archive)
    return [*steps, tools.shared(output, inputs)]


def write_build_info(info: dict[str, str], path: Path) -> None:
    """The pairs as C++ initialisers; the file is touched only when they change, so that nothing recompiles idly."""
    text = "".join(f'{{R"~({key})~", R"~({value})~"}},\n' for key, value in sorted(info.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def cuda_choice(torch: host.Torch) -> tuple[host.Nvcc | None, str]:
    """Whether the CUDA library is built: (nvcc, note) or (None, the one-line reason why not)."""
    wish = os.environ.get("LIGHTOPS_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        raise host.BuildError(f"LIGHTOPS_CUDA={wish!r}; expected auto, 0 or 1")
    if wish == "0":
        return None, "not built: LIGHTOPS_CUDA=0"
    if not sources("cuda", ".cu"):
        return None, "not built: this version has no CUDA kernels"
    nvcc = host.find_nvcc()
    if nvcc is None:
        reason = "no nvcc on PATH or in CUDA_HOME"
        if wish == "1":
            raise host.BuildError(f"LIGHTOPS_CUDA=1, but {reason}")
        return None, f"not built: {reason}"
    if wish == "auto" and not torch.cuda:
        return None, "not built: this torch has no CUDA (LIGHTOPS_CUDA=1 builds the kernels all the same)"
    return nvcc, f"built with nvcc {nvcc.version} for {' '.join(cuda_archs(nvcc))}"


def match_cuda(theirs: str | None, nvcc: host.Nvcc, note: str) -> tuple[host.Nvcc | None, str]:
    """Hold nvcc against torch's CUDA: another major release is declined (unless LIGHTOPS_CUDA=1), a minor one noted."""
    if theirs is None or theirs.split(".")[:2] == nvcc.version.split(".")[:2]:
        return nvcc, note
    difference = f"nvcc is {nvcc.version}, torch's CUDA {theirs}"
    if theirs.split(".")[0] != nvcc.version.split(".")[0] and os.environ.get("LIGHTOPS_CUDA") != "1":
        return None, f"not built: {difference} (LIGHTOPS_CUDA=1 builds all the same)"
    return nvcc, f"{note}; {difference}"


def cuda_archs(nvcc: host.Nvcc) -> list[str]:
    """$TORCH_CUDA_ARCH_LIST ("8.0;9.0a+PTX", spaces allowed), else our list cut to what this nvcc knows. The letter of
    an architecture's own features is left out: the kernels use none."""
    asked = re.sub(r"(?<=\d)[af]\b", "", os.environ.get("TORCH_CUDA_ARCH_LIST", "")).replace(";", " ").split()
    if asked:
        return asked
    known = host.nvcc_archs(nvcc)
    return [arch for arch in CUDA_ARCHS if arch.removesuffix("+PTX") in known]


def _gencode(archs: list[str]) -> list[str]:
    """One intermediate code for all architectures, the oldest's: the kernels use nothing newer, and the front end,
    half of the compile time, then runs once."""
    numbers = [arch.removesuffix("+PTX").replace(".", "") for arch in archs]
    virtual = f"compute_{min(numbers, key=int)}"
    flags = [f"-gencode=arch={virtual},code=sm_{number}" for number in numbers]
    if any(arch.endswith("+PTX") for arch in archs):
        flags.append(f"-gencode=arch={virtual},code={virtual}")
    return flags


def cuda_library(tools: Toolchain, torch: host.Torch, nvcc: host.Nvcc, folder: Path, target: Path) -> list[Step]:
    """`_cuda.so`: kernels by nvcc alone, static cudart; linked so that it also loads beside a CPU-only torch."""
    base = CSRC / "torch" / "cuda"
    objects = cuda_objects(tools, nvcc, folder)
    objects += [
        tools.object(s, (folder / "torch_cuda" / s.relative_to(base)).with_suffix(".o"), *_torch_flags(torch))
        for s in [*sources("torch/cuda"), *sources("torch/cuda/training")]
    ]
    inputs = [step.output for step in objects]
    # libtorch stays needed although nothing refers to it: a CUDA torch brings libtorch_cuda into scope through it.
    libs = (f"-L{torch.lib}", "-ltorch", "-ltorch_cpu", "-lc10")
    # Where only a static libstdc++ is installed its symbols must stay inside: mixed with the process's own, the text of
    # the first exception crashed. By the compiler that links `_ops.so`, as there is no device code left to link.
    if runtime := host.static_cudart(nvcc):
        link = (*tools.cxx, "-shared", "-Wl,--exclude-libs,ALL", "-Wl,--no-as-needed")
        libs += (f"-L{runtime}", "-lcudart_static", "-lrt", "-lpthread", "-ldl")
    else:
        link = (nvcc.command, "-ccbin", tools.cxx[-1], "-shared", "-cudart", "static", *_gencode(cuda_archs(nvcc)))
        link += ("-Xlinker", "--exclude-libs", "-Xlinker", "ALL", "-Xlinker", "--no-as-needed")
    link += ("-o", str(target / "_cuda.so"))
    return [*objects, Step(target / "_cuda.so", (*link, *map(str, inputs), *libs), tuple(inputs))]


def build_info(tools: Toolchain, torch: host.Torch, cuda_note: str) -> dict[str, str]:
    """What `lightops info` tells about the build. No date and no path: equal sources give equal binaries."""
    return {
        "torch": torch.version,
        "torch_target": "2.10",
        "python": sysconfig.get_python_version(),
        "machine": tools.machine,
        "isas": " ".join(isa for isa, _ in host.isas(tools.cxx, tools.machine)),
        "flags": " ".join((*tools.mode_flags, *KERNEL_FLAGS)),
        "cuda": cuda_note,
    }


def package_steps(folder: Path, target: Path, module_name: str) -> list[Step]:
    """All steps that put the native libraries into `target`, with objects in `folder`."""
    torch, tools = host.require_torch(), Toolchain(host.find_cxx())
    nvcc, note = cuda_choice(torch)
    if nvcc:
        nvcc, note = match_cuda(host.torch_cuda(torch), nvcc, note)
    kernels = cpu_objects(tools, folder)
    steps = [*kernels, *ops_library(tools, torch, kernels, folder, target)]
    steps += python_module(tools, torch, kernels, build_info(tools, torch, note), folder, target / module_name)
    if nvcc:
        steps += cuda_library(tools, torch, nvcc, folder, target)
    return steps
