"""The reference networks of the papers, in stock torch modules: what lightops is measured against and tested on.

``create(name, **kwargs)`` builds one by its registry name; ``names()`` lists them. Every network takes ``num_classes``
and ``in_channels``, and maps [N, in_channels, H, W] to logits [N, num_classes]. ``python -m lightops.networks``
prints the table of the papers' figures against ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

from torch import nn

from .convert import convert_timm_mobilenet_v1
from .count import Count, count, count_parameters
from .densenet import (
    DenseNet,
    densenet121,
    densenet161,
    densenet169,
    densenet201,
    densenet264,
    densenet_cifar,
    densenet_fashion,
)
from .mobilenet import MobileNetV1, MobileNetV2, mobilenet_v1, mobilenet_v2
from .preact_resnet import ResNet, preact_resnet
from .squeezenet import SqueezeNet, squeezenet, squeezenet1_0, squeezenet1_1

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "densenet121": densenet121,
    "densenet169": densenet169,
    "densenet201": densenet201,
    "densenet161": densenet161,
    "densenet264": densenet264,
    "densenet264_k48": partial(densenet264, growth_rate=48),
    "densenet_cifar": densenet_cifar,
    "densenet40_k12": partial(densenet_cifar, depth=40, growth_rate=12, bottleneck=False),
    "densenet100_k12": partial(densenet_cifar, depth=100, growth_rate=12, bottleneck=False),
    "densenet100_k24": partial(densenet_cifar, depth=100, growth_rate=24, bottleneck=False),
    "densenet_bc100_k12": partial(densenet_cifar, depth=100, growth_rate=12),
    "densenet_bc250_k24": partial(densenet_cifar, depth=250, growth_rate=24),
    "densenet_bc190_k40": partial(densenet_cifar, depth=190, growth_rate=40),
    "densenet_fashion": densenet_fashion,
    "squeezenet": squeezenet,
    "squeezenet1_0": squeezenet1_0,
    "squeezenet1_1": squeezenet1_1,
    "squeezenet1_0_simple": partial(squeezenet1_0, bypass="simple"),
    "squeezenet1_0_complex": partial(squeezenet1_0, bypass="complex"),
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v1_075": partial(mobilenet_v1, width_mult=0.75),
    "mobilenet_v1_050": partial(mobilenet_v1, width_mult=0.5),
    "mobilenet_v1_025": partial(mobilenet_v1, width_mult=0.25),
    "mobilenet_v1_shallow": partial(mobilenet_v1, shallow=True),
    "mobilenet_v1_full": partial(mobilenet_v1, separable=False),
    "mobilenet_v2": mobilenet_v2,
    "preact_resnet": preact_resnet,
    "preact_resnet20": partial(preact_resnet, depth=20),
    "preact_resnet110": partial(preact_resnet, depth=110),
    "preact_resnet164": partial(preact_resnet, depth=164),
    "preact_resnet1001": partial(preact_resnet, depth=1001),
    "preact_resnet18": partial(preact_resnet, depth=18, style="imagenet"),
    "preact_resnet34": partial(preact_resnet, depth=34, style="imagenet"),
    "preact_resnet50": partial(preact_resnet, depth=50, style="imagenet"),
    "preact_resnet101": partial(preact_resnet, depth=101, style="imagenet"),
    "preact_resnet152": partial(preact_resnet, depth=152, style="imagenet"),
    "preact_resnet200": partial(preact_resnet, depth=200, style="imagenet"),
}

__all__ = [
    "NETWORKS",
    "Count",
    "DenseNet",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "SqueezeNet",
    "convert_timm_mobilenet_v1",
    "count",
    "count_parameters",
    "create",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "densenet264",
    "densenet_cifar",
    "densenet_fashion",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "preact_resnet",
    "squeezenet",
    "squeezenet1_0",
    "squeezenet1_1",
]


def names() -> list[str]:
    """Registry names, in the order of the table."""
    return list(NETWORKS)


def create(name: str, **kwargs: object) -> nn.Module:
    """Build the network ``name`` (see :func:`names`), passing ``kwargs`` to its factory.

    Raises:
        ValueError: no such name; the nearest ones are given.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(NETWORKS)}"
        raise ValueError(f"create: no network named {name!r}; {hint}")
    return NETWORKS[name](**kwargs)
