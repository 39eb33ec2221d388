"""The two runners (ninja, the fallback) and the choices of build_backend/host.py and plan.py."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from build_backend import host, plan, runner  # noqa: E402


@pytest.fixture(params=["ninja", "fallback"])
def run(request, monkeypatch, tmp_path):
    if request.param == "fallback":
        monkeypatch.setattr(runner, "_find_ninja", lambda: None)
    else:
        assert runner._find_ninja(), "ninja is a base requirement of the test environment"
    return lambda steps: runner.run(steps, tmp_path / "out")


@pytest.fixture
def steps(tmp_path):
    """two.o and one.o (which includes h.h) linked into lib.so. A name with a space, since users have such folders."""
    src = tmp_path / "my src"
    src.mkdir()
    (src / "h.h").write_text("#define VALUE 1\n")
    (src / "one.cpp").write_text('#include "h.h"\nint one() { return VALUE; }\n')
    (src / "two.cpp").write_text("int two() { return 2; }\n")
    tools = plan.Toolchain(host.find_cxx())

    def make(*flags):
        objects = [tools.object(src / f"{n}.cpp", tmp_path / "out" / f"{n}.o", *flags) for n in ("one", "two")]
        return [*objects, tools.shared(tmp_path / "out" / "lib.so", [step.output for step in objects])]

    return make


def stamps(steps):
    return {step.output.name: step.output.stat().st_mtime_ns for step in steps}


def changed(steps, before):
    return {name for name, stamp in stamps(steps).items() if stamp != before[name]}


def test_only_what_changed_is_made_again(run, steps, tmp_path):
    run(steps())
    before = stamps(steps())
    run(steps())
    assert changed(steps(), before) == set()
    (tmp_path / "my src" / "h.h").write_text("#define VALUE 3\n")
    run(steps())
    assert changed(steps(), before) == {"one.o", "lib.so"}
    before = stamps(steps())
    run(steps("-DNEW_FLAG"))
    assert changed(steps(), before) >= {"one.o", "two.o"}


def test_a_failed_step_ends_the_build_and_is_tried_again(run, steps, tmp_path, capfd):
    source = tmp_path / "my src" / "two.cpp"
    good = source.read_text()
    source.write_text("int two() { return missing; }\n")
    with pytest.raises(host.BuildError):
        run(steps())
    assert "missing" in "".join(capfd.readouterr())
    source.write_text(good)
    run(steps())
    assert (tmp_path / "out" / "lib.so").is_file()


def test_jobs_are_capped_by_memory_unless_asked_for(monkeypatch):
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    nvcc = runner.GIB_PER_JOB["nvcc"]
    assert nvcc >= 4
    assert host.jobs(nvcc, memory_gib=8) == 2
    assert host.jobs(nvcc, memory_gib=2) == 1
    assert host.jobs(1.0, memory_gib=64) == 16
    monkeypatch.setenv("MAX_JOBS", "7")
    assert host.jobs(nvcc, memory_gib=8) == 7


def test_arch_list_is_honoured(monkeypatch):
    nvcc = host.Nvcc("nvcc", "13.0")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    assert plan.cuda_archs(nvcc) == ["8.0", "9.0+PTX"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a 10.0f+PTX")
    assert plan.cuda_archs(nvcc) == ["9.0", "10.0+PTX"]
    assert plan._gencode(["9.0+PTX"]) == [
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    monkeypatch.setattr(host, "nvcc_archs", lambda _: {"8.0", "9.0"})
    assert plan.cuda_archs(nvcc) == ["8.0", "9.0"]


def test_nvcc_is_held_against_torchs_cuda(monkeypatch):
    nvcc = host.Nvcc("nvcc", "13.0")
    monkeypatch.delenv("LIGHTOPS_CUDA", raising=False)
    assert plan.match_cuda("13.0", nvcc, "built") == (nvcc, "built")
    assert plan.match_cuda(None, nvcc, "built") == (nvcc, "built")
    assert plan.match_cuda("13.2", nvcc, "built") == (nvcc, "built; nvcc is 13.0, torch's CUDA 13.2")
    taken, note = plan.match_cuda("12.8", nvcc, "built")
    assert taken is None
    assert note == "not built: nvcc is 13.0, torch's CUDA 12.8 (LIGHTOPS_CUDA=1 builds all the same)"
    monkeypatch.setenv("LIGHTOPS_CUDA", "1")
    assert plan.match_cuda("12.8", nvcc, "built") == (nvcc, "built; nvcc is 13.0, torch's CUDA 12.8")


def test_torchs_cuda_is_read_from_its_files(tmp_path):
    torch = host.Torch(tmp_path, "2.13.0")
    (tmp_path / "version.py").write_text("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    assert host.torch_cuda(torch) == "13.0"
    (tmp_path / "version.py").write_text("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n")
    assert host.torch_cuda(torch) is None


def test_cxx_may_carry_arguments(monkeypatch):
    monkeypatch.setenv("CXX", "env g++")
    assert host.find_cxx() == ("env", "g++")


def test_an_instruction_set_that_the_compiler_lacks_is_left_out(monkeypatch):
    monkeypatch.setattr(host, "accepts", lambda _, flags: "-march=x86-64-v4" not in flags)
    assert [name for name, _ in host.isas(("g++",), "x86_64")] == ["v3", "baseline"]
    assert [name for name, _ in host.isas(("g++",), "riscv64")] == ["baseline"]


def test_torch_is_found_without_importing_it():
    torch = host.find_torch()
    assert torch.version
    assert (torch.include / "torch" / "csrc" / "stable" / "library.h").is_file()


def kernel_objects():
    return plan.cpu_objects(plan.Toolchain(host.find_cxx()), ROOT / "build" / "inplace")


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm (binutils)")
def test_isa_objects_define_nothing_outside_their_namespace():
    """A weak symbol shared between objects could be linked in its AVX-512 form and crash a baseline machine."""
    built = [step for step in kernel_objects() if step.output.is_file() and step.output.parent.name != "once"]
    assert built, "make build comes first"
    for step in built:
        isa = next(f.removeprefix("-DLIGHTOPS_ISA=") for f in step.command if f.startswith("-DLIGHTOPS_ISA="))
        command = ["nm", "-C", "--defined-only", "-g", step.output]
        table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        names = [line.split(" ", 2)[2] for line in table.splitlines() if line]
        assert [name for name in names if f"lightops::{isa}::" not in name] == [], step.output


@pytest.mark.long
def test_a_kernel_file_compiles_in_ten_seconds(tmp_path):
    for step in kernel_objects():
        command = [str(tmp_path / "k.o") if part == str(step.output) else part for part in step.command]
        command = [str(tmp_path / "k.d") if part == str(step.depfile) else part for part in command]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert seconds < 10, f"{step.inputs[0].name}: {seconds:.1f} s of CPU time"
