"""What a network is trained on: Fashion-MNIST, scikit-learn's digits, or a user's folder of pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from lightops.data import digits, fashion_mnist

SETS: dict[str, ModuleType] = {"fashion": fashion_mnist, "digits": digits}
# Clothes have no handedness; digits have.
_MIRRORED = ("fashion",)
FOLDER_RESOLUTION = 224
_HELD_OUT = 0.1
_TEST_FOLDERS = ("test", "val", "valid", "validation")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BadData(ValueError):
    """The data cannot be had or read; the message says why."""


@dataclass(frozen=True)
class Data:
    """A training and a test set of pictures float32 [channels, resolution, resolution] with integer labels."""

    name: str
    train: Dataset
    test: Dataset
    classes: tuple[str, ...]
    channels: int
    resolution: int

    def limited(self, train: int | None, test: int | None = None) -> "Data":
        """The same with at most so many pictures of each set, always the same random ones."""
        return replace(self, train=_some(self.train, train), test=_some(self.test, test))


class Pictures(Dataset):
    """Grey pictures held as uint8 [N, H, W], normalised, resized and mirrored a batch at a time.

    The mirroring draws from torch's global generator.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, normalise: tuple[float, float], resolution: int, mirror: bool
    ) -> None:
        self.images, self.labels = images, labels
        self.mean, self.std = normalise
        self.resolution, self.mirror = resolution, mirror

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images = self.images[indices].unsqueeze(1).float().div_(255).sub_(self.mean).div_(self.std)
        side = [self.resolution] * 2
        if images.shape[2:] != torch.Size(side):
            images = F.interpolate(images, side, mode="bilinear", antialias=True)
        if self.mirror:
            images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
        return images, self.labels[indices]


def load(source: str, resolution: int | None = None) -> Data:
    """`fashion`, `digits`, or the path of an image folder; raises `BadData`.

    An image folder holds a subfolder of pictures per class, or `train` and `test` (or `val`) of that form; in the first
    case a fixed random tenth is held out. Its pictures are cropped to `resolution` (224), at random in training.
    """
    if source in SETS:
        return _small(source, resolution)
    if Path(source).is_dir():
        return _folder(Path(source), resolution or FOLDER_RESOLUTION)
    raise BadData(f"{source!r} is neither {' nor '.join(SETS)} nor a folder")


def loader(data: Dataset, batch: int, generator: torch.Generator | None = None, workers: int = 0) -> DataLoader:
    """Batches of `data`: shuffled by `generator` and all of one size, or in order to the last picture without one."""
    return DataLoader(
        data,
        batch,
        shuffle=generator is not None,
        generator=generator,
        # The last incomplete batch is left out: every step then has the weight that the schedule counts on.
        drop_last=generator is not None,
        num_workers=workers,
        collate_fn=_collate,
    )


def _collate(items: tuple[Tensor, Tensor] | list) -> tuple[Tensor, Tensor]:
    return items if isinstance(items, tuple) else default_collate(items)


def _small(source: str, resolution: int | None) -> Data:
    module = SETS[source]
    sets = []
    for split in ("train", "test"):
        try:
            images, labels = module.load(split)
        except (ImportError, OSError, ValueError) as error:
            raise BadData(str(error)) from error
        mirror = split == "train" and source in _MIRRORED
        side = resolution or images.shape[-1]
        sets.append(Pictures(images, labels, (module.MEAN, module.STD), side, mirror))
    return Data(source, *sets, module.CLASSES, 1, side)


def _folder(path: Path, resolution: int) -> Data:
    try:
        from lightops._torchvision import import_torchvision

        import_torchvision()
        from torchvision import transforms
        from torchvision.datasets import ImageFolder
    except ImportError as error:
        raise BadData(f"an image folder is read by torchvision, which cannot be imported ({error})") from error
    end = [transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
    wild = transforms.Compose([transforms.RandomResizedCrop(resolution), transforms.RandomHorizontalFlip(), *end])
    calm = transforms.Compose(
        [transforms.Resize(round(resolution * 256 / 224)), transforms.CenterCrop(resolution), *end]
    )

    def pictures(folder: Path, transform: Callable) -> ImageFolder:
        try:
            return ImageFolder(str(folder), transform)
        except (FileNotFoundError, OSError) as error:
            raise BadData(f"{folder} is not a folder of pictures, a subfolder per class: {error}") from error

    if (path / "train").is_dir():
        held_out = next((path / name for name in _TEST_FOLDERS if (path / name).is_dir()), None)
        if held_out is None:
            raise BadData(f"{path} has a folder train but none of {', '.join(_TEST_FOLDERS)}")
        train, test = pictures(path / "train", wild), pictures(held_out, calm)
        if train.classes != test.classes:
            odd = sorted(set(train.classes) ^ set(test.classes))
            raise BadData(f"{path}: train and {held_out.name} do not have the same classes: {', '.join(odd)}")
        return Data(str(path), train, test, tuple(train.classes), 3, resolution)
    whole, same = pictures(path, wild), pictures(path, calm)
    order = _order(len(whole))
    cut = max(1, round(_HELD_OUT * len(order)))
    sets = Subset(whole, order[cut:]), Subset(same, order[:cut])
    return Data(str(path), *sets, tuple(whole.classes), 3, resolution)


def _some(data: Dataset, count: int | None) -> Dataset:
    return data if count is None or count >= len(data) else Subset(data, _order(len(data))[:count])


def _order(count: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
