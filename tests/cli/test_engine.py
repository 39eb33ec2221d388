"""The engine: turns, allocation, verification, the other runtimes, reports."""

import json
import math
import os

import pytest
import torch
from torch import nn

from lightops.bench import contestants, engines, export, job, machine, memory, runner, subjects, verify
from lightops.bench.contestants import Task, Unavailable
from lightops.bench.files import load, write
from lightops.bench.report import Row, add_ratios


class Clock:
    """Time that passes only when a contestant works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_contestants_take_turns_and_the_order_rotates(monkeypatch):
    monkeypatch.setattr(runner, "PAUSE_S", 0.0)
    clock, log = Clock(), []

    def worker(name, seconds):
        def call():
            log.append(name)
            clock.now += seconds

        return call

    calls = {name: worker(name, 0.2) for name in "abc"}
    timings = runner.interleave(calls, seconds=0.0, clock=clock)
    after_warm_up = log[2 * len(calls) :]
    assert after_warm_up == list("abcbcacababcbca")
    assert all(len(timing.samples) == runner.MIN_ROUNDS for timing in timings.values())
    assert timings["a"].median == pytest.approx(0.2)


def test_the_first_call_of_a_short_burst_is_not_counted(monkeypatch):
    monkeypatch.setattr(runner, "PAUSE_S", 0.0)
    clock, calls = Clock(), []

    def call():
        calls.append(None)
        # Slow right after a pause, as a sleeping thread pool is.
        clock.now += 1.0 if len(calls) > 2 and (len(calls) - 3) % 6 == 0 else 0.02

    timing = runner.interleave({"a": call}, seconds=0.0, clock=clock)["a"]
    assert {round(sample, 6) for sample in timing.samples} == {0.02}
    assert len(timing.samples) == 5 * runner.MIN_ROUNDS


@pytest.mark.parametrize(("seconds", "rounds"), [(0.5, 2), (2.0, 4), (4.0, 5), (60.0, 30)])
def test_slow_contestants_get_fewer_rounds_and_fast_ones_fill_the_time(seconds, rounds, monkeypatch):
    monkeypatch.setattr(runner, "PAUSE_S", 0.0)
    clock = Clock()

    def call():
        clock.now += 1.0

    shares = []
    timing = runner.interleave({"a": call, "b": call}, seconds, shares.append, clock)["a"]
    assert len(timing.samples) == rounds
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_spread_and_minimum():
    timing = runner.Timing([float(v) for v in range(11)])
    assert (timing.median, timing.minimum, timing.spread) == (5.0, 0.0, (1.0, 9.0))


def test_allocation_counts_what_is_alive_at_once():
    x = torch.zeros(1000)

    def call():
        y = x.neg()
        y = y.neg()
        return y.neg()

    found = memory.allocation(call)
    assert found.count == 3
    assert found.total == 3 * 4000
    assert found.peak == 2 * 4000


def test_traffic_counts_operators_and_not_views():
    x = torch.zeros(10, 10)
    found = memory.traffic(lambda: torch.relu(x.t()).reshape(100) + 1)
    assert found.operators == {"relu": 1, "add": 1, "clone": 1}
    assert found.passes == 3
    assert found.bytes_read == found.bytes_written == 3 * 400


@pytest.mark.parametrize(
    ("answer", "error", "top1"),
    [
        (torch.tensor([[1.0, 2.0], [4.0, 3.0]]), 0.0, 1.0),
        (torch.tensor([[1.0, 2.5], [4.0, 4.5]]), 1.5, 0.5),
        (torch.tensor([[1.0, math.nan], [4.0, 3.0]]), math.inf, None),
        (torch.tensor([[1.0, 2.0]]), math.inf, 0.0),
    ],
)
def test_measure(answer, error, top1):
    truth = torch.tensor([[1.0, 2.0], [4.0, 3.0]], dtype=torch.float64)
    found = verify.measure(answer.numpy(), truth, limit=1.0)
    assert found.error == error
    assert found.ok == (error <= 1.0)
    if top1 is not None:
        assert found.top1 == top1


def test_lightops_is_held_to_twice_stock():
    truth = torch.tensor([[8.0]], dtype=torch.float64)
    eps = torch.finfo(torch.float32).eps
    assert verify.limit_for("lightops", truth, torch.float32, [1e-5, 3e-5]) == pytest.approx(6e-5 + 32 * eps)
    assert verify.limit_for("other", truth, torch.float32, [1e-5]) == pytest.approx(0.08)


@pytest.fixture
def task(networks_file, cache) -> Task:
    subject = subjects.load_subject(f"{networks_file}:squeeze", 64)
    return Task(subject, subject.batch(3), 1, torch.device("cpu"), torch.float32, cache / "exports")


@pytest.mark.unsanitized
@pytest.mark.parametrize("engine", engines.ENGINES, ids=lambda engine: engine.name)
def test_other_runtimes_compute_the_same_network(engine, task):
    pytest.importorskip(engine.name)
    cores = os.sched_getaffinity(0)
    found = verify.measure(engine.build(task)(), task.subject.exact(3), limit=1e-4)
    assert found.ok, found
    assert found.top1 == 1.0
    assert os.sched_getaffinity(0) == cores


def test_an_export_is_made_once_per_weights(task, monkeypatch):
    pytest.importorskip("onnxscript")
    first = export.export_onnx(task)
    monkeypatch.setattr(export, "_write_onnx", lambda *args: pytest.fail("exported again"))
    assert export.export_onnx(task) == first
    with torch.no_grad():
        next(task.subject.model.parameters()).add_(1)
    with pytest.raises(pytest.fail.Exception, match="exported again"):
        export.export_onnx(task)


def test_an_engine_that_cannot_take_part_says_why(task):
    with pytest.raises(Unavailable, match="float32 only"):
        engines.build_ncnn(Task(**(task.__dict__ | {"dtype": torch.bfloat16})))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("densenet999", "not in lightops.networks, which has .*densenet121"),
        ("keras:vgg", "'keras' is not a source"),
        ("nowhere.py:net", "there is no file nowhere.py"),
        ("DenseNet", "not in lightops.networks"),
    ],
)
def test_unknown_networks(name, message):
    with pytest.raises(subjects.UnknownNetwork, match=message):
        subjects.factory(name)


def test_a_file_without_the_factory(networks_file):
    with pytest.raises(subjects.UnknownNetwork, match="no callable 'absent'"):
        subjects.factory(f"{networks_file}:absent")


def test_no_weights_are_fetched_for_a_backbone():
    make = subjects.factory("torchvision:lraspp_mobilenet_v3_large")
    assert make.keywords == {"weights": None, "weights_backbone": None}
    assert subjects.factory("torchvision:mobilenet_v2").keywords == {"weights": None}


def test_exact_is_stock_in_float64(networks_file):
    subject = subjects.load_subject(f"{networks_file}:mobile", 32)
    expected = subject.copy().double()(subject.batch(3).double())
    torch.testing.assert_close(subject.exact(3), expected, rtol=1e-10, atol=1e-10)
    many = subject.exact(len(subject.photos) + 1)
    assert torch.equal(many[-1], many[0])


def test_ratio_is_against_the_best_other():
    rows = [Row("n", 1, 1, name, "other", median_ms=ms) for name, ms in (("a", 2.0), ("b", 4.0), ("c", 1.0))]
    rows.append(Row("n", 1, 1, "absent", "other"))
    add_ratios(rows)
    assert [row.ratio for row in rows] == [0.5, 0.25, 2.0, None]


def options(networks_file, **changes) -> job.Options:
    given = {"batches": (2,), "resolution": 48, "seconds": 0.0, "only": ("torch eager NCHW", "torch eager NHWC")}
    return job.Options(networks=(f"{networks_file}:squeeze",), **(given | changes))


def test_a_run_verifies_times_and_reports(networks_file, tmp_path):
    report = job.run(options(networks_file))
    assert report.ok
    assert [row.contestant for row in report.rows] == ["torch eager NCHW", "torch eager NHWC", "lightops"]
    for row in report.rows:
        assert row.status == "ok"
        assert 0 < row.min_ms <= row.p10_ms <= row.median_ms <= row.p90_ms
        assert row.error <= row.error_limit
        assert row.peak_mb > 0
    paths = write(report, tmp_path / "out")
    assert {path.name for path in paths} >= {"bench.json", "bench.csv", "index.html"}
    again = load(tmp_path / "out")
    assert json.loads(again.as_json()) == json.loads(report.as_json())
    page = (tmp_path / "out" / "index.html").read_text()
    assert "all answers verified" in page
    assert "lightops" in (tmp_path / "out" / "bench.csv").read_text()


def test_a_wrong_swap_is_not_timed_and_fails_the_run(networks_file, monkeypatch):
    import lightops.swap

    def wrong(model, *args, **kwargs):
        with torch.no_grad():
            next(m for m in model.modules() if isinstance(m, nn.Conv2d)).weight.mul_(1.001)

    monkeypatch.setattr(lightops.swap, "swap_", wrong)
    report = job.run(options(networks_file))
    ours = report.rows[-1]
    assert (ours.status, ours.median_ms) == ("wrong", None)
    assert not report.ok
    assert not report.labelled[0].ok


def test_a_contestant_that_crashes_does_not_end_the_run(networks_file, monkeypatch):
    def crash(task):
        raise RuntimeError("out of luck\nand more")

    broken = contestants.Contestant("broken", "other", crash)
    monkeypatch.setattr(job, "CONTESTANTS", (contestants.EAGER_NHWC, broken, contestants.LIGHTOPS))
    report = job.run(options(networks_file, only=()))
    assert [row.status for row in report.rows] == ["ok", "failed", "ok"]
    assert "out of luck" in report.rows[1].reason
    assert report.ok


@pytest.mark.parametrize("out", [["--out", "/tmp/x"], ["--out=/tmp/x"], []])
def test_the_command_is_kept_without_the_report_folder(out, monkeypatch):
    monkeypatch.setattr(machine.sys, "argv", ["lightops", "bench", *out, "--only", "torch eager NHWC"])
    command = machine.conditions(torch.device("cpu"))["command"]
    assert command == "lightops bench --only 'torch eager NHWC'"
