"""The suite against the faults of `edits.toml`: C++ sources edited in a copy, built for one instruction set."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from lightops import _ext

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "build_backend",
    "csrc",
    "lightops",
    "tests",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "MANIFEST.in",
)
# Builds in place for the instruction set given: the faults are in sources that all of them share.
BUILD = """
import runpy, sys
from build_backend import host
isas = host.isas
isa, sys.argv = sys.argv[1], ["setup.py", "--quiet", "build_ext", "--inplace"]
host.isas = lambda *tools: [pair for pair in isas(*tools) if pair[0] == isa]
runpy.run_path("setup.py", run_name="__main__")
"""


class Edit(NamedTuple):
    """In `csrc/<file>`, the only occurrence of `old` becomes `new`; the tests of `op` must notice. `isa`: the
    instruction set whose kernels alone hold it; "" when all do."""

    name: str
    file: str
    op: str
    old: str
    new: str
    isa: str = ""


EDITS = [Edit(**edit) for edit in tomllib.loads((Path(__file__).parent / "edits.toml").read_text())["edit"]]
HERE = [edit for edit in EDITS if edit.isa in ("", _ext.isa())]


class Workshop:
    """A copy of the tree that is built again after each edit."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "weights"))
            elif source.is_file():
                shutil.copy(source, folder / name)
        self.build()

    def run(self, *command: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        command = (sys.executable, *command)
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def build(self) -> None:
        done = self.run("-c", BUILD, _ext.isa())
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def test(self, op: str) -> str:
        """The first test of the op that fails; "" when all pass."""
        options = (
            "-x",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-m",
            "not long",
            "-k",
            "not compile and not export",
        )
        done = self.run("-m", "pytest", *options, f"tests/ops/test_{op}.py")
        if done.returncode == 0:
            return ""
        if done.returncode < 0:
            return f"process ended by signal {-done.returncode}"
        failed = re.search(r"^FAILED (?:tests/)?(?:ops/)?(\S+)", done.stdout, re.MULTILINE)
        assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
        assert failed, done.stdout[-3000:]
        return failed.group(1)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("workshop"))


def test_edits_still_apply():
    """In the quick suite, so that who changes a kernel moves its faults along."""
    found = {edit.name: (ROOT / "csrc" / edit.file).read_text().count(edit.old) for edit in EDITS}
    assert found == dict.fromkeys(found, 1)
    assert len(found) == len(EDITS)


@pytest.mark.long
@pytest.mark.parametrize("edit", HERE, ids=[edit.name for edit in HERE])
def test_edit_is_caught(edit, workshop, record_mutant):
    path = workshop.folder / "csrc" / edit.file
    original = path.read_text()
    assert original.count(edit.old) == 1, (
        f"{edit.file} holds {edit.old!r} {original.count(edit.old)} times, wanted once"
    )
    path.write_text(original.replace(edit.old, edit.new))
    try:
        workshop.build()
        caught_by = workshop.test(edit.op)
    finally:
        path.write_text(original)
    record_mutant(f"{edit.name}:{edit.op}", caught_by)
    assert caught_by, f"no test of {edit.op} notices {edit.name}"
