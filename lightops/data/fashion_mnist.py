"""Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017, arXiv:1708.07747): 60,000 + 10,000 grey 28x28 pictures of ten classes.

Read from the four gzip-compressed idx files of the original release, as Debian's package dataset-fashion-mnist installs
them. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import torch
from torch import Tensor

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# Of the training pixels scaled to [0, 1].
MEAN, STD = 0.2860, 0.3530
_PREFIX = {"train": "train", "test": "t10k"}


def load(split: str = "test", folder: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, 28, 28] and labels int64 [N] of ``split`` ("train" or "test").

    ``folder`` holds ``{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz``; None: where Debian's package puts them.

    Raises:
        ValueError: ``split`` is unknown, or a file is not the idx file it should be.
        FileNotFoundError: a file is missing; the message says how to get it.
    """
    if split not in _PREFIX:
        raise ValueError(f"fashion_mnist.load: split must be 'train' or 'test', got {split!r}")
    folder = DEBIAN_FOLDER if folder is None else Path(folder)
    images = _read_idx(folder / f"{_PREFIX[split]}-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(folder / f"{_PREFIX[split]}-labels-idx1-ubyte.gz", dimensions=1)
    if len(images) != len(labels):
        raise ValueError(f"fashion_mnist.load: {len(images)} pictures but {len(labels)} labels in {folder}")
    return images, labels.long()


def normalise(images: Tensor) -> Tensor:
    """(pixel / 255 - MEAN) / STD: uint8 [N, H, W] -> float32 [N, 1, H, W]."""
    return images.unsqueeze(1).float().div_(255).sub_(MEAN).div_(STD)


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """A gzip-compressed idx file of bytes: big-endian 0x0800 + dimensions, the sizes, the bytes."""
    if not path.is_file():
        raise FileNotFoundError(
            f"fashion_mnist.load: no {path}; install Debian's package dataset-fashion-mnist, or name a folder with the "
            "four .gz files of the Fashion-MNIST release"
        )
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"fashion_mnist.load: {path} is not a gzip file ({error})") from error
    header = 4 * (1 + dimensions)
    magic, *sizes = struct.unpack(f">{1 + dimensions}I", data[:header].ljust(header, b"\0"))
    if magic != 0x0800 + dimensions or len(data) != header + math.prod(sizes):
        raise ValueError(f"fashion_mnist.load: {path} is not an idx file of {dimensions}-dimensional bytes")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header).view(sizes)
