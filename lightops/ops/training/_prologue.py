"""The prologue of a training op: the batch norm and activation that are applied to its raw input on the way in."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightops.ops._check import check_act
from lightops.ops._native import ACT_CODE, to_nhwc
from lightops.ops.training._op import differentiate, sums


class Prologue(NamedTuple):
    """`u = act((x - mean) / sqrt(var + eps) * weight + bias)`; without mean `u = act(x)`.

    mean, var (biased), weight, bias are `[C]` in float32 (float64 beside float64), weight and bias None where affine is
    off. `batch`: the statistics are x's own, and the gradient goes through them; else they are constants.
    """

    mean: Tensor | None = None
    var: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 0.0
    act: str = "none"
    batch: bool = False

    def flat(self) -> tuple[Any, ...]:
        """The prologue's arguments of a schema, `batch` left out."""
        mean, var, weight, bias, eps, act, _ = self
        check_act("prologue", "act", act)
        return mean, var, weight, bias, eps, ACT_CODE[act]


def prologue_fakes(x: Tensor, mean: Tensor | None, wanted: bool = True) -> tuple[Tensor, Tensor]:
    """Shapes of dgamma and dbeta."""
    channels = x.shape[1] if wanted and mean is not None else 0
    return sums(x, channels), sums(x, channels)


def prologue_grads(dgamma: Tensor, dbeta: Tensor, needs: Sequence[Any]) -> tuple[None, None, Any, Any, None, None]:
    """Gradients of the prologue's six arguments, given `needs_input_grad` of these."""
    return None, None, dgamma if needs[2] else None, dbeta if needs[3] else None, None, None


def differentiate_prologue(
    forward: Callable[..., Tensor], dy: Tensor, inputs: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor]:
    """`differentiate` for inputs x, mean, gamma, beta and more, without mean; `wanted` (x, gamma and beta, more). An
    affine part that is absent has a gradient too, as kernels give it.
    """
    x, mean, gamma, beta, *more = inputs
    affine = wanted[1] and mean is not None
    if affine:
        gamma = sums(x, x.shape[1]).fill_(1) if gamma is None else gamma
        beta = torch.zeros_like(gamma) if beta is None else beta
    dx, dgamma, dbeta, *rest = differentiate(
        forward, [x, gamma, beta, *more], [wanted[0], affine, affine, *wanted[2:]], dy
    )
    dx = to_nhwc(dx)[0] if wanted[0] else dx
    if not affine:
        dgamma, dbeta = sums(x, 0), sums(x, 0)
    return [dx, dgamma, dbeta, *rest]
