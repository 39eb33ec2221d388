"""The magnitude S of a 3x3 weight gradient taken in the Winograd domain."""

import torch
import torch.nn.functional as F
from torch import Tensor

_INPUT = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
_OUTPUT = [[1, 0], [1, 1], [1, -1], [0, -1]]
_FILTER = [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]


def winograd_wgrad_magnitude(u: Tensor, dy: Tensor) -> Tensor:
    """`|G|^T [sum over tiles of (|B|^T u |B|) (|A| dy |A|^T)] |G|` for magnitudes u `[N, C, H, W]` of the activations,
    padded by 1, and dy `[N, K, H, W]`: `[K, C, 3, 3]`."""
    bt, a, g = (torch.tensor(m, dtype=torch.float64).abs() for m in (_INPUT, _OUTPUT, _FILTER))
    h, w = dy.shape[2:]
    rows, cols = -(-h // 2) * 2, -(-w // 2) * 2
    u = F.pad(u, (1, cols + 1 - w, 1, rows + 1 - h))
    dy = F.pad(dy, (0, cols - w, 0, rows - h))
    x = torch.einsum("ij,ncpqjk,lk->ncpqil", bt, u.unfold(2, 4, 2).unfold(3, 4, 2), bt)
    d = torch.einsum("ij,nopqjk,lk->nopqil", a, dy.unfold(2, 2, 2).unfold(3, 2, 2), a)
    return torch.einsum("ix,ocil,ly->ocxy", g, torch.einsum("ncpqil,nopqil->ocil", x, d), g)
