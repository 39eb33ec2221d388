"""`python -m build_backend VERB`: the parts of the Makefile that need the build plan."""

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from build_backend import cuda_report, host, plan, runner

# What `make aarch64` needs: Debian package -> the commands that it brings (any one will do).
CROSS_TOOLS = {
    "g++-aarch64-linux-gnu": ("aarch64-linux-gnu-g++",),
    "qemu-user-static": ("qemu-aarch64-static", "qemu-aarch64"),
}


def requirements(*names: str) -> None:
    """Print the requirements of the named extras, and of "base"."""
    config = tomllib.loads((plan.ROOT / "pyproject.toml").read_text())
    project = config["project"]
    known = dict(project["optional-dependencies"])
    known["base"] = [*config["build-system"]["requires"], *project["dependencies"], "ninja>=1.11"]
    for name in names:
        print("\n".join(known[name]))


def torchvision() -> None:
    """Print the torchvision release that goes with the installed torch: 0.(n+15) for torch 2.n."""
    minor = int(host.require_torch().version.split(".")[1])
    print(f"torchvision==0.{minor + 15}.*")


def _run_selftest(tools: plan.Toolchain, folder: Path, *launcher: str) -> None:
    program, steps = plan.native_test(tools, folder)
    runner.run(steps, folder)
    for isa, _ in host.isas(tools.cxx, tools.machine):
        env = {**os.environ, "LIGHTOPS_CPU_ISA": isa}
        if subprocess.run([*launcher, str(program)], env=env).returncode:
            raise host.BuildError(f"the native self-test failed for {isa}")


def native() -> None:
    """Kernels with the C++ compiler alone and their self-test. `cuda` does the same for nvcc."""
    tools = plan.Toolchain(host.find_cxx())
    # Where `make asan` has setuptools build the package next, which then finds its kernels compiled.
    _run_selftest(tools, plan.ROOT / "build" / ("asan/temp/native" if tools.sanitize else "native"))


def cuda() -> None:
    """CUDA kernels with nvcc alone, for every architecture; a table of what each became, and failure on a spill."""
    nvcc = host.find_nvcc()
    if nvcc is None:
        raise host.BuildError("make cuda needs nvcc, on PATH or in CUDA_HOME")
    folder = plan.ROOT / "build" / "cuda"
    steps = plan.cuda_objects(plan.Toolchain(host.find_cxx()), nvcc, folder)
    runner.run(steps, folder)
    table = cuda_report.read([step.output for step in steps if step.tool == "nvcc"])
    cuda_report.write(table, plan.ROOT / "lightops" / "_cuda_kernels.json", nvcc.version)
    print(cuda_report.summary(table))
    if bad := cuda_report.faults(table):
        raise host.BuildError("; ".join(bad))


def aarch64() -> None:
    """Cross-compile the kernels and run their self-test under qemu-user."""
    missing = [package for package, names in CROSS_TOOLS.items() if not any(map(shutil.which, names))]
    if missing:
        raise host.BuildError(f"make aarch64 needs the Debian packages: {' '.join(missing)} (apt-get install them)")
    emulator = next(filter(None, map(shutil.which, CROSS_TOOLS["qemu-user-static"])))
    launcher = () if platform.machine() == "aarch64" else (emulator,)
    tools = plan.Toolchain(host.find_cxx("aarch64-linux-gnu-"), machine="aarch64")
    _run_selftest(tools, plan.ROOT / "build" / "aarch64", *launcher)


VERBS = {verb.__name__: verb for verb in (requirements, torchvision, native, cuda, aarch64)}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        sys.exit(f"usage: python -m build_backend {'|'.join(VERBS)} [NAME ...]")
    VERBS[sys.argv[1]](*sys.argv[2:])
