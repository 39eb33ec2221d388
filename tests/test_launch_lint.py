"""What one GPU cannot show, by reading the sources: every kernel starts on its tensor's device and current stream, is
asked whether it started, and nothing allocates or waits (which a graph capture would not survive).
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BINDINGS = sorted(p for p in (ROOT / "csrc/torch/cuda").rglob("*.cpp") if p.name != "common.cpp")
KERNELS = sorted(p for p in (ROOT / "csrc/cuda").rglob("*") if p.suffix in (".cu", ".cuh", ".h", ".cpp"))
TRITON = sorted((ROOT / "lightops/kernels/triton").glob("*.py"))

# A cudaMemsetAsync is a launch on its stream like a kernel's, and a graph has a node for it.
_WAITS = re.compile(
    r"\bcuda(?:Malloc|Free|DeviceSynchronize|StreamSynchronize|EventSynchronize|Memcpy|Memset(?!Async\b)|StreamLegacy)\w*"
)
_LAUNCH = re.compile(r"<<<.*?>>>", re.DOTALL)


def faults_of_binding(source: str) -> list[str]:
    """A registered operator whose body makes no `Call` (which guards the device) or starts kernels past `call.run`."""
    faults = []
    for name in re.findall(r"TORCH_BOX\(&(\w+)\)", source):
        # From its definition to the closing brace in the first column.
        body = re.search(rf"^[\w:<>, ]+ {name}\([^;{{]*\) {{\n(.*?)^}}", source, re.MULTILINE | re.DOTALL)
        if body is None or not re.search(r"\bconst Call call\(", body[1]):
            faults.append(f"{name} makes no Call")
    # A launch is handed to a Call, never called.
    faults += [f"{name} is called past Call::run" for name in re.findall(r"\bcuda::(\w+_cuda)\(", source)]
    return faults


@pytest.mark.parametrize("path", BINDINGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_operator_is_a_guarded_call(path: Path) -> None:
    source = path.read_text()
    assert "TORCH_BOX" in source
    assert faults_of_binding(source) == []
    assert not _WAITS.findall(source)


def test_the_check_sees_an_operator_without_a_guard() -> None:
    source = (ROOT / "csrc/torch/cuda/fire.cpp").read_text()
    assert faults_of_binding(source.replace("const Call call(", "const Other call(")) == ["fire makes no Call"]
    started = source.replace("call.run(p, cuda::fire_cuda_workspace, cuda::fire_cuda);", "cuda::fire_cuda(p, d, 0);")
    assert faults_of_binding(started) == ["fire_cuda is called past Call::run"]


def test_a_call_guards_the_device_and_takes_its_stream() -> None:
    header, source = ((ROOT / "csrc/torch/cuda" / name).read_text() for name in ("common.h", "common.cpp"))
    assert "DeviceGuard guard_;" in header
    assert re.search(r"Ready ready = prepare\(\);.*launch\(p, ready\.device, ready\.stream\)", header, re.DOTALL)
    assert "report(launch(" in header
    assert re.search(r"ready\.stream = current_stream\(op, index_\);", source)
    assert re.search(r"guard_\((?:\w+\.get_device_index\(\)|index_)\)", source)
    assert not _WAITS.findall(header + source)


def test_kernels_are_launched_in_one_place_on_the_given_stream() -> None:
    launches = {path.name: _LAUNCH.findall(path.read_text()) for path in KERNELS}
    (file,) = (name for name, found in launches.items() if found)
    (launch,) = launches[file]
    assert launch.endswith(", stream>>>")
    text = next(path for path in KERNELS if path.name == file).read_text()
    assert re.search(r">>>\(params\);\s*(//[^\n]*\s*)?return static_cast<int>\(cudaGetLastError\(\)\);", text)


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: str(p.relative_to(ROOT)))
def test_kernels_neither_allocate_nor_wait(path: Path) -> None:
    assert not _WAITS.findall(path.read_text())


def test_memory_is_cleared_on_the_given_stream() -> None:
    assert _WAITS.findall("cudaMemset(p, 0, n)")
    assert _WAITS.findall("cudaMemset2DAsync(p, q, 0, w, h)")
    for path in KERNELS:
        for arguments in re.findall(r"cudaMemsetAsync\((.*?)\)\)", path.read_text()):
            assert arguments.endswith(", stream"), path.name


def test_triton_kernels_start_on_their_tensors_device() -> None:
    launching = [path for path in TRITON if re.search(r"\b\w+_kernel\[", path.read_text())]
    assert len(launching) > 3
    for path in launching:
        assert "with on_device(" in path.read_text(), path.name
