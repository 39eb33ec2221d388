"""The head of a network: batch norm, activation, global average."""

from torch import Tensor

from lightops.reference.training.bn_act import prologue


def bn_act_mean(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    act: str,
    batch: bool,
) -> Tensor:
    """The average of `act(bn(x))` over each map, `[N, C]`."""
    return prologue(x, mean, var, gamma, beta, eps, act, batch).mean((2, 3)).to(x.dtype)
