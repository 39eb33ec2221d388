"""The last layers of a network: (BN), activation, global average pool, (classifier)."""

import torch.nn.functional as F
from torch import Tensor

from lightops.reference.activation import activation
from lightops.reference.bn import BatchNormParams, batch_norm


def head(
    x: Tensor,
    bn: BatchNormParams | None = None,
    *,
    act: str = "none",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """`mean over H and W of act(bn(x))` as `[N, C]`; then `linear(., weight, bias)` as `[N, O]` given a weight."""
    y = activation(batch_norm(x, bn), act).mean((2, 3))
    if weight is None:
        return y
    return F.linear(y, weight.flatten(1), bias)
