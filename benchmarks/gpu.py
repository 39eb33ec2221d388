"""`make gpu`: everything that needs a GPU, in one command and one record under benchmarks/records/.

The GPU test suite, compute-sanitizer's four tools, blocks, networks and training steps against cuDNN and torch.compile.
Each step has a share of the time; what does not finish is recorded as such and the next step runs all the same.
Nothing is fetched."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import gpu_blocks
import gpu_networks
import gpu_training

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Seeds an op runs under a sanitizer: enough to cover every kernel of one op, at some hundred times the usual run time.
SANITIZED_SEEDS = "25"
TRITON_SEEDS = "5"


def call(command: list[str], seconds: float, **environment: str) -> dict[str, Any]:
    """Run a command; its end, how long it took and the last lines."""
    start = time.monotonic()
    env = {**os.environ, **environment}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, timeout=seconds, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        code, text = str(done.returncode), done.stdout
    except subprocess.TimeoutExpired as late:
        code, text = "timed out", (late.stdout or b"").decode(errors="replace")
    tail = text.splitlines()[-12:]
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
    test = [sys.executable, "-m", "pytest", "-q", "tests/gpu", "-k", "truth and cuda"]
    # torch's caching allocator would hide an access past a tensor's end.
    env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "LIGHTOPS_GPU_SEEDS": SANITIZED_SEEDS}
    results = {}
    for name in TOOLS:
        results[name] = call([tool, "--tool", name, "--error-exitcode", "9", *test], seconds / len(TOOLS), **env)
    worst = [r["exit"] for r in results.values() if r["exit"] != "0"]
    return {"exit": worst[0] if worst else "0", "tools": results}


def networks(seconds: float) -> dict[str, Any]:
    rows = gpu_networks.measure(time.monotonic() + seconds)
    return {"exit": "0" if all(r["error"] <= r["limit"] for r in rows) else "1", "rows": rows}


def blocks(seconds: float) -> dict[str, Any]:
    rows = gpu_blocks.measure(time.monotonic() + seconds)
    return {"exit": "0" if all(r["error"] <= r["limit"] for r in rows) else "1", "rows": rows}


def training(seconds: float) -> dict[str, Any]:
    rows = gpu_training.measure(time.monotonic() + seconds)
    return {"exit": "0" if all(r["error"] <= r["limit"] for r in rows) else "1", "rows": rows}


STEPS: tuple[tuple[str, Callable[[float], dict[str, Any]], float], ...] = (
    ("suite", suite, 180),
    ("networks", networks, 220),
    ("training", training, 180),
    ("blocks", blocks, 160),
    ("sanitizer", sanitizer, 250),
    ("triton", triton, 120),
)


@click.command()
@click.option("--only", multiple=True, type=click.Choice([name for name, _, _ in STEPS]), help="Only these steps.")
@click.option("--share", default=1.0, show_default=True, help="Of each step's time, which is 18.5 minutes in all.")
def main(only: tuple[str, ...], share: float) -> None:
    """Runs the steps and writes the record; exit code 1 if one failed."""
    import torch

    if not torch.cuda.is_available():
        raise click.ClickException("make gpu needs a CUDA device that this torch sees")
    from lightops import info
    from lightops.bench import machine

    record: dict[str, Any] = {"machine": machine.conditions(torch.device("cuda")), "info": info(), "steps": {}}
    for name, step, seconds in STEPS:
        if only and name not in only:
            continue
        click.echo(f"{name} ...")
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
