"""Statistics of a batch, as batch normalisation takes them (arXiv 1502.03167, algorithm 1)."""

import torch
from torch import Tensor


def accumulate(x: Tensor) -> Tensor:
    """x in the dtype of sums and statistics: float64 for float64, else float32."""
    return x if x.dtype == torch.float64 else x.float()


def batch_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance `[C]` of x `[N, C, H, W]` over batch and map, in two passes."""
    x = accumulate(x)
    mean = x.mean((0, 2, 3))
    return mean, (x - mean[:, None, None]).square().mean((0, 2, 3))
