"""The activations that fuse, by name. The position in `ACTIVATIONS` is the code that crosses the native boundary."""

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("none", "relu", "relu6", "hardswish", "silu")


def activation(x: Tensor, act: str) -> Tensor:
    """`act(x)` elementwise, NaN propagated: relu max(x, 0); relu6 min(max(x, 0), 6); hardswish x*relu6(x+3)/6; silu
    x*sigmoid(x)."""
    if act == "none":
        return x
    if act == "relu":
        return F.relu(x)
    if act == "relu6":
        return F.relu6(x)
    if act == "hardswish":
        return F.hardswish(x)
    if act == "silu":
        return F.silu(x)
    raise ValueError(f"activation: got act={act!r}, wants one of {', '.join(ACTIVATIONS)}")
