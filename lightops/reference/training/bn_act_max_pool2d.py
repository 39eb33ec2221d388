"""Max-pool of a normalised tensor that is never stored."""

import torch.nn.functional as F
from torch import Tensor

from lightops.reference.training.bn_act import prologue


def bn_act_max_pool2d(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    act: str,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    batch: bool,
) -> Tensor:
    """The maximum of `u = act(bn(x))` over each window; the gradient goes to the first maximum in row order."""
    u = prologue(x, mean, var, gamma, beta, eps, act, batch).to(x.dtype)
    return F.max_pool2d(u, kernel, stride, padding, ceil_mode=ceil_mode)
