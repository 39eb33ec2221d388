"""What is measured: a network by name, filled with real weights where there are any, and the pictures it is shown."""

import copy
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lightops.bench.archives import Missing
from lightops.bench.photos import (
    FASHION_PREPROCESS,
    TORCHVISION_PREPROCESS,
    Photo,
    fashion_photos,
    imagenet_classes,
    imagenet_photos,
    make_batch,
)
from lightops.bench.weights import LOADERS, Weights, calibrate
from lightops.data import fashion_mnist

DEFAULT_NETWORKS = ("densenet121", "squeezenet1_1", "mobilenet_v1", "mobilenet_v2")
FASHION = "densenet_fashion"


class UnknownNetwork(ValueError):
    """The name of a network leads nowhere, or to something that is no network for pictures; the message says which
    names exist, or what is wrong."""


@dataclass
class Subject:
    """A stock network in eval mode and float32 on the CPU, with the pictures to show it.

    `weights.classifies` says whether its classes mean anything; then `classes` are their names (None where unknown) and
    the labels of `photos` are in them. `missing` holds one line for each thing that could not be had.
    """

    name: str
    model: nn.Module
    resolution: int
    photos: list[Photo]
    weights: Weights
    classes: list[str] | None = None
    missing: list[str] = field(default_factory=list)
    _exact: Tensor | None = None

    def batch(self, size: int) -> Tensor:
        """Float32 NCHW batch of the first `size` photos."""
        return make_batch(self.photos, size, self.weights.preprocess, self.resolution)

    def exact(self, size: int) -> Tensor:
        """Float64 output of the network for `batch(size)`, on the CPU; worked out once per picture."""
        count = len(self.photos)
        if self._exact is None or len(self._exact) < min(size, count):
            # channels_last: PyTorch's float64 depthwise convolution is four times as fast there.
            model = self.copy().double().to(memory_format=torch.channels_last)
            images = self.batch(min(size, count)).double().contiguous(memory_format=torch.channels_last)
            chunk = max(1, 4 * 224**2 // self.resolution**2)
            with torch.inference_mode():
                self._exact = torch.cat([model(part) for part in images.split(chunk)])
        return self._exact[torch.arange(size) % count]

    def copy(self) -> nn.Module:
        """A model of its own for one contestant."""
        return copy.deepcopy(self.model)


def load_subject(name: str, resolution: int | None = None) -> Subject:
    """The network called `name`: one of `lightops.networks`, `torchvision:NAME`, `timm:NAME` or `file.py:factory`.

    Raises `UnknownNetwork` for any other name, and for a network that cannot be made or does not take the pictures.
    """
    base = name.rpartition(":")[2]
    model = load_network(name)
    if base == FASHION:
        return _fashion_subject(name, model, resolution)
    photos, missing = imagenet_photos()
    weights = None
    if base in LOADERS and not name.startswith("timm:") and not name.endswith(f".py:{base}"):
        try:
            weights = LOADERS[base](model)
        except Missing as reason:
            missing.append(str(reason))
    side = resolution or getattr(model, "input_resolution", 224)
    _check_takes_pictures(name, model, make_batch(photos, 2, TORCHVISION_PREPROCESS, side))
    if weights is None:
        calibrate(model, make_batch(photos, min(16, len(photos)), TORCHVISION_PREPROCESS, side))
        described = "random, calibrated BatchNorm"
        weights = Weights(described, TORCHVISION_PREPROCESS, False)
    classes = imagenet_classes() if weights.classifies else None
    return Subject(name, model, side, photos, weights, classes, missing)


def load_network(name: str) -> nn.Module:
    """The network called `name`, with random weights, in eval mode; `UnknownNetwork` where it cannot be made."""
    torch.manual_seed(0)
    make = factory(name)
    try:
        model = make(**({"pretrained": True} if name == FASHION else {}))
    except Exception as error:
        raise UnknownNetwork(f"network {name!r} cannot be made: {_first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UnknownNetwork(f"network {name!r}: the factory returned a {type(model).__name__}, not an nn.Module")
    return model.eval()


def _check_takes_pictures(name: str, model: nn.Module, images: Tensor) -> None:
    shown = "x".join(map(str, images.shape))
    try:
        with torch.inference_mode():
            answer = model(images)
    except Exception as error:
        raise UnknownNetwork(f"network {name!r} does not take pictures of {shown}: {_first_line(error)}") from error
    if not isinstance(answer, Tensor):
        raise UnknownNetwork(f"network {name!r} answers with a {type(answer).__name__}, not with one tensor")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _fashion_subject(name: str, model: nn.Module, resolution: int | None) -> Subject:
    weights = Weights("Fashion-MNIST (ours)", FASHION_PREPROCESS, True)
    photos = fashion_photos()
    return Subject(name, model, resolution or 28, photos, weights, list(fashion_mnist.CLASSES))


def factory(name: str) -> Callable[..., nn.Module]:
    """The function that makes the network called `name` with random weights; raises `UnknownNetwork`.

    It takes the keyword arguments that its source has for it (`num_classes`, ...).
    """
    source, separator, base = name.rpartition(":")
    if not separator:
        return _own(name)
    if source == "torchvision":
        return _torchvision(base)
    if source == "timm":
        return _timm(base)
    if source.endswith(".py"):
        return _from_file(Path(source), base)
    raise UnknownNetwork(
        f"network {name!r}: {source!r} is not a source; expected NAME of lightops.networks, torchvision:NAME, "
        "timm:NAME or file.py:factory"
    )


def _own(name: str) -> Callable[..., nn.Module]:
    from lightops import networks

    if name.endswith(".py"):
        raise UnknownNetwork(f"network {name!r}: name the function in it too, as in {name}:factory")
    if name not in networks.names():
        raise UnknownNetwork(f"network {name!r} is not in lightops.networks, which has {', '.join(networks.names())}")
    return partial(networks.create, name)


def _torchvision(name: str) -> Callable[..., nn.Module]:
    from lightops._torchvision import import_torchvision

    models = import_torchvision().models
    if name not in models.list_models():
        raise UnknownNetwork(f"network 'torchvision:{name}' is not one of torchvision.models.list_models()")
    # A detection or segmentation network would fetch weights for its backbone alone.
    has_backbone = "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters
    return partial(models.get_model, name, weights=None, **({"weights_backbone": None} if has_backbone else {}))


def _timm(name: str) -> Callable[..., nn.Module]:
    from lightops._torchvision import import_torchvision

    import_torchvision()
    try:
        import timm
    except ImportError as error:
        raise UnknownNetwork(f"network 'timm:{name}': timm cannot be imported ({error})") from error
    if not timm.is_model(name):
        raise UnknownNetwork(f"network 'timm:{name}' is not one of timm.list_models()")
    return partial(timm.create_model, name, pretrained=False)


def _from_file(path: Path, name: str) -> Callable[..., nn.Module]:
    if not path.is_file():
        raise UnknownNetwork(f"network '{path}:{name}': there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"lightops_bench_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UnknownNetwork(f"network '{path}:{name}': {path} cannot be imported: {_first_line(error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UnknownNetwork(f"network '{path}:{name}': {path} has no callable {name!r}")
    return found
