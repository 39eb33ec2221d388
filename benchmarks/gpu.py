"""`make gpu`: everything that needs a GPU, in one command and one record under benchmarks/records/.

The GPU test suite, compute-sanitizer's four tools, `lightops bench`, blocks, networks and training steps against cuDNN
and torch.compile. Each step is a process of its own with a share of the time that the build has left: what does not
finish is stopped and recorded as such, what crashes the device's context takes no other step with it. Nothing is
fetched."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import gpu_blocks

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Seeds an op runs under a sanitizer, at some hundred times the usual run time, and the seconds after which a test has
# had enough of them.
SANITIZED_SEEDS, SANITIZED_SECONDS = "25", "1.5"
TRITON_SEEDS = "5"
# Of the whole command, the build included; the rest of 20 minutes is for writing the record.
LIMIT_SECONDS = 19.5 * 60
# Seconds since the epoch at which make began.
STARTED = "LIGHTOPS_GPU_STARTED"
BENCHED = ("densenet121", "squeezenet1_1", "mobilenet_v1")


def call(command: list[str], seconds: float, **environment: str) -> dict[str, Any]:
    """Run a command; its end, how long it took and the last lines. When its time is over, whatever it has started is
    killed with it: a sanitizer's program or a compiler's workers would disturb the next step."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=out, stderr=out, start_new_session=True
        )
        try:
            code = str(process.wait(seconds))
        except subprocess.TimeoutExpired:
            code = "timed out"
        finally:
            with contextlib.suppress(ProcessLookupError):  # all of it has ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        tail = out.read().splitlines()[-12:]
    return {"command": " ".join(command), "exit": code, "seconds": round(time.monotonic() - start, 1), "tail": tail}


def suite(seconds: float) -> dict[str, Any]:
    return call([sys.executable, "-m", "pytest", "-q", "tests/gpu", "-k", "not triton"], seconds)


def triton(seconds: float) -> dict[str, Any]:
    """Fewer seeds: Triton compiles for each size anew."""
    tests = [sys.executable, "-m", "pytest", "-q", "tests/gpu", "-k", "triton"]
    return call(tests, seconds, LIGHTOPS_GPU_SEEDS=TRITON_SEEDS)


def sanitizer(seconds: float) -> dict[str, Any]:
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.access(tool, os.X_OK):
        return {"exit": "not run", "tail": ["no compute-sanitizer on PATH or in /usr/local/cuda/bin"]}
    test = [sys.executable, "-m", "pytest", "-q", "tests/gpu", "-k", "truth and not triton"]
    # torch's caching allocator would hide an access past a tensor's end.
    env = {
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
        "LIGHTOPS_GPU_SEEDS": SANITIZED_SEEDS,
        "LIGHTOPS_GPU_SECONDS": SANITIZED_SECONDS,
    }
    results = {}
    for name in TOOLS:
        results[name] = call([tool, "--tool", name, "--error-exitcode", "9", *test], seconds / len(TOOLS), **env)
    worst = [r["exit"] for r in results.values() if r["exit"] != "0"]
    return {"exit": worst[0] if worst else "0", "tools": results}


def measured(what: str) -> Callable[[float], dict[str, Any]]:
    """A step of benchmarks/gpu_rows.py. Rows are written as they come: those that the time does not reach are left
    out, which is no failure once there are some."""

    def step(seconds: float) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows"
            # Rows end by themselves a little before they are ended.
            end = call([sys.executable, "benchmarks/gpu_rows.py", what, str(0.9 * seconds), str(path)], seconds)
            rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        stopped = end["exit"] == "timed out" and bool(rows)
        wrong = any(row["error"] > row["limit"] for row in rows)
        return {**end, "exit": "1" if wrong else "0" if stopped else end["exit"], "stopped": stopped, "rows": rows}

    return step


def bench(seconds: float) -> dict[str, Any]:
    """`lightops bench` itself, answers and training steps; its reports go into the record."""
    settings = {
        "inference": ("--dtype", "fp16", "--batch", "1,16", "--compile"),
        "training": ("--train", "--dtype", "bf16", "--batch", "8"),
    }
    runs = {}
    for name, options in settings.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "lightops", "bench", *BENCHED, "--device", "cuda", *options]
            runs[name] = call([*command, "--seconds", "1", "--out", folder], seconds / len(settings))
            report = Path(folder) / "bench.json"
            runs[name]["report"] = json.loads(report.read_text()) if report.is_file() else None
    worst = [r["exit"] for r in runs.values() if r["exit"] != "0"]
    return {"exit": worst[0] if worst else "0", "runs": runs}


STEPS: tuple[tuple[str, Callable[[float], dict[str, Any]], float], ...] = (
    ("suite", suite, 150),
    ("networks", measured("networks"), 200),
    ("training", measured("training"), 180),
    ("blocks", measured("blocks"), 150),
    ("sanitizer", sanitizer, 280),
    ("bench", bench, 110),
    ("triton", triton, 100),
)


def share_left(names: list[str]) -> float:
    """Of the steps' own times, what fits into the time that is left: the build may have taken minutes."""
    left = LIMIT_SECONDS - (time.time() - float(os.environ.get(STARTED) or time.time()))
    return max(0.1, min(1.0, left / sum(seconds for name, _, seconds in STEPS if name in names)))


@click.command()
@click.option("--only", multiple=True, type=click.Choice([name for name, _, _ in STEPS]), help="Only these steps.")
@click.option("--share", type=float, help="Of each step's time. [default: as much as 20 minutes leave, at most 1]")
def main(only: tuple[str, ...], share: float | None) -> None:
    """Runs the steps and writes the record; exit code 1 if one failed."""
    import torch

    if not torch.cuda.is_available():
        raise click.ClickException("make gpu needs a CUDA device that this torch sees")
    from lightops import info
    from lightops.bench import machine

    record: dict[str, Any] = {"machine": machine.conditions(torch.device("cuda")), "info": info(), "steps": {}}
    names = [name for name, _, _ in STEPS if not only or name in only]
    share = share or share_left(names)
    for name, step, seconds in STEPS:
        if name not in names:
            continue
        click.echo(f"{name}, at most {seconds * share:.0f} s ...")
        try:
            record["steps"][name] = step(seconds * share)
        except Exception as error:
            # One failed step must not cost the others' results on a machine that is lent for minutes.
            record["steps"][name] = {"exit": "error", "tail": [f"{type(error).__name__}: {error}"]}
        click.echo(f"{name}: exit {record['steps'][name]['exit']}")
    RECORDS.mkdir(exist_ok=True)
    device = torch.cuda.get_device_name().replace(" ", "-")
    path = RECORDS / f"{datetime.now():%Y-%m-%d-%H%M}-{device}.json"
    path.write_text(json.dumps(record, indent=1, default=str) + "\n")
    rows = record["steps"].get("blocks", {}).get("rows", [])
    if rows:
        gpu_blocks.plot(rows, path.with_suffix(".png"))
    click.echo(f"record: {path}")
    if any(step["exit"] != "0" for step in record["steps"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
