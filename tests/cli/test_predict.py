"""`lightops kernels --predict`: the calls of the networks, the arithmetic of a prediction, what stands beside it."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lightops import networks
from lightops.bench import gpu_traffic, predict
from lightops.bench.gpu_calls import Call, calls_of
from lightops.bench.gpu_traffic import Kernel, Map
from lightops.bench.gpu_training_calls import TrainingCall, step_of
from lightops.bench.subjects import DEFAULT_NETWORKS
from lightops.cli import main
from lightops.networks.count import count

# Of the tree, also where the package is built apart from it.
RECORDS = Path(__file__).resolve().parents[2] / "benchmarks" / "records"
NO_RECORD = predict.Record(None, "", {}, {})


def invoke(*arguments: str):
    return CliRunner().invoke(main, ["kernels", "--predict", *map(str, arguments)])


@cache
def calls(name: str) -> list[Call]:
    return calls_of(networks.create(name).eval(), torch.zeros(1, 3, 224, 224))


@pytest.fixture
def one_network(monkeypatch):
    monkeypatch.setattr(predict, "NETWORKS", ("squeezenet1_1",))


def record_of(tmp_path, name: str, ms: float, **machine) -> str:
    rows = [
        {"network": "squeezenet1_1", "batch": batch, "contestant": c, "graph_ms": ms * factor}
        for batch in (256, 1)
        for c, factor in (("lightops", 1), ("torch.compile", 2), ("eager NHWC", 3))
    ]
    made = {"date": "2026-01-02T00:00", "device": "a card", "versions": {"torch": "2.11"}, **machine}
    path = tmp_path / name
    path.write_text(json.dumps({"machine": made, "steps": {"networks": {"rows": rows}}}))
    return path


@pytest.mark.parametrize("name", DEFAULT_NETWORKS)
def test_every_multiply_add_of_a_network_is_in_its_calls(name):
    """In float32, where a depthwise convolution is counted plainly. A transition has a quarter of stock's."""
    kernels = [kernel for call in calls(name) for kernel in call.kernels(1, 4)]
    averaged = sum(kernel.macs for kernel in kernels if kernel.name == "average 1x1")
    stock = count(networks.create(name), (3, 224, 224)).multiply_adds
    assert sum(kernel.macs for kernel in kernels) + 3 * averaged == stock


@pytest.mark.parametrize("name", DEFAULT_NETWORKS)
def test_everything_but_weights_grows_with_the_batch(name):
    for call in calls(name):
        for one, many in zip(call.kernels(1, 2), call.kernels(32, 2), strict=True):
            assert many == one._replace(read=one.read * 32, written=one.written * 32, macs=one.macs * 32)


def test_tensors_between_kernels_are_written_and_read():
    x, out = Map(2, 16, 8, 8), Map(2, 24, 4, 4)
    first, second = gpu_traffic.inverted_residual(x, out, 96, 9, 2)
    hidden = 2 * 96 * 64 * 2
    assert (first.read, first.written, second.read, second.written) == (
        2 * 16 * 64 * 2,
        hidden,
        hidden,
        2 * 24 * 16 * 2,
    )
    block = gpu_traffic.dense_block(Map(1, 64, 7, 7), 2, 32, 128, 2, copied=True)
    assert [kernel.name for kernel in block] == ["copy", "1x1", "3x3", "1x1", "3x3"]
    assert [kernel.read for kernel in block] == [98 * c for c in (64, 64, 128, 96, 128)]


def test_a_kernel_takes_the_longest_of_its_bounds():
    ceilings = predict.Ceilings(bytes_per_second=1e12, flops=2e12, kernel_seconds=1e-6)
    cases = (
        (Kernel("", 6_000_000, 3_000_000, 1_000_000, 1), 1e-5, "bytes"),
        (Kernel("", 1, 1, 1, 20_000_000), 2e-5, "products"),
        (Kernel("", 1, 1, 1, 1), 1e-6, "launches"),
    )
    whole = predict.Part("whole")
    for kernel, seconds, bound in cases:
        assert ceilings.seconds(kernel) == (pytest.approx(seconds), bound)
        whole.add(kernel, ceilings)
    assert whole.ms == pytest.approx(3.1e-2)
    assert (whole.kernels, whole.bound) == (3, "products")


def test_an_operator_without_a_model_is_an_error():
    with pytest.raises(ValueError, match="no traffic model of lightops::conv3d"):
        Call("conv3d", {"x": (1, 1, 1, 1)}, (1, 1, 1, 1)).kernels(1, 2)


def test_predictions_stand_beside_the_committed_record():
    record = predict.newest_record(RECORDS)
    assert record.path is not None
    for p in predict.predict(["mobilenet_v1"], [256, 1], record, predict.Ceilings()):
        assert set(p.measured) == set(predict.CONTESTANTS)
        assert p.over("lightops") == p.measured["lightops"] / p.whole.ms
        assert sum(part.ms for part in p.ops) == pytest.approx(p.whole.ms)
        assert p.over("lightops") > 1, "a floor that a kernel beats is none"


def test_the_command_prints_times_assumptions_and_the_record(tmp_path, one_network):
    result = invoke("--record", record_of(tmp_path, "r.json", 10.0), "--batch", "256")
    assert result.exit_code == 0, result.output
    row = next(line for line in result.output.splitlines() if line.startswith("squeezenet1_1  "))
    name, batch, predicted, ours, over, compiled, _, eager = row.split()
    assert (name, batch, ours, compiled, eager) == ("squeezenet1_1", "256", "10.000", "20.000", "30.000")
    assert over == f"{10 / float(predicted):.1f}x"
    assert "measured: r.json: a card, torch 2.11, 2026-01-02" in result.output
    assert result.output.count("assumed: ") == len(predict.Ceilings().assumptions())
    assert "a prediction is a floor, not an estimate" in result.output


def test_the_command_prints_json(tmp_path, one_network):
    result = invoke("--json", "--batch", "1", "--record", record_of(tmp_path, "r.json", 1.0))
    told = json.loads(result.output)
    (only,) = told["predictions"]
    assert only["measured_over_predicted"]["torch.compile"] == pytest.approx(2 / only["predicted_ms"])


def test_without_a_record_only_the_measured_columns_are_empty(monkeypatch, one_network):
    monkeypatch.setattr(predict, "newest_record", lambda: NO_RECORD)
    result = invoke("--batch", "1")
    assert result.exit_code == 0, result.output
    assert "measured: no record here" in result.output


def test_the_last_record_with_networks_is_taken(tmp_path):
    record_of(tmp_path, "2026-01-01.json", 1.0)
    later = record_of(tmp_path, "2026-01-02.json", 2.0)
    (tmp_path / "2026-01-03.json").write_text('{"steps": {"suite": {}}}')
    assert predict.newest_record(tmp_path).path == later
    assert predict.newest_record(tmp_path / "nowhere") == NO_RECORD


def test_a_file_that_is_no_record_is_refused(tmp_path, one_network):
    path = tmp_path / "other.json"
    path.write_text("[1]")
    result = invoke("--record", path)
    assert result.exit_code == 2
    assert "holds no times of networks" in result.output


@pytest.mark.parametrize(("variable", "value"), [("LIGHTOPS_DISABLE", "1"), ("LIGHTOPS_BACKEND", "cuda")])
def test_where_nothing_runs_fused_there_is_no_prediction(monkeypatch, one_network, variable, value):
    monkeypatch.setenv(variable, value)
    result = invoke()
    assert result.exit_code == 1
    assert "--predict runs the networks on the CPU to see their calls" in result.output


@cache
def step(name: str):
    return step_of(networks.create(name), torch.zeros(1, 3, 224, 224))


@pytest.mark.parametrize("name", DEFAULT_NETWORKS)
def test_a_training_step_multiplies_three_times_what_an_answer_does(name):
    """Forward, and backward for input and weights; of the first convolution's input no gradient is wanted. A transition
    has a quarter of stock's, a depthwise convolution none of the tensor cores', a classifier is torch's."""
    seen, model = step(name), networks.create(name)
    forward = [call for call in seen.calls if not call.op.endswith("_backward")]
    backward = [call for call in seen.calls if call.op.endswith("_backward")]
    first = sum(kernel.macs for kernel in forward[0].kernels(1, 2))
    macs, back = (sum(k.macs for call in calls for k in call.kernels(1, 2)) for calls in (forward, backward))
    squeezed = sum(
        k.macs for call in backward for k in call.kernels(1, 2) if k.name == "squeeze again"
    )  # Fire computes it anew
    assert back - squeezed == 2 * macs - first
    if name == "squeezenet1_1":
        assert macs == count(model, (3, 224, 224)).multiply_adds


@pytest.mark.parametrize("name", DEFAULT_NETWORKS)
def test_a_training_step_grows_with_the_batch(name):
    for call in step(name).calls:
        moved = [sum(k.bytes for k in call.kernels(batch, 2)) for batch in (1, 32)]
        assert moved[1] == 32 * moved[0]


def test_a_training_operator_without_a_model_is_an_error():
    with pytest.raises(ValueError, match="no traffic model of lightops_training::conv3d"):
        TrainingCall("conv3d", {"x": (1, 1, 1, 1)}, (1, 1, 1, 1)).kernels(1, 2)


def test_the_command_prints_training_steps(tmp_path, one_network):
    path = record_of(tmp_path, "r.json", 10.0)
    content = json.loads(path.read_text())
    row = {"network": "squeezenet1_1", "batch": 256, "contestant": "lightops", "ms": 40.0}
    content["steps"]["training"] = {"rows": [row, {"block": "one", "contestant": "lightops", "ms": 1.0}]}
    path.write_text(json.dumps(content))
    result = invoke("--train", "--record", path)
    assert result.exit_code == 0, result.output
    assert "squeezenet1_1, training step, bf16, batch 256, 224x224" in result.output
    (line,) = (line for line in result.output.splitlines() if line.startswith("squeezenet1_1   "))
    _, batch, predicted, ours, over, *_ = line.split()
    assert (batch, ours, over) == ("256", "40.000", f"{40 / float(predicted):.1f}x")
    assert result.output.count("assumed: ") == len(predict.Ceilings().assumptions(train=True))
    told = json.loads(invoke("--train", "--json", "--record", path).output)
    assert (told["dtype"], told["train"]) == ("bf16", True)


def test_train_goes_with_predict():
    result = CliRunner().invoke(main, ["kernels", "--train"])
    assert result.exit_code == 2
    assert "--train goes with --predict" in result.output
