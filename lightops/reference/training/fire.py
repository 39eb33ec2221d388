"""The Fire module in training: its forward."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fire_train(
    x: Tensor,
    ws: Tensor,
    bs: Tensor | None,
    w1: Tensor,
    b1: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    algo: int = 0,
) -> Tensor:
    """`concat(relu(conv(s, w1) + b1), relu(conv(s, w3, padding=1) + b3))` with `s = relu(conv(x, ws) + bs)`.

    x `[N, C, H, W]`, ws `[S, C, 1, 1]`, w1 `[E1, S, 1, 1]`, w3 `[E3, S, 3, 3]`. `algo` is for kernels: the tile of the
    3x3's Winograd.
    """
    s = F.relu(F.conv2d(x, ws, bs))
    return torch.cat((F.relu(F.conv2d(s, w1, b1)), F.relu(F.conv2d(s, w3, b3, padding=1))), 1)
