"""`lightops bench --train`: contestants, what they keep, and that wrong gradients are found and not timed."""

import json
import re

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.utils.checkpoint import checkpoint

import lightops.swap
from lightops.bench import contestants, job, memory, photos, subjects, training
from lightops.bench.contestants import Task, Unavailable
from lightops.bench.files import load, write
from lightops.cli import main
from lightops.modules import FallbackWarning

NETS = """
from torch import nn

from lightops import networks


def dense():
    return networks.DenseNet(4, (6, 2), 8, num_classes=7)


def plain_dense():
    return networks.DenseNet(4, (2, 2), 8, 0, num_classes=7)


def mobile():
    return networks.mobilenet_v1(width_mult=0.25, num_classes=7)


def squeeze():
    return networks.squeezenet(base_e=32, incr_e=32, num_classes=7)


def flat():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7)
    )
"""

# Until every block trains fused some run their stock forward, and say so once.
pytestmark = pytest.mark.filterwarnings(f"ignore::{FallbackWarning.__module__}.{FallbackWarning.__name__}")


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture
def task(nets, cache):
    def make(name: str, dtype: torch.dtype = torch.float32) -> Task:
        subject = subjects.load_subject(f"{nets}:{name}", 48)
        return Task(subject, subject.batch(3), 1, torch.device("cpu"), dtype, cache)

    return make


def options(nets, *names, **changes) -> job.Options:
    given = {"batches": (3,), "resolution": 48, "seconds": 0.0, "train": True}
    return job.Options(networks=tuple(f"{nets}:{name}" for name in names), **(given | changes))


def test_saved_bytes_count_each_storage_once_and_no_parameter():
    weight = nn.Parameter(torch.ones(10, 10))
    x = torch.ones(4, 10)

    def forward():
        y = (x @ weight) @ weight  # keeps x, the first product and the weight
        z = y[:, :5].exp()  # keeps its output: 4 x 5
        return (z * y[:, 5:]).sum()  # keeps z, again, and the right half of y: the whole of y's storage

    assert memory.saved_for_backward(forward, [weight]) == 4 * (2 * 4 * 10 + 4 * 5 + 4 * 10)
    assert memory.saved_for_backward(forward, []) == 4 * (2 * 4 * 10 + 4 * 5 + 4 * 10 + 100)


def test_what_a_checkpoint_recomputes_is_not_saved():
    weight = nn.Parameter(torch.ones(10))

    def body(x):
        return (x * weight).exp().exp().exp()

    x = torch.ones(7, 10)
    plain = memory.saved_for_backward(lambda: body(x).sum(), [weight])
    recomputed = memory.saved_for_backward(lambda: checkpoint(body, x, use_reentrant=False).sum(), [weight])
    assert (plain, recomputed) == (4 * 4 * 70, 4 * 70)


@pytest.mark.parametrize("name", ["dense", "mobile", "squeeze"])
def test_every_contestant_has_the_gradients_of_stock_in_float64(task, name):
    given = task(name, torch.float64)
    exact, absent = training.truth(given.subject, 3), []
    for contestant in training.CONTESTANTS:
        if contestant.name == "torch.compile":
            continue
        try:
            step = contestant.build(given)
        except Unavailable:
            absent.append(contestant.name)
            continue
        assert training.distance(step.gradients(), exact) < 1e-9, contestant.name
    assert absent == ([] if name == "dense" else ["memory_efficient"])


def test_memory_efficient_and_checkpointing_keep_less(task):
    given = task("dense")
    saved = {}
    for contestant in training.CONTESTANTS[1:4]:
        step = contestant.build(given)
        saved[contestant.name] = memory.saved_for_backward(step.loss, step.model.parameters())
    assert saved["memory_efficient"] < 0.7 * saved["torch eager NHWC"]
    assert saved["checkpointing"] < 0.7 * saved["torch eager NHWC"]


def test_who_cannot_take_part_says_why(task):
    with pytest.raises(Unavailable, match="only DenseNet"):
        training.build_memory_efficient(task("mobile"))
    with pytest.raises(Unavailable, match="without bottleneck"):
        training.build_memory_efficient(task("plain_dense"))
    with pytest.raises(Unavailable, match="no blocks to put checkpoints around"):
        training.build_checkpoint(task("flat"))


def test_a_step_trains_and_leaves_no_gradient(task):
    step = training.build_nhwc(task("mobile"))
    before = [p.detach().clone() for p in step.model.parameters()]
    steps = next(b for name, b in step.model.named_buffers() if name.endswith("num_batches_tracked")).item()
    step()
    assert any(not torch.equal(p, old) for p, old in zip(step.model.parameters(), before, strict=True))
    assert all(p.grad is None for p in step.model.parameters())
    after = next(b for name, b in step.model.named_buffers() if name.endswith("num_batches_tracked")).item()
    assert after == steps + 1


def test_dropout_is_off_for_the_gradients_alone(task):
    step = training.build_nhwc(task("squeeze"))
    drop = next(m for m in step.model.modules() if isinstance(m, nn.Dropout))
    one, other = step.gradients(), step.gradients()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert drop.p == 0.5


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_run_verifies_times_weighs_and_reports(nets, tmp_path, dtype):
    report = job.run(options(nets, "dense", "mobile", dtype=dtype))
    assert report.ok, [row.reason for row in report.rows]
    for row in report.rows:
        if row.status == "absent":
            assert row.contestant == "memory_efficient"
            continue
        assert row.status == "ok", row.reason
        assert 0 < row.min_ms <= row.median_ms
        assert row.saved_mb > 0
        assert row.peak_mb > 0
        assert row.error <= row.error_limit
    paths = write(report, tmp_path / "out")
    assert {path.name for path in paths} == {"bench.json", "bench.csv", "bench.png", "index.html"}
    assert load(tmp_path / "out").rows == report.rows
    page = (tmp_path / "out" / "index.html").read_text()
    assert "all gradients verified" in page
    assert "Kept for the backward pass" in page


def test_the_command(nets, tmp_path):
    given = ["--train", "--resolution", "48", "--threads", "1", "--seconds", "0", "--only", "torch eager NHWC"]
    result = CliRunner().invoke(main, ["bench", f"{nets}:mobile", *given, "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {row["contestant"] for row in report["rows"]} == {"torch eager NHWC", "lightops"}
    assert {row["batch"] for row in report["rows"]} == {8}
    assert "gradient error" in result.stderr


class Scaled(torch.autograd.Function):
    """Forward identity, backward the gradient times a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


def _scale_one(factor):
    def fault(model):
        conv = [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1]
        genuine = conv.forward
        conv.forward = lambda x: genuine(Scaled.apply(x, factor))

    return fault


def _other_momentum(model):
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).momentum = 0.11


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_scale_one(0.5), "WRONG: gradient .* from float64's"),
        (_scale_one(1.0001), "WRONG in float64: gradients of .* from stock's"),
        (_other_momentum, "WRONG in float64: buffers of .*running_mean"),
    ],
)
@pytest.mark.parametrize("pictures", [2, 5])
def test_a_fault_of_the_swap_is_found_and_not_timed(nets, monkeypatch, fault, message, pictures):
    """However many photographs are installed: with two, the statistics are calibrated on the very batch of the step."""
    monkeypatch.setattr(subjects, "imagenet_photos", lambda: (photos._synthetic(pictures), []))
    genuine = lightops.swap.swap_

    def wrong(model, *args, **kwargs):
        report = genuine(model, *args, **kwargs)
        fault(model)
        return report

    monkeypatch.setattr(lightops.swap, "swap_", wrong)
    report = job.run(options(nets, "mobile", only=("torch eager NHWC",)))
    ours = report.rows[-1]
    assert (ours.contestant, ours.status, ours.median_ms) == (contestants.LIGHTOPS.name, "wrong", None)
    assert not report.ok
    assert re.search(message, ours.reason), ours.reason
