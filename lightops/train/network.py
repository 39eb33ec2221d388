"""The network to train: made by name for the classes and the channels of the data."""

import inspect
from typing import Any

import torch
from torch import nn

from lightops import networks
from lightops.bench.subjects import factory
from lightops.train.data import Data

# Up to this size the reference networks get their stem for small pictures, where they have one.
SMALL = 64


class Unfit(ValueError):
    """The network does not fit the data; the message says how."""


def make(name: str, data: Data) -> nn.Module:
    """The network called `name` (as `lightops bench` names them) with random weights, for the classes of `data`.

    Classes and channels are passed where the network's source has arguments for them; grey pictures are repeated for a
    network that takes three channels. Raises `UnknownNetwork`, or `Unfit` when the network does not take the pictures
    or does not answer with one number per class.
    """
    model = factory(name)(**_arguments(name, data))
    _check(name, model, data)
    return model


def input_channels(model: nn.Module) -> int | None:
    """Channels that the first convolution takes; None without one."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), None)


def _arguments(name: str, data: Data) -> dict[str, Any]:
    source = name.rpartition(":")[0]
    classes = {"num_classes": len(data.classes)}
    if source == "torchvision":
        return classes
    if source == "timm":
        return classes | {"in_chans": data.channels}
    wanted = classes | {"in_channels": data.channels}
    if source:
        taken = inspect.signature(factory(name)).parameters
        return {key: value for key, value in wanted.items() if key in taken}
    if data.resolution <= SMALL and _has_small_stem(name):
        wanted["small_input"] = True
    return wanted


def _has_small_stem(name: str) -> bool:
    if name not in networks.names():
        return False
    try:
        with torch.device("meta"):
            networks.create(name, small_input=True)
    except TypeError:
        return False
    return True


def _check(name: str, model: nn.Module, data: Data) -> None:
    channels = input_channels(model)
    size = (2, data.channels if channels is None or data.channels > 1 else channels, *[data.resolution] * 2)
    shown = "x".join(map(str, size))
    mode = model.training
    try:
        with torch.inference_mode():
            answer = model.eval()(torch.zeros(size))
    except (RuntimeError, ValueError) as error:
        raise Unfit(f"{name} does not take pictures of {shown}: {str(error).splitlines()[0]}") from error
    finally:
        model.train(mode)
    if getattr(answer, "shape", None) != (2, len(data.classes)):
        got = tuple(getattr(answer, "shape", ())) or type(answer).__name__
        raise Unfit(f"{name} answers pictures of {shown} with {got}, wants (2, {len(data.classes)}): one per class")
