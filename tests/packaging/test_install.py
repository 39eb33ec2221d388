"""`pip install .` in its many circumstances: a copy of the project with the miniature csrc/, installed into fresh
virtual environments that see this one's torch.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "CHANGELOG.md")
PLAIN_PATH = os.pathsep.join(("/usr/local/bin", "/usr/bin", "/bin"))


def clean_env(**changes: str) -> dict[str, str]:
    """This process' environment without what would let the tree or its settings leak into a build."""
    ours = ("PYTHONPATH", "PYTHONSAFEPATH", "LD_PRELOAD", "VIRTUAL_ENV", "DEBUG", "CXX")
    kept = {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("LIGHTOPS_")}
    return {**kept, "MAX_JOBS": "2", **changes}


class Environment:
    """A virtual environment without pip; packages of the running environment are visible through a .pth file."""

    def __init__(self, folder: Path):
        self.python = folder / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def pip_install(self, *args: str, check: bool = True, **env: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "-v", "--no-deps", *args]
        done = subprocess.run(command, env=clean_env(**env), capture_output=True, text=True)
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done

    def run(self, code: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(self.python), "-c", code], env=clean_env(**env), capture_output=True, text=True, cwd=self.python.parent
        )


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "env")


@pytest.fixture
def project(tmp_path):
    """The project, as a source tree that nothing was built in, with the miniature csrc/."""
    tree = tmp_path / "project"
    tree.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tree / name)
    built = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "build_backend", tree / "build_backend", ignore=built)
    shutil.copytree(ROOT / "lightops", tree / "lightops", ignore=built)
    shutil.copytree(ROOT / "tests" / "packaging" / "miniature", tree / "csrc")
    shutil.copytree(ROOT / "csrc" / "python", tree / "csrc" / "python")
    return tree


REPORT = """
import json, torch, lightops
out = torch.ops.lightops.twice(torch.arange(3.0)).tolist() if hasattr(torch.ops.lightops, "twice") else None
print(json.dumps({**lightops.info(), "out": out, "file": lightops.__file__}))
"""


def report(environment):
    done = environment.run(REPORT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_works(environment):
    facts = report(environment)
    assert "site-packages" in facts["file"]
    assert facts["backends"]["cpu"] == {"available": True, "reason": ""}
    assert facts["out"] == [0.0, 2.0, 4.0]
    assert facts["torch"]["found"] == facts["torch"]["built_for"]
    return facts


def test_without_isolation_ninja_and_nvcc(project, environment):
    environment.pip_install("--no-build-isolation", str(project), PATH=PLAIN_PATH, CUDA_HOME="/nonexistent")
    facts = assert_works(environment)
    assert not (project / "build" / "build.ninja").exists()
    assert facts["build"]["cuda"] == "not built: this version has no CUDA kernels"
    assert facts["backends"]["cuda"]["available"] is False
    assert "no CUDA kernels" in facts["backends"]["cuda"]["reason"]


@pytest.mark.long
def test_with_isolation_uses_the_installed_torch(project, environment):
    log = environment.pip_install(str(project)).stdout
    assert "Installing build dependencies" in log
    assert "Collecting torch" not in log
    assert_works(environment)


@pytest.mark.long
def test_sdist_builds_and_installs(project, environment, tmp_path):
    hook = "from build_backend import backend; print(backend.build_sdist('dist'))"
    subprocess.run([sys.executable, "-c", hook], cwd=project, env=clean_env(), check=True, capture_output=True)
    (sdist,) = (project / "dist").glob("lightops-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"csrc/cpu/twice.cpp", "csrc/include/lightops/dispatch.h", "build_backend/plan.py", "LICENSE"} <= names
    assert not [name for name in names if name.endswith((".so", ".o"))]
    environment.pip_install("--no-build-isolation", str(sdist))
    assert_works(environment)


@pytest.mark.long
def test_wheel_carries_libraries_tag_and_licence(project, environment):
    (project / "dist").mkdir()
    hook = "from build_backend import backend; print(backend.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", hook], cwd=project, env=clean_env(), check=True, capture_output=True)
    (wheel,) = (project / "dist").glob("*.whl")
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{tag}-{tag}-linux" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert "lightops/_ops.so" in names
    assert [name for name in names if name.startswith("lightops/_C.cpython-")]
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert not [name for name in names if name.startswith(("tests", "csrc", "build_backend"))]
    environment.pip_install(str(wheel))
    assert_works(environment)


@pytest.mark.long
def test_editable_install_builds_in_place(project, environment):
    environment.pip_install("--no-build-isolation", "--editable", str(project))
    facts = report(environment)
    assert facts["file"] == str(project / "lightops" / "__init__.py")
    assert facts["out"] == [0.0, 2.0, 4.0]
    assert (project / "lightops" / "_ops.so").is_file()


def build(project, **env):
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=project, env=clean_env(**env), capture_output=True, text=True)


def reason_line(done):
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("lightops build: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_missing_compiler_is_one_line(project):
    line = reason_line(build(project, CXX="no-such-compiler"))
    assert line == "lightops build: CXX names 'no-such-compiler', which is not on PATH"


def test_cuda_asked_for_without_nvcc_is_one_line(project):
    (project / "csrc" / "cuda").mkdir()
    (project / "csrc" / "cuda" / "twice.cu").write_text("__global__ void twice(float* x) { *x *= 2; }\n")
    line = reason_line(build(project, LIGHTOPS_CUDA="1", CUDA_HOME="/nonexistent"))
    assert line == "lightops build: LIGHTOPS_CUDA=1, but no nvcc on PATH or in CUDA_HOME"


def test_a_bad_switch_is_one_line(project):
    line = reason_line(build(project, LIGHTOPS_CUDA="yes"))
    assert line == "lightops build: LIGHTOPS_CUDA='yes'; expected auto, 0 or 1"
    assert "MAX_JOBS='many' is not a whole number" in reason_line(build(project, MAX_JOBS="many"))


def test_torch_missing_is_one_line(project, tmp_path):
    # A build back end without torch: setuptools is reached, everything else in the environment is not.
    stripped = tmp_path / "site"
    stripped.mkdir()
    for name in ("setuptools", "pkg_resources", "_distutils_hack"):
        spec = importlib.util.find_spec(name)
        if spec and spec.submodule_search_locations:
            os.symlink(next(iter(spec.submodule_search_locations)), stripped / name)
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(empty)], check=True)
    site = next(empty.glob("lib/python*/site-packages"))
    (site / "outer.pth").write_text(f"{stripped}\n")
    command = [str(empty / "bin" / "python"), "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=project, env=clean_env(), capture_output=True, text=True)
    assert "no torch in" in reason_line(done)
