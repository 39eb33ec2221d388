"""The papers' experiments: every network of the table can be trained; a tiny run is written, drawn and not repeated."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lightops import networks
from lightops.networks import count
from lightops.swap import swap_

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "experiments"


@pytest.fixture(scope="module")
def papers():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("papers", FOLDER / "papers.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["papers"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("papers", None)


def test_every_network_can_be_swapped_and_takes_its_pictures(papers):
    table = list(papers.configurations())
    assert len({(c.experiment, c.series, c.x) for c in table}) == len(table)
    assert {c.experiment for c in table} == set(sys.modules["plots"].LABELS)
    for configuration in table:
        model = networks.create(configuration.network, **configuration.arguments, num_classes=10, in_channels=1)
        counted = count(model, (1, configuration.resolution, configuration.resolution))
        assert counted.multiply_adds < 40e6, configuration
        assert swap_(model).fused, configuration


def test_a_tiny_run_is_written_drawn_and_not_repeated(papers, tmp_path):
    given = ["--data", "digits", "--train", "32", "--test", "16", "--epochs", "1", "--batch", "16", "--seeds", "2"]
    given += ["--only", "bypass", "--out", str(tmp_path)]
    torch.manual_seed(3)
    assert CliRunner().invoke(papers.main, given, catch_exceptions=False).exit_code == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(run["configuration"]["x"], run["seed"]) for run in results["runs"]] == [
        (bypass, seed) for seed in (0, 1) for bypass in ("none", "simple", "complex")
    ]
    assert all(0 <= run["test_error"] <= 1 and run["fused"] and run["parameters"] for run in results["runs"])
    assert (tmp_path / "bypass.png").stat().st_size > 1000
    CliRunner().invoke(papers.main, given, catch_exceptions=False)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    CliRunner().invoke(papers.main, [*given, "--epochs", "2", "--seeds", "1"], catch_exceptions=False)
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == 9


def test_committed_results_belong_to_the_table(papers):
    """A changed table with old results beside it would be a wrong picture."""
    path = FOLDER / "results.json"
    if not path.exists():
        pytest.skip("no results are committed yet")
    known = {json.dumps(c.__dict__, sort_keys=True) for c in papers.configurations()}
    results = json.loads(path.read_text())
    assert {json.dumps(run["configuration"], sort_keys=True) for run in results["runs"]} == known
    assert all((FOLDER / f"{name}.png").is_file() for name in sys.modules["plots"].LABELS)
