"""Photographs as input, the three preprocessings their networks were trained with, and the names of the classes."""

import ast
import io
import math
import re
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lightops.bench.archives import (
    FOOLBOX,
    SKIMAGE,
    SKLEARN,
    TORCHVISION,
    Missing,
    Package,
    read_member,
    read_members,
)
from lightops.data import fashion_mnist

_UNLABELLED: tuple[tuple[Package, str], ...] = (
    (SKIMAGE, "skimage/data/chelsea.png"),
    (SKIMAGE, "skimage/data/coffee.png"),
    (SKIMAGE, "skimage/data/astronaut.png"),
    (SKIMAGE, "skimage/data/rocket.jpg"),
    (SKLEARN, "sklearn/datasets/images/china.jpg"),
    (SKLEARN, "sklearn/datasets/images/flower.jpg"),
)


@dataclass(frozen=True)
class Photo:
    """One picture; `label` is its ImageNet (or Fashion-MNIST) class index, None where nobody labelled it."""

    name: str
    image: Image.Image
    label: int | None = None


@dataclass(frozen=True)
class Preprocess:
    """How a network wants its pixels: `value = (pixel * scale - mean) / std` per channel, BGR where `bgr`."""

    name: str
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    bgr: bool = False
    crop: float = 224 / 256

    def __call__(self, image: Image.Image, resolution: int) -> Tensor:
        """The image resized so that a centre crop of `resolution` keeps the share `crop`, as float32 [C, H, W]."""
        image = image.convert("RGB" if len(self.mean) == 3 else "L")
        ratio = round(resolution / self.crop) / min(image.size)
        size = [max(resolution, round(side * ratio)) for side in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = ((side - resolution) // 2 for side in size)
        image = image.crop((left, top, left + resolution, top + resolution))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(resolution, resolution, -1)
        pixels = pixels.permute(2, 0, 1).to(torch.float32)
        if self.bgr:
            pixels = pixels.flip(0)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return ((pixels * self.scale - mean) / std).contiguous()


TORCHVISION_PREPROCESS = Preprocess("ImageNet mean and deviation")
CAFFE_PREPROCESS = Preprocess("Caffe: BGR minus the mean pixel", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), True)
FASHION_PREPROCESS = Preprocess(
    "Fashion-MNIST mean and deviation", 1 / 255, (fashion_mnist.MEAN,), (fashion_mnist.STD,), crop=1.0
)
TENSORFLOW_PREPROCESS = Preprocess("TensorFlow: -1 to 1", 1 / 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))


def imagenet_photos() -> tuple[list[Photo], list[str]]:
    """The labelled ImageNet photographs followed by the unlabelled ones, and one line for each source that is missing.

    Without any, smooth random pictures take their place and the lines say so.
    """
    photos, missing = [], []
    try:
        for path, data in read_members(FOOLBOX, "foolbox/data/imagenet_*.jpg").items():
            photos.append(_photo(path, data, label_of(path)))
    except Missing as reason:
        missing.append(str(reason))
    for package, path in _UNLABELLED:
        try:
            photos.append(_photo(path, read_member(package, path)))
        except Missing as reason:
            missing.append(str(reason))
    if not photos:
        missing.append("no photograph found: the inputs are smooth random pictures")
        photos = _synthetic(20)
    return photos, missing


def fashion_photos() -> list[Photo]:
    """Labelled Fashion-MNIST test pictures, 28x28 and grey.

    All 10,000 where Debian's dataset-fashion-mnist is installed, else the 20 that come with foolbox; raises `Missing`.
    """
    try:
        images, labels = fashion_mnist.load("test")
    except FileNotFoundError:
        members = read_members(FOOLBOX, "foolbox/data/fashionMNIST_*.png")
        return [_photo(path, data, label_of(path)) for path, data in members.items()]
    size = (images.shape[2], images.shape[1])
    pictures = (Image.frombytes("L", size, image.numpy().tobytes()) for image in images)
    return [
        Photo(f"test {i}", picture, label)
        for i, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True))
    ]


def label_of(path: str) -> int:
    """Class index in a file name such as `imagenet_07_609.jpg`."""
    found = re.search(r"_(\d+)\.\w+$", path)
    if found is None:
        raise ValueError(f"label_of: path {path!r} does not end in _<class index>.<suffix>")
    return int(found.group(1))


def imagenet_classes() -> list[str] | None:
    """The 1000 class names, read from torchvision's source without importing it; None where it is not to be found."""
    try:
        source = read_member(TORCHVISION, "torchvision/models/_meta.py")
    except Missing:
        return None
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_IMAGENET_CATEGORIES":
            return list(ast.literal_eval(node.value))
    return None


def make_batch(photos: list[Photo], size: int, preprocess: Preprocess, resolution: int) -> Tensor:
    """Float32 [size, C, resolution, resolution] of the first `size` photos, from the start again when they run out."""
    tensors = [preprocess(photo.image, resolution) for photo in photos[:size]]
    return torch.stack([tensors[i % len(tensors)] for i in range(size)])


def _photo(path: str, data: bytes, label: int | None = None) -> Photo:
    return Photo(path.rsplit("/", 1)[-1], Image.open(io.BytesIO(data)), label)


def _synthetic(count: int, side: int = 256) -> list[Photo]:
    """Sums of a few random low-frequency waves per colour: smooth like a photograph, never the same twice in a row."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    photos = []
    for index in range(count):
        waves = torch.rand(8, 3, 4, generator=generator)
        phase = waves[..., 0, None, None] * 12 * x + waves[..., 1, None, None] * 12 * y + waves[..., 2, None, None]
        field = (torch.sin(2 * math.pi * phase) * waves[..., 3, None, None]).sum(0)
        field = (field - field.amin()) / (field.amax() - field.amin())
        pixels = (field * 255).to(torch.uint8).permute(1, 2, 0).contiguous()
        photos.append(
            Photo(f"synthetic_{index:02d}", Image.frombytes("RGB", (side, side), bytes(pixels.flatten().tolist())))
        )
    return photos
