"""A convolution between two raw tensors: the previous batch norm and activation going in, the next one's statistics
coming out.
"""

import torch.nn.functional as F
from torch import Tensor

from lightops.reference.training.batch_stats import batch_stats
from lightops.reference.training.bn_act import prologue


def bn_act_conv2d(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    act: str,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pool: bool,
    stats: bool,
    batch: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`y = conv(u) + bias` with `u = act(bn(x))`, and y's batch mean and biased variance (empty without `stats`).

    Padding is zeros of u. `pool`: u is averaged over 2x2 pixels first (a DenseNet transition: average and 1x1
    convolution commute).
    """
    u = prologue(x, mean, var, gamma, beta, eps, act, batch)
    if pool:
        u = F.avg_pool2d(u, 2)
    offset = None if bias is None else bias.to(u.dtype)
    y = F.conv2d(u, weight.to(u.dtype), offset, stride, padding, dilation, groups).to(x.dtype)
    return (y, *batch_stats(y)) if stats else (y, u.new_empty(0), u.new_empty(0))
