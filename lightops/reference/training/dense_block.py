"""The dense block in training: forward with batch statistics, differentiable."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def dense_block_train(
    x: Tensor,
    mean_x: Tensor | None,
    var_x: Tensor | None,
    params: Sequence[Tensor | None],
    eps: Sequence[float],
    frozen: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
    growth: int,
    bottleneck: int,
    algo: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`for H in layers: x = concat(x, H(x))` with H = BN-ReLU-conv1x1-BN-ReLU-conv3x3, or BN-ReLU-conv3x3 for a
    `bottleneck` of 0; every BN by the statistics of its own input, or by frozen ones.

    x `[N, C, H, W]`, k = growth, b = bottleneck, layer l reads C + l*k channels. `params` per layer: gamma1, beta1,
    w1 `[b, C + l*k, 1, 1]`, gamma2, beta2, w2 `[k, b, 3, 3]`; without bottleneck gamma, beta, w `[k, C + l*k, 3, 3]`;
    gamma and beta may be None. `eps` holds a number per BN, `frozen` a mean and a variance per BN (None, None: batch
    statistics), `masks` a tensor like the new features per layer, which multiplies them (dropout, already scaled), or
    None; an empty list means none at all. `algo` is for kernels: the tile of the 3x3s' Winograd. mean_x and var_x are
    the statistics of x where they are known already; the derivative goes through them all the same.

    Returns the buffer `[N, C + L*k, H, W]`; the 1x1 outputs before their BN, `[L*N, b, H, W]` (`[0, 0, H, W]` without
    bottleneck); mean and biased variance of every channel of the buffer, `[C + L*k]`; and of the 1x1 outputs, `[L, b]`.
    Only the buffer has a derivative.
    """
    each = 6 if bottleneck else 3
    norms = 2 if bottleneck else 1
    layers = len(params) // each
    frozen = frozen or [None] * (2 * norms * layers)
    masks = masks or [None] * layers
    middle: list[Tensor] = []
    for i in range(layers):
        layer, stats = params[i * each : (i + 1) * each], frozen[2 * norms * i : 2 * norms * (i + 1)]
        y = _bn_relu(x, layer[0], layer[1], eps[norms * i], stats[0], stats[1])
        if bottleneck:
            middle.append(F.conv2d(y, layer[2]))
            y = _bn_relu(middle[-1], layer[3], layer[4], eps[norms * i + 1], stats[2], stats[3])
        y = F.conv2d(y, layer[each - 1], padding=1)
        x = torch.cat((x, y if masks[i] is None else y * masks[i]), 1)
    mean, var = _statistics(x)
    raw = torch.cat(middle) if middle else x.new_empty((0, 0, *x.shape[2:]))
    pairs = [_statistics(y) for y in middle]
    middle_mean, middle_var = (
        torch.stack([pair[i] for pair in pairs]) if pairs else mean.new_empty((layers, 0)) for i in (0, 1)
    )
    return (x, *(t.detach() for t in (raw, mean, var, middle_mean, middle_var)))


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel, in float32 at least."""
    x = x if x.dtype == torch.float64 else x.float()
    return x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)


def _bn_relu(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float, mean: Tensor | None, var: Tensor | None
) -> Tensor:
    dtype = x.dtype
    if mean is None or var is None:
        mean, var = _statistics(x)
    expand = (1, -1, 1, 1)
    y = (x - mean.view(expand)) * torch.rsqrt(var + eps).view(expand)
    if gamma is not None:
        y = y * gamma.view(expand)
    if beta is not None:
        y = y + beta.view(expand)
    return F.relu(y).to(dtype)
