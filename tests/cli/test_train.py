"""`lightops train`: what it writes, that it goes on bit for bit where it stopped, and what it refuses."""

import gc
import json
import random
import weakref
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from lightops import networks
from lightops.cli import main
from lightops.data import fashion_mnist
from lightops.train import checkpoint, job
from lightops.train.data import BadData, load, loader
from lightops.train.job import Options, Watcher, resume, run
from lightops.train.network import Unfit, make
from lightops.train.trainer import Settings, Trainer

# Until every block trains fused some run their stock forward, and say so once.
pytestmark = pytest.mark.filterwarnings("ignore::lightops.modules.FallbackWarning")

NETS = '''
from torch import nn

from lightops import networks


def fires(num_classes, in_channels):
    """Dropout, so that torch's global generator matters; no BatchNorm."""
    return networks.SqueezeNet(
        [(4, 8, 8), (4, 8, 8)], (8, 3, 1), (1,), num_classes=num_classes, in_channels=in_channels, small_input=True
    )


def wide():
    """Looks at 11x11 pixels at once."""
    return nn.Sequential(nn.Conv2d(1, 8, 11), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def seven():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
'''


def invoke(*arguments: object):
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


@pytest.fixture
def nets(tmp_path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def options(nets: Path, **changes) -> Options:
    given = {"data": "digits", "epochs": 3, "batch": 64, "limit": 256}
    return Options(**({"network": f"{nets}:fires"} | given | changes))


def without_times(log: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k not in ("seconds", "images_per_s")} for record in log[1:]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / job.WEIGHTS, weights_only=True)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_learns_and_its_files_agree(tmp_path):
    out = tmp_path / "run"
    result = invoke("densenet_fashion", "--data", "digits", "--epochs", 3, "--batch", 64, "--threads", 1, "--out", out)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.pt", "curves.png", "log.jsonl", "weights.pt"]
    log = [json.loads(line) for line in (out / job.LOG).read_text().splitlines()]
    assert [record.get("epoch") for record in log] == [None, 1, 2, 3]
    assert log[0]["fused"] > 0
    assert log[-1]["test_accuracy"] > 0.9
    assert f"test accuracy {log[-1]['test_accuracy']:.2%} after 3 epochs" in result.output
    stock = networks.densenet_fashion().eval()
    stock.load_state_dict(weights(out))
    data = load("digits")
    with torch.inference_mode():
        right = sum((stock(x).argmax(1) == y).sum().item() for x, y in loader(data.test, 100))
    assert abs(right / len(data.test) - log[-1]["test_accuracy"]) < 1.5 / len(data.test)


class Stop(Watcher):
    """Interrupts a run at a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.left = step

    def loss(self, value: float) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("step", "optimizer"), [(5, "sgd"), (6, "adamw"), (9, "sgd")])
def test_a_resumed_run_is_the_uninterrupted_one(nets, tmp_path, step, optimizer):
    """Four steps an epoch: stopped within the second (at its first and second step) and at the first of the third."""
    given = options(nets, optimizer=optimizer)
    whole = run(given, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(given, tmp_path / "parts", Stop(step))
    torch.manual_seed(99)
    random.seed(99)
    continued = resume(tmp_path / "parts")
    assert without_times(continued) == without_times(whole)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    logged = [json.loads(line) for line in (tmp_path / "parts" / job.LOG).read_text().splitlines()]
    assert without_times(logged) == without_times(whole)


def test_the_seed_decides(nets, tmp_path):
    runs = [run(options(nets, seed=seed, epochs=1), tmp_path / str(i)) for i, seed in enumerate((0, 0, 1))]
    assert without_times(runs[0]) == without_times(runs[1])
    assert without_times(runs[0]) != without_times(runs[2])


def test_stock_and_swapped_start_alike(nets, tmp_path):
    """Same initial weights, data order and dropout: the first epoch's losses differ by rounding alone."""
    stock, swapped = (run(options(nets, stock=stock, epochs=1), tmp_path / str(stock)) for stock in (True, False))
    assert (stock[0]["fused"], swapped[0]["fused"] > 0) == (0, True)
    assert swapped[1]["train_loss"] == pytest.approx(stock[1]["train_loss"], rel=1e-4)


def test_a_run_leaves_the_callers_generators_alone(nets, tmp_path):
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    run(options(nets, epochs=1), tmp_path / "run")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_resume_keeps_to_the_options_of_the_run(nets, tmp_path):
    out = tmp_path / "run"
    first = ("--data", "digits", "--limit", 64, "--batch", 32, "--epochs", 1, "--threads", 1, "--out", out)
    assert invoke(f"{nets}:fires", *first).exit_code == 0
    assert invoke("--resume", "--out", out).exit_code == 0
    assert invoke(f"{nets}:fires", "--resume", *first).exit_code == 0
    for change, message in (
        (("--epochs", 2), "has epochs 1, not 2"),
        (("--stock",), "has stock False, not True"),
        (("--seed", 4), "has seed 0, not 4"),
    ):
        result = invoke("--resume", "--out", out, *change)
        assert result.exit_code == 2
        assert message in result.output
    again = invoke(f"{nets}:fires", *first)
    assert again.exit_code == 2
    assert "holds a run already" in again.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a NETWORK"),
        (["--resume"], "name a NETWORK"),
        (["nonsense", "--data", "digits"], "not in lightops.networks"),
        (["densenet_fashion", "--data", "nowhere"], "'nowhere' is neither fashion nor digits nor a folder"),
        (["densenet_fashion", "--device", "meta"], "expected cpu or cuda"),
        (["densenet_fashion", "--lr", "0"], "--lr"),
    ],
)
def test_refusals(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_another_number_of_classes_is_refused(nets):
    with pytest.raises(Unfit, match=r"seven answers pictures of 2x1x8x8 with \(2, 7\), wants \(2, 10\)"):
        make(f"{nets}:seven", load("digits"))


def test_a_network_too_large_for_the_pictures_is_refused(nets):
    with pytest.raises(Unfit, match="wide does not take pictures of 2x1x8x8"):
        make(f"{nets}:wide", load("digits"))
    assert isinstance(make(f"{nets}:wide", load("digits", 11)), nn.Sequential)


def test_a_checkpoint_that_is_none_is_refused(tmp_path):
    missing = invoke("--resume", "--out", tmp_path)
    assert (missing.exit_code, "there is no" in missing.output) == (2, True)
    (tmp_path / job.CHECKPOINT).write_bytes(b"not a checkpoint")
    broken = invoke("--resume", "--out", tmp_path)
    assert (broken.exit_code, "cannot be read" in broken.output) == (2, True)
    torch.save({"version": 0}, tmp_path / job.CHECKPOINT)
    old = invoke("--resume", "--out", tmp_path)
    assert (old.exit_code, "version 0" in old.output) == (2, True)


def test_a_checkpoint_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / job.CHECKPOINT
    checkpoint.save({"epoch": 1}, path)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save({"epoch": 2}, path)
    assert checkpoint.load(path)["epoch"] == 1


def test_a_loss_that_is_no_number_ends_the_run(nets, tmp_path):
    given = ("--data", "digits", "--limit", 256, "--batch", 32, "--threads", 1, "--lr", "1e18")
    result = invoke(f"{nets}:fires", *given, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "a lower one may help" in result.output.replace("\n", " ")


def test_bf16_is_autocast(nets, tmp_path):
    seen = set()

    class Look(Watcher):
        def start(self, model, data, report):
            first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
            seen.add(first.weight.dtype)
            model.register_forward_hook(lambda module, args, out: seen.add(out.dtype))

    log = run(options(nets, dtype="bf16", epochs=1), tmp_path / "run", Look())
    assert seen == {torch.float32, torch.bfloat16}
    assert log[1]["train_loss"] < 4


def test_grey_pictures_are_repeated_for_three_channels(tmp_path):
    given = Options("torchvision:squeezenet1_1", "digits", 1, 16, resolution=32, limit=32)
    log = run(given, tmp_path / "run")
    assert log[0]["fused"] > 0
    assert weights(tmp_path / "run")["features.0.weight"].shape[1] == 3


def test_small_pictures_get_the_stem_for_them():
    data = load("digits", resolution=28)
    assert make("mobilenet_v1_025", data).features.stem[0].stride == (1, 1)
    assert make("densenet_fashion", data).features.conv0.stride == (2, 2)


@pytest.mark.parametrize(
    ("network", "optimizer"), [("fires", torch.optim.AdamW), ("densenet_fashion", torch.optim.SGD)]
)
def test_the_optimizer_follows_the_network(nets, network, optimizer):
    data = load("digits")
    model = make(f"{nets}:fires" if network == "fires" else network, data)
    assert type(Trainer(model, data, Settings()).optimizer) is optimizer
    assert type(Trainer(model, data, Settings(optimizer="sgd")).optimizer) is torch.optim.SGD


def picture(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 36), colour).save(path)


COLOURS = {"blue": (20, 20, 230), "red": (230, 20, 20)}


@pytest.mark.parametrize("split", [False, True])
def test_an_image_folder(tmp_path, split):
    root = tmp_path / "pictures"
    for part in ("train", "val") if split else ("",):
        for name, colour in COLOURS.items():
            for i in range(16):
                picture(root / part / name / f"{i}.png", colour)
    data = load(str(root), 32)
    assert (data.classes, data.channels, data.resolution) == (("blue", "red"), 3, 32)
    assert (len(data.train), len(data.test)) == ((32, 32) if split else (29, 3))
    images, labels = next(iter(loader(data.test, 8)))
    assert torch.equal(images[:, 0].mean((1, 2)) > images[:, 2].mean((1, 2)), labels == 1)
    workers = 1 if split else 0
    given = ("--resolution", 16, "--batch", 8, "--epochs", 10, "--threads", 1, "--workers", workers)
    result = invoke("densenet_fashion", "--data", root, *given, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "test accuracy 100.00%" in result.output


def test_folders_that_are_no_data(tmp_path):
    with pytest.raises(BadData, match="not a folder of pictures"):
        load(str(tmp_path))
    picture(tmp_path / "train" / "cat" / "1.png", (1, 2, 3))
    with pytest.raises(BadData, match="none of test, val"):
        load(str(tmp_path))
    picture(tmp_path / "val" / "dog" / "1.png", (1, 2, 3))
    with pytest.raises(BadData, match="do not have the same classes: cat, dog"):
        load(str(tmp_path))


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_clothes_are_mirrored_in_training_alone():
    data = load("fashion").limited(8, 8)
    plain = fashion_mnist.normalise(data.test.dataset.images[data.test.indices])
    torch.testing.assert_close(next(iter(loader(data.test, 8)))[0], plain)
    plain = fashion_mnist.normalise(data.train.dataset.images[data.train.indices])
    seen = torch.cat([next(iter(loader(data.train, 8)))[0] for _ in range(8)])
    kept = [(seen[i] - plain[i % 8]).abs().max().item() < 1e-5 for i in range(64)]
    turned = [(seen[i] - plain[i % 8].flip(2)).abs().max().item() < 1e-5 for i in range(64)]
    assert all(a or b for a, b in zip(kept, turned, strict=True))
    assert 10 < sum(kept) < 54


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def test_nothing_is_left_of_a_run(nets, tmp_path):
    kept = []

    class Keep(Watcher):
        def start(self, model, data, report):
            kept.append(weakref.ref(model))

    run(options(nets, epochs=1, network="densenet_fashion"), tmp_path / "warm", Keep())
    before = live_tensors()
    for i in range(3):
        run(options(nets, epochs=1, network="densenet_fashion"), tmp_path / str(i), Keep())
    assert live_tensors() == before
    assert [ref() for ref in kept] == [None] * 4


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.unsanitized
@pytest.mark.parametrize("name", ["densenet_fashion", "mobilenet_v1_025", "fires"])
def test_steps_do_not_leak(nets, name):
    data = load("digits").limited(256)
    network = f"{nets}:fires" if name == "fires" else name
    model = make(network, data)
    job.swap(model)
    trainer = Trainer(model, data, Settings(epochs=40, batch=16, lr=0.01))
    for _ in range(3):
        trainer.train_epoch()
        trainer.test()
    tensors, memory = live_tensors(), []
    for _ in range(12):
        trainer.train_epoch()
        trainer.test()
        memory.append(resident())
    assert live_tensors() == tensors
    # The allocator gives megabytes back and takes them again from epoch to epoch; a leak lifts the lowest of them too.
    assert min(memory[6:]) - min(memory[:6]) < 2**20
