"""`import lightops` works whatever is wrong with the native libraries, and says what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def python(code, folder, **env):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LIGHTOPS_")}
    full = {**kept, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", **env}
    return subprocess.run([sys.executable, "-c", code], env=full, capture_output=True, text=True, cwd=folder)


def info(folder, **env):
    done = python("import json, lightops; print(json.dumps(lightops.info()))", folder, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def reason(folder, backend):
    state = info(folder)[0]["backends"][backend]
    assert state["available"] is False
    assert "\n" not in state["reason"]
    return state["reason"]


@pytest.fixture
def package(tmp_path):
    """A copy of the package with the libraries as built in place."""
    shutil.copytree(ROOT / "lightops", tmp_path / "lightops", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def native_module(package):
    return next((package / "lightops").glob("_C.*.so"))


def test_a_whole_build_has_the_cpu_backend(package):
    facts, noise = info(package)
    assert facts["backends"]["cpu"] == {"available": True, "reason": ""}
    assert facts["cpu"]["isa"] in facts["cpu"]["built"]
    assert facts["build"]["torch_target"] == "2.10"
    assert noise == ""


def test_nothing_built(package):
    for library in (package / "lightops").glob("_*.so"):
        library.unlink()
    assert reason(package, "cpu") == (
        "lightops/_ops.so is not built; build it with `pip install .` (or `make build` in a checkout)"
    )


def test_built_for_another_python(package):
    native_module(package).rename(package / "lightops" / "_C.cpython-399-x86_64-linux-gnu.so")
    text = reason(package, "cpu")
    assert text.startswith("lightops._C is built for cpython-399-x86_64-linux-gnu, this Python is cpython-3")
    assert "rebuild it with" in text


def test_a_library_that_is_no_library(package):
    (package / "lightops" / "_ops.so").write_bytes(b"not an ELF file")
    text = reason(package, "cpu")
    assert text.startswith("lightops/_ops.so, built for torch ")
    assert "does not load in torch" in text
    assert "rebuild it with" in text


def test_a_symbol_that_this_torch_lacks(package, tmp_path):
    source = tmp_path / "newer.cpp"
    source.write_text('extern "C" int aoti_torch_of_the_future(); int now = aoti_torch_of_the_future();\n')
    library = package / "lightops" / "_ops.so"
    subprocess.run([os.environ.get("CXX", "g++"), "-shared", "-fPIC", "-o", library, source], check=True)
    assert "undefined symbol: aoti_torch_of_the_future" in reason(package, "cpu")


def test_torch_below_the_floor(package):
    code = """
import json, torch
torch.__version__ = "2.9.1"
import lightops
print(json.dumps(lightops.info()))
"""
    done = python(code, package)
    assert json.loads(done.stdout)["backends"]["cpu"]["reason"] == "lightops needs torch >= 2.10, found 2.9.1"


def test_an_instruction_set_that_is_not_there_is_said_aloud(package):
    facts, noise = info(package, LIGHTOPS_CPU_ISA="avx9000")
    assert "RuntimeWarning: LIGHTOPS_CPU_ISA='avx9000' is not used" in noise
    assert facts["backends"]["cpu"]["available"] is True
    assert facts["cpu"]["isa"] in facts["cpu"]["built"]
    assert "LIGHTOPS_CPU_ISA" in facts["cpu"]["why"]


def test_an_instruction_set_can_be_asked_for(package):
    plainest = info(package)[0]["cpu"]["built"][-1]
    facts, noise = info(package, LIGHTOPS_CPU_ISA=plainest)
    assert facts["cpu"]["isa"] == plainest
    assert noise == ""


def test_bad_switches_do_not_break_the_report(package):
    facts, _ = info(package, LIGHTOPS_BACKEND="fast", LIGHTOPS_DISABLE="maybe")
    assert facts["environment"] == {"LIGHTOPS_BACKEND": "fast", "LIGHTOPS_DISABLE": "maybe"}


def test_packed_numel_checks_its_arguments():
    from lightops import _ext

    assert _ext.packed_numel(64, 3, 3, 3, 0) >= 64 * 27
    with pytest.raises(ValueError, match=r"packed_numel: algo must be 0 \(direct\), 2 or 4 .* got 3"):
        _ext.packed_numel(8, 8, 3, 3, 3)
    with pytest.raises(ValueError, match=r"packed_numel: Winograd \(algo 2\) is for 3x3, got 5x5"):
        _ext.packed_numel(8, 8, 5, 5, 2)
    with pytest.raises(ValueError, match="must be at least 1, got 0, 8, 3, 3"):
        _ext.packed_numel(0, 8, 3, 3, 0)


def test_import_costs_little_beyond_torch(package):
    code = """
import time, torch
start = time.perf_counter(); import lightops; print(time.perf_counter() - start)
"""
    seconds = min(float(python(code, package).stdout) for _ in range(3))
    assert seconds < 0.3


def test_import_loads_no_heavy_module(package):
    code = """
import sys, torch
before = set(sys.modules)
import lightops
print(sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    loaded = set(json.loads(python(code, package).stdout.replace("'", '"')))
    assert not loaded & {"torchvision", "timm", "triton", "matplotlib", "rich", "click", "tqdm", "onnxruntime"}
