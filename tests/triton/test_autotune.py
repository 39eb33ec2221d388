"""The table of configurations and the measured choice among them, with a timer that is told what to say."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install 'lightops[triton]'")

from triton.runtime.errors import OutOfResources

from lightops.kernels.triton import _autotune
from lightops.kernels.triton._autotune import blocks_for, cache_file, tuning
from lightops.kernels.triton._configs import SHARED_BYTES, TABLE, Blocks, Problem, fitted
from lightops.kernels.triton.conv1x1_bn_act import conv1x1_bn_act

PROBLEM = Problem("pointwise", "float16", 2, "a card", (256, 64, 56, 56), (256, 128, 56, 56), 64, "kernel 1x1")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """No choices in memory, an empty cache folder, and a GPU-less `_capturing`."""
    monkeypatch.setenv("LIGHTOPS_CACHE", str(tmp_path))
    monkeypatch.delenv("LIGHTOPS_AUTOTUNE", raising=False)
    forget()
    yield
    forget()


def forget():
    """As a new process starts."""
    _autotune._chosen.clear()
    _autotune._tuned.clear()
    _autotune._stored.cache_clear()


class Timer:
    """Says that the launch of `best` is the fastest; counts measurements."""

    def __init__(self, best: Blocks, failing: tuple[Blocks, ...] = ()):
        self.best, self.failing, self.launched = best, failing, []

    def launch(self, blocks: Blocks) -> None:
        self.launched.append(blocks)
        if blocks in self.failing:
            raise OutOfResources(200_000, 100_000, "shared memory")

    def seconds(self, run) -> float:
        run()
        return 1e-6 if self.launched[-1] == self.best else 2e-6


@pytest.fixture
def timer(monkeypatch):
    def make(best: Blocks, failing: tuple[Blocks, ...] = ()) -> Timer:
        made = Timer(best, failing)
        monkeypatch.setattr(_autotune, "seconds", made.seconds)
        return made

    return make


def test_every_class_has_a_row():
    kinds, pixels, channels = (
        ("pointwise", "window", "depthwise"),
        ("few", "some", "many"),
        ("narrow", "middle", "wide"),
    )
    assert set(TABLE) == {(k, p, c) for k in kinds for p in pixels for c in channels}


@pytest.mark.parametrize("shape_class", TABLE, ids=" ".join)
@pytest.mark.parametrize("element_bytes", [2, 4])
@pytest.mark.parametrize("shallow", [False, True])
def test_rows_are_legal(shape_class, element_bytes, shallow):
    row = fitted(shape_class, shallow, element_bytes)
    assert 1 <= len(row) <= 4
    assert len(set(row)) == len(row)
    assert len(row) * (1 + _autotune._TIMED) <= _autotune.MOST_LAUNCHES
    for b in row:
        assert all(size >= 16 and size & (size - 1) == 0 for size in (b.m, b.n, b.k))
        assert b.warps in (1, 2, 4, 8)
        assert b.warps <= 4 or shape_class[0] == "pointwise"
        assert b.m * b.n <= 128 * 32 * b.warps, "a thread's sums fit its registers"
        assert (b.m + b.n) * b.k * element_bytes * b.stages <= SHARED_BYTES


def test_classes_meet_at_their_bounds():
    def class_of(pixels, channels):
        return PROBLEM._replace(out=(1, channels, 1, pixels)).shape_class

    assert class_of(63, 32) == ("pointwise", "few", "narrow")
    assert class_of(64, 33) == ("pointwise", "some", "middle")
    assert class_of(8191, 64) == ("pointwise", "some", "middle")
    assert class_of(8192, 65) == ("pointwise", "many", "wide")


def test_off_the_first_of_the_row_is_launched_unmeasured(timer):
    made = timer(PROBLEM.candidates[1])
    assert blocks_for(PROBLEM, made.launch) == PROBLEM.candidates[0]
    assert made.launched == []
    assert not cache_file("a card").exists()


@pytest.mark.parametrize("how", ["environment", "context"])
def test_on_the_fastest_is_kept(timer, monkeypatch, how):
    best = PROBLEM.candidates[2]
    made = timer(best)
    blocks_for(PROBLEM, made.launch)  # a default met before tuning does not stay
    if how == "context":
        with tuning():
            assert blocks_for(PROBLEM, made.launch) == best
    else:
        forget()
        monkeypatch.setenv("LIGHTOPS_AUTOTUNE", "1")
        assert blocks_for(PROBLEM, made.launch) == best
        monkeypatch.delenv("LIGHTOPS_AUTOTUNE")
    assert made.launched == list(PROBLEM.candidates)
    assert blocks_for(PROBLEM, made.launch) == best, "also when tuning is over"
    with tuning():
        assert blocks_for(PROBLEM, made.launch) == best
    assert len(made.launched) == len(PROBLEM.candidates), "measured once"
    other = PROBLEM._replace(x=(1, 64, 56, 56), out=(1, 128, 56, 56))
    assert blocks_for(other, made.launch) == other.candidates[0]


def test_the_choice_is_read_from_disk(timer):
    best = PROBLEM.candidates[1]
    with tuning():
        blocks_for(PROBLEM, timer(best).launch)
    content = json.loads(cache_file("a card").read_text())
    assert content["device"] == "a card"
    assert content["torch"] == torch.__version__
    assert content["choices"][str(PROBLEM)] == {"blocks": list(best), "us": 1.0}
    forget()
    made = timer(PROBLEM.candidates[0])
    assert blocks_for(PROBLEM, made.launch) == PROBLEM.candidates[0], "not read where nobody asked for tuning"
    with tuning():
        assert blocks_for(PROBLEM, made.launch) == best
    assert made.launched == []


def test_another_device_or_version_is_another_file(timer, monkeypatch):
    files = {cache_file("a card"), cache_file("another card")}
    for module, name in ((torch, "__version__"), (_autotune.triton, "__version__"), (_autotune, "__version__")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, "0.0.1")
            files.add(cache_file("a card"))
    assert len(files) == 5
    assert len({file.parent for file in files}) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"choices": []}', '{"choices": 3}', "\x00\xff"])
def test_a_corrupt_file_is_ignored_aloud_and_replaced(timer, text):
    path = cache_file("a card")
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="latin-1")
    best = PROBLEM.candidates[1]
    with pytest.warns(RuntimeWarning, match="is ignored"), tuning():
        assert blocks_for(PROBLEM, timer(best).launch) == best
    assert list(json.loads(path.read_text())["choices"]) == [str(PROBLEM)]


@pytest.mark.parametrize("choice", [{}, 3, {"blocks": [1, 2]}, {"blocks": [128, 128, 64, 16, 9]}, {"blocks": "wide!"}])
def test_a_choice_that_is_none_of_the_row_is_measured_again(timer, choice):
    path = cache_file("a card")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"choices": {str(PROBLEM): choice, "other": {"blocks": [1]}}}))
    made = timer(PROBLEM.candidates[1])
    with tuning():
        assert blocks_for(PROBLEM, made.launch) == PROBLEM.candidates[1]
    assert made.launched
    assert set(json.loads(path.read_text())["choices"]) == {str(PROBLEM), "other"}


def test_what_another_process_wrote_meanwhile_stays(timer):
    with tuning():
        blocks_for(PROBLEM, timer(PROBLEM.candidates[0]).launch)
        path = cache_file("a card")
        content = json.loads(path.read_text())
        content["choices"]["from another process"] = {"blocks": [64, 64, 32, 4, 3]}
        path.write_text(json.dumps(content))
        blocks_for(PROBLEM._replace(form="other"), timer(PROBLEM.candidates[0]).launch)
    assert len(json.loads(path.read_text())["choices"]) == 3
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_a_folder_that_cannot_be_written_costs_a_warning(timer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIGHTOPS_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="are not kept"), tuning():
        assert blocks_for(PROBLEM, timer(PROBLEM.candidates[1]).launch) == PROBLEM.candidates[1]


def test_what_does_not_fit_the_device_is_passed_over(timer):
    first, second, *rest = PROBLEM.candidates
    made = timer(second, failing=(first, *rest))
    with tuning():
        assert blocks_for(PROBLEM, made.launch) == second
    forget()
    made = timer(second, failing=PROBLEM.candidates)
    path = cache_file("a card")
    path.unlink()
    with tuning():
        assert blocks_for(PROBLEM, made.launch) == first, "the launch itself says why"
    assert not path.exists()


def test_nothing_is_measured_into_a_graph(timer, monkeypatch):
    made = timer(PROBLEM.candidates[1])
    with tuning():
        with monkeypatch.context() as patch:
            patch.setattr(_autotune, "_capturing", lambda: True)
            assert blocks_for(PROBLEM, made.launch) == PROBLEM.candidates[0]
        assert made.launched == []
        assert blocks_for(PROBLEM, made.launch) == PROBLEM.candidates[1], "and measured where it is met next"


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs the kernels in the interpreter")
def test_tuned_kernels_compute_the_same(monkeypatch):
    ran = []
    monkeypatch.setattr(_autotune, "seconds", lambda run: (run(), ran.append(1), -len(ran))[2])
    x = torch.randint(-4, 5, (1, 40, 9, 9)).float().contiguous(memory_format=torch.channels_last)
    w = torch.randint(-4, 5, (1, 70, 40)).float()
    plain = conv1x1_bn_act(x, w, None, 70, 1, None)
    with tuning():
        tuned = conv1x1_bn_act(x, w, None, 70, 1, None)
    row = fitted(("pointwise", "some", "wide"), False, 4)
    assert len(ran) == len(row)
    (chosen,) = _autotune._tuned.values()
    assert chosen == row[-1]
    assert torch.equal(plain, tuned)
    assert torch.equal(plain, torch.nn.functional.conv2d(x, w[0, :, :, None, None]).relu())


@pytest.mark.parametrize("tf32", [False, True])
def test_a_problem_knows_how_float32_is_multiplied(tf32):
    x = torch.zeros(1, 8, 4, 4)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
        texts = [str(_autotune.problem_of("pointwise", x.to(t), x, 8, "f")) for t in (torch.float32, torch.bfloat16)]
    assert texts == [f"pointwise {'tf32' if tf32 else 'float32'} 1x8x4x4 to 1x8x4x4, f",
                     "pointwise bfloat16 1x8x4x4 to 1x8x4x4, f"]  # fmt: skip


WRITER = """
import sys
from lightops.kernels.triton import _autotune
from lightops.kernels.triton._configs import Blocks, Problem
for i in range(40):
    problem = Problem("pointwise", "float16", 2, "a card", (1, 64, 1, 1), (1, 128, 1, 1), 64, f"{sys.argv[1]} {i}")
    _autotune._remember(problem, problem.candidates[0], 1e-6)
"""


def test_two_processes_write_at_once():
    """Each finds a whole file whenever it looks; the later of two writers may lose the other's last choices."""
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, name], env=os.environ.copy(), stderr=subprocess.PIPE) for name in "ab"]
    seen = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while any(writer.poll() is None for writer in writers):
            seen = max(seen, len(_autotune._read(cache_file("a card"))))
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    assert len(_autotune._read(cache_file("a card"))) >= 40 or seen >= 40
