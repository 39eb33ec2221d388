"""Runs build steps: through ninja where it is found, else by a small scheduler with the same rules.

A step runs again when its output is missing, its command changed, or an input or a header named in the compiler's
depfile is newer. Both runners read the same depfiles, so one may take over from the other.
"""

import concurrent.futures
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from build_backend import host

# Measured peaks: 0.2 GiB for a kernel or stable-ABI file; nvcc runs several compilers at a time and needs far more.
GIB_PER_JOB = {"cxx": 1.0, "nvcc": 4.0}


@dataclass(frozen=True)
class Step:
    """One command that makes `output` from `inputs`. `tool` ("cxx" or "nvcc") sets how much memory a job is given."""

    output: Path
    command: tuple[str, ...]
    inputs: tuple[Path, ...]
    depfile: Path | None = None
    tool: str = "cxx"


def _find_ninja() -> str | None:
    beside_python = Path(sys.executable).with_name("ninja")
    return shutil.which("ninja") or (str(beside_python) if beside_python.is_file() else None)


def run(steps: list[Step], folder: Path) -> None:
    """Bring every step's output up to date; raises BuildError when a command fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        step.output.parent.mkdir(parents=True, exist_ok=True)
    ninja = _find_ninja()
    if ninja:
        _run_ninja(ninja, steps, folder)
    else:
        _run_pool(steps)


def _escape(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _run_ninja(ninja: str, steps: list[Step], folder: Path) -> None:
    lines = ["ninja_required_version = 1.5"]
    lines += [f"pool {tool}\n  depth = {host.jobs(gib)}" for tool, gib in GIB_PER_JOB.items()]
    for tool in GIB_PER_JOB:
        lines.append(f"rule {tool}\n  command = $cmd\n  depfile = $dep\n  pool = {tool}\n  description = $out")
    for step in steps:
        lines.append(f"build {_escape(step.output)}: {step.tool} {' '.join(map(_escape, step.inputs))}")
        lines.append(f"  cmd = {shlex.join(step.command).replace('$', '$$')}")
        if step.depfile:
            lines.append(f"  dep = {_escape(step.depfile)}")
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    if subprocess.run([ninja, "-C", str(folder), "-j", str(host.jobs(GIB_PER_JOB["cxx"]))]).returncode:
        raise host.BuildError("a compile or link step failed (see above)")


def _depfile_inputs(depfile: Path) -> list[str]:
    rule = depfile.read_text().replace("\\\n", " ")
    return shlex.split(rule.split(":", 1)[1].split("\n", 1)[0])


def _command_record(step: Step) -> Path:
    return step.output.with_name(step.output.name + ".cmd")


def _is_stale(step: Step) -> bool:
    record = _command_record(step)
    if not step.output.is_file() or not record.is_file() or record.read_text() != shlex.join(step.command):
        return True
    if step.depfile and not step.depfile.is_file():
        return True
    inputs = [*map(str, step.inputs), *(_depfile_inputs(step.depfile) if step.depfile else [])]
    made = step.output.stat().st_mtime_ns
    return any(not os.path.exists(path) or os.stat(path).st_mtime_ns > made for path in inputs)


def _run_step(step: Step) -> None:
    if not _is_stale(step):
        return
    done = subprocess.run(step.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sys.stderr.write(done.stdout)
    if done.returncode:
        step.output.unlink(missing_ok=True)
        raise host.BuildError(f"failed: {shlex.join(step.command)}")
    _command_record(step).write_text(shlex.join(step.command))


def _run_pool(steps: list[Step]) -> None:
    gib = max((GIB_PER_JOB[step.tool] for step in steps), default=1.0)
    waiting = {step.output: step for step in steps}
    with concurrent.futures.ThreadPoolExecutor(host.jobs(gib)) as pool:
        running: dict[concurrent.futures.Future, Step] = {}
        try:
            while waiting or running:
                unfinished = set(waiting) | {step.output for step in running.values()}
                for step in [s for s in waiting.values() if not unfinished.intersection(s.inputs)]:
                    running[pool.submit(_run_step, waiting.pop(step.output))] = step
                finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in finished:
                    del running[future]
                    future.result()
        finally:
            for future in running:
                future.cancel()
