"""The commands as a user types them: output, files and exit codes."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import lightops.swap
from lightops.bench.report import Report
from lightops.cli import main

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
QUICK = ["--resolution", "48", "--batch", "2", "--threads", "1", "--seconds", "0", "--only", "torch eager NHWC"]


def invoke(*arguments: str):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def break_swap(monkeypatch):
    """From here on the swap also scales the first convolution by 0.1%."""
    genuine = lightops.swap.swap_

    def wrong(model, *args, **kwargs):
        report = genuine(model, *args, **kwargs)
        with torch.no_grad():
            next(m for m in model.modules() if isinstance(m, nn.Conv2d)).weight.mul_(1.001)
        return report

    monkeypatch.setattr(lightops.swap, "swap_", wrong)


def test_bench_writes_a_report(networks_file, tmp_path):
    out = tmp_path / "report"
    result = invoke("bench", f"{networks_file}:squeeze", *QUICK, "--out", out)
    assert result.exit_code == 0, result.output
    assert "x best other" in result.output
    assert sorted(path.name for path in out.iterdir())[:3] == ["bench.csv", "bench.json", "bench.png"]


def test_bench_json_is_all_that_is_on_standard_output(networks_file, tmp_path):
    result = invoke("bench", f"{networks_file}:squeeze", *QUICK, "--out", tmp_path / "report", "--json")
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert {row["contestant"] for row in report["rows"]} == {"torch eager NHWC", "lightops"}


def test_bench_fails_when_the_answers_differ(networks_file, tmp_path, monkeypatch):
    break_swap(monkeypatch)
    result = invoke("bench", f"{networks_file}:squeeze", *QUICK, "--out", tmp_path / "report")
    assert result.exit_code == 1
    assert "WRONG" in result.output
    assert "VERIFICATION FAILED" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "not in lightops.networks"),
        (["--only", "memory_efficient"], "memory_efficient is none of"),
        (["--train", "--only", "openvino"], "openvino is none of"),
        (["--batch", "0"], "a number below 1"),
        (["--threads", "two"], "not a comma-separated list"),
        (["--device", "abacus"], "--device abacus"),
        (["--device", "meta"], "expected cpu or cuda"),
    ],
)
def test_bench_refuses(arguments, message):
    result = invoke("bench", *arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_bench_refuses_a_gpu_that_is_not_there():
    result = invoke("bench", "--device", "cuda")
    assert result.exit_code == 2
    assert "no CUDA device is visible" in result.output


def test_check_passes(networks_file):
    result = invoke("check", f"{networks_file}:squeeze", "--resolution", 48)
    assert result.exit_code == 0, result.output
    assert "(all)" in result.output
    assert "MISS" not in result.output


def test_check_finds_a_wrong_block(networks_file, monkeypatch):
    break_swap(monkeypatch)
    result = invoke("check", f"{networks_file}:squeeze", "--resolution", 48)
    assert result.exit_code == 1
    assert "MISS" in result.output


def test_check_fails_when_nothing_is_swapped(networks_file):
    result = invoke("check", f"{networks_file}:opaque", "--resolution", 48)
    assert result.exit_code == 1
    assert "nothing was swapped" in result.output


def test_explain_leaves_no_network_unexplained(networks_file):
    result = invoke("explain", f"{networks_file}:squeeze")
    assert result.exit_code == 0, result.output
    assert "fire" in result.output


BROKEN = """
import torch

def number(): return 3
def raises(): raise ValueError("no such width")
def wants(width): return torch.nn.Identity()
def linear(): return torch.nn.Linear(3, 4)
def pair(): return Pair()
class Pair(torch.nn.Module):
    def forward(self, x): return x, x
"""


@pytest.mark.parametrize("command", ["bench", "check"])
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("number", "the factory returned a int, not an nn.Module"),
        ("raises", "cannot be made: ValueError: no such width"),
        ("wants", "cannot be made: TypeError: wants() missing 1 required positional argument"),
        ("linear", "does not take pictures of 2x3x16x16: RuntimeError"),
        ("pair", "answers with a tuple, not with one tensor"),
    ],
)
def test_a_broken_factory_is_one_line(command, factory, message, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    result = invoke(command, f"{path}:{factory}", "--resolution", 16)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("text", "message"),
    [("def f(:", "SyntaxError"), ("import no_such_module_x", "no_such_module_x"), ("exit(5)", "SystemExit: 5")],
)
def test_a_file_that_cannot_be_imported_is_one_line(text, message, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(text)
    result = invoke("explain", f"{path}:f")
    assert result.exit_code == 2
    assert "cannot be imported" in result.output
    assert message in result.output


def test_a_file_without_a_factory_says_how_to_name_one():
    result = invoke("explain", "nets.py")
    assert result.exit_code == 2
    assert "as in nets.py:factory" in result.output


def test_a_resolution_too_small_is_one_line():
    result = invoke("check", "torchvision:alexnet", "--resolution", 16)
    assert result.exit_code == 2
    assert "does not take pictures of 2x3x16x16" in result.output


def test_explain_says_that_there_is_nothing(networks_file):
    result = invoke("explain", f"{networks_file}:opaque")
    assert result.exit_code == 0
    assert "no block of a kind that lightops fuses" in result.output


def test_info_names_every_backend_with_its_reason():
    result = invoke("info", "--json")
    state = json.loads(result.output)
    assert list(state["backends"]) == ["cuda", "triton", "cpu", "reference"]
    for backend in state["backends"].values():
        assert backend["available"] or backend["reason"]
    text = invoke("info").output
    assert all(name in text for name in state["backends"])


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "lightops", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lightops, version ")


def readme_tables():
    spec = importlib.util.spec_from_file_location("readme_tables", BENCHMARKS / "readme_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_tables_are_replaced_between_their_markers(networks_file, tmp_path):
    out, readme = tmp_path / "report", tmp_path / "README.md"
    assert invoke("bench", f"{networks_file}:squeeze", *QUICK, "--out", out).exit_code == 0
    readme.write_text("before\n<!-- bench:medians -->\nold\n<!-- /bench:medians -->\nafter\n")
    result = CliRunner().invoke(readme_tables().main, [str(out), "--readme", str(readme)])
    assert result.exit_code == 0, result.output
    text = readme.read_text()
    assert text.startswith("before\n<!-- bench:medians -->\n| network |")
    assert text.endswith("<!-- /bench:medians -->\nafter\n")
    assert "old" not in text
    readme.write_text("<!-- bench:medians -->\nno end\n")
    result = CliRunner().invoke(readme_tables().main, [str(out), "--readme", str(readme)])
    assert result.exit_code == 1
    assert readme.read_text() == "<!-- bench:medians -->\nno end\n"


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
@pytest.mark.parametrize("kind", ["bench", "bf16", "train"])
def test_every_marker_of_the_pages_is_known(page, kind):
    tables = readme_tables()
    text = (BENCHMARKS.parent / page).read_text()
    state = {"date": "", "device": "", "cores": 0, "system": "", "lightops": "", "isa": "", "python": "", "load": 0}
    settings = {"threads": [1], "dtype": "bf16" if kind == "bf16" else "fp32", "train": kind == "train"}
    fresh = tables.refresh(text, Report(state | {"versions": {}, "command": ""}, settings))
    for marker in ("bench", "train"):
        parts = [re.findall(rf"<!-- {marker}:\w+ -->.*?<!-- /{marker}:\w+ -->", t, re.DOTALL) for t in (text, fresh)]
        assert len(parts[0]) == len(parts[1])
        assert marker == kind or parts[0] == parts[1]
    assert text.count("<!-- train:") == 3


@pytest.mark.parametrize("script", sorted(path.name for path in BENCHMARKS.glob("bench_*.py")))
def test_every_benchmark_starts(script):
    command = [sys.executable, str(BENCHMARKS / script), "--help"]
    # As a user starts it: `make` sets PYTHONSAFEPATH, which hides a script's own folder from it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
