"""The dense block of DenseNet and DenseNet-BC (arXiv 1608.06993, sections 3 and 4)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightops.reference.activation import activation
from lightops.reference.bn import BatchNormParams, batch_norm


class DenseLayerParams(NamedTuple):
    """One layer H(): BN-ReLU-conv1x1-BN-ReLU-conv3x3, or BN-ReLU-conv3x3 when `bn2` and `weight2` are None.

    With c input channels, b bottleneck channels and growth k: `weight1` `[b, c, 1, 1]` and `weight2` `[k, b, 3, 3]`, or
    `weight1` `[k, c, 3, 3]`.
    """

    bn1: BatchNormParams
    weight1: Tensor
    bn2: BatchNormParams | None = None
    weight2: Tensor | None = None


def dense_layer(x: Tensor, layer: DenseLayerParams) -> Tensor:
    """`concat(x, H(x))`: the input `[N, c, H, W]` with the layer's k new channels behind it."""
    y = activation(batch_norm(x, layer.bn1), "relu")
    if layer.weight2 is None:
        y = F.conv2d(y, layer.weight1, padding=1)
    else:
        y = activation(batch_norm(F.conv2d(y, layer.weight1), layer.bn2), "relu")
        y = F.conv2d(y, layer.weight2, padding=1)
    return torch.cat((x, y), 1)


def dense_block(x: Tensor, layers: Sequence[DenseLayerParams]) -> Tensor:
    """Every layer reads all channels before it; the output `[N, c + L*k, H, W]` holds the input and all L layers'
    channels."""
    for layer in layers:
        x = dense_layer(x, layer)
    return x
