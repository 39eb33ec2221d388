"""The Fashion-MNIST reader, and the small DenseNet whose trained weights are in the package."""

import gzip
import json
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from lightops.data import fashion_mnist
from lightops.networks import count, densenet_fashion

LOG = Path(__file__).parents[2] / "benchmarks" / "train_fashion_densenet.jsonl"


def write_idx(path: Path, tensor: torch.Tensor, magic: int | None = None) -> None:
    header = struct.pack(f">{1 + tensor.dim()}I", magic or 0x0800 + tensor.dim(), *tensor.shape)
    path.write_bytes(gzip.compress(header + bytes(tensor.flatten().tolist())))


@pytest.fixture
def folder(tmp_path):
    """A made-up test split of three 4x5 pictures, so that sizes and order are told apart."""
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", torch.arange(60, dtype=torch.uint8).view(3, 4, 5))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", torch.tensor([7, 0, 9], dtype=torch.uint8))
    return tmp_path


def test_reads_idx(folder):
    images, labels = fashion_mnist.load("test", folder)
    assert images.dtype == torch.uint8
    assert torch.equal(images, torch.arange(60, dtype=torch.uint8).view(3, 4, 5))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [7, 0, 9]


def test_normalise(folder):
    images, _ = fashion_mnist.load("test", folder)
    got = fashion_mnist.normalise(images)
    assert got.shape == (3, 1, 4, 5)
    torch.testing.assert_close(got, (images.double().unsqueeze(1) / 255 - 0.2860).div(0.3530).float())
    assert images.max() == 59


def test_missing_file_says_how_to_get_it(folder):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz; install Debian's package"):
        fashion_mnist.load("train", folder)


def test_unknown_split(folder):
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'validation'"):
        fashion_mnist.load("validation", folder)


def test_damaged_files_are_named(folder):
    images = folder / "t10k-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    for damage in (b"not gzip", whole[:-9]):
        images.write_bytes(damage)
        with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is not a gzip file"):
            fashion_mnist.load("test", folder)
    for payload in (b"", gzip.decompress(whole)[:-1], b"\1" + gzip.decompress(whole)[1:]):
        images.write_bytes(gzip.compress(payload))
        with pytest.raises(ValueError, match="is not an idx file of 3-dimensional bytes"):
            fashion_mnist.load("test", folder)


def test_pictures_and_labels_must_agree(folder):
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="3 pictures but 2 labels"):
        fashion_mnist.load("test", folder)


def test_size():
    counted = count(densenet_fashion(), (1, 28, 28))
    assert counted.parameters == 102_298
    assert round(counted.multiply_adds / 1e6, 1) == 8.2


def test_trained_weights_are_trained():
    """The point of the checkpoint is real statistics: no norm may still be at its initial ones."""
    model = densenet_fashion(pretrained=True)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    steps = {m.num_batches_tracked.item() for m in norms}
    assert len(steps) == 1
    assert steps.pop() > 400
    for m in norms:
        assert m.running_var.ne(1).all()
        assert m.weight.ne(1).any()
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert model.training


@pytest.mark.parametrize("kwargs", [{"num_classes": 11}, {"in_channels": 3}])
def test_trained_weights_fit_ten_classes_and_one_channel(kwargs):
    with pytest.raises(ValueError, match="the trained weights have num_classes=10, in_channels=1, got"):
        densenet_fashion(pretrained=True, **kwargs)


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_accuracy_is_the_logged_one():
    images, labels = fashion_mnist.load("test")
    model = densenet_fashion(pretrained=True).eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        named = torch.cat([model(fashion_mnist.normalise(part)).argmax(1) for part in images.split(1000)])
    correct = (named == labels).sum().item()
    logged = json.loads(LOG.read_text(encoding="utf-8").splitlines()[-1])["test_accuracy"]
    # Rounding on another machine may move a picture that lies on the boundary of two classes.
    assert abs(correct - logged * len(labels)) <= 3
