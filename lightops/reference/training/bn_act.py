"""Batch norm and activation of a raw tensor, written out: what every training op does to its input on the way in."""

import torch
from torch import Tensor

from lightops.reference.activation import activation
from lightops.reference.training.batch_stats import accumulate, batch_stats


def prologue(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    act: str,
    batch: bool,
) -> Tensor:
    """`u = act((x - mean) / sqrt(var + eps) * gamma + beta)` in the accumulation dtype; mean None: `act(x)`.

    `batch`: mean and var are x's own, and are taken from x here, so that u is differentiated through them.
    """
    u = accumulate(x)
    if mean is not None:
        if batch:
            mean, var = batch_stats(u)
        scale = torch.rsqrt(var + eps)
        u = (u - mean[:, None, None]) * (scale if gamma is None else scale * gamma)[:, None, None]
        if beta is not None:
            u = u + beta[:, None, None]
    return activation(u, act)


def bn_act(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    act: str,
    residual: Tensor | None,
    batch: bool,
) -> Tensor:
    """`act(bn(x)) + residual`, `[N, C, H, W]`."""
    u = prologue(x, mean, var, gamma, beta, eps, act, batch).to(x.dtype)
    return u if residual is None else u + residual
