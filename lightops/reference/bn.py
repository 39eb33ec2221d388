"""Batch normalisation with running statistics, and its affine form that every fused kernel uses."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class BatchNormParams(NamedTuple):
    """Parameters of an evaluation-mode `torch.nn.BatchNorm2d`, each tensor `[C]`; `weight` and `bias` are None when
    affine is off."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    eps: float = 1e-5


def batch_norm(x: Tensor, bn: BatchNormParams | None) -> Tensor:
    """`(x - running_mean) / sqrt(running_var + eps) * weight + bias` per channel; None is the identity."""
    if bn is None:
        return x
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, training=False, eps=bn.eps)


def bn_affine(bn: BatchNormParams) -> tuple[Tensor, Tensor]:
    """`(scale, shift)` in float64 with `batch_norm(x) = x * scale + shift`.

    scale = weight / sqrt(running_var + eps), shift = bias - running_mean * scale. Taken in float64 because the fold is
    done once and its rounding would otherwise be the largest error of a fused block.
    """
    scale = torch.rsqrt(bn.running_var.double() + bn.eps)
    if bn.weight is not None:
        scale = scale * bn.weight.double()
    shift = -bn.running_mean.double() * scale
    if bn.bias is not None:
        shift = shift + bn.bias.double()
    return scale, shift
