"""Room tokens: the producer before a dense block writes straight into the block's buffer.

The producer allocates the whole buffer `[N, C0 + L*k, H, W]` and returns the first C0 channels as a view that carries
the buffer. The block takes it off the view, once, and appends its layers in place. A second consumer of the same view
finds no room left and copies the prefix into a buffer of its own, so no two results share storage.
"""

import torch
from torch import Tensor

_TOKEN = "_lightops_room"


def make_room(x: Tensor, shape: tuple[int, int, int], channels: int) -> Tensor:
    """The place for a producer's output `(c0, h, w)`: the prefix, carrying the buffer, of a block of `channels`
    channels.
    """
    c0, h, w = shape
    buffer = torch.empty(
        (x.shape[0], channels, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    prefix = buffer[:, :c0]
    setattr(prefix, _TOKEN, [buffer])
    return prefix


def claim_room(x: Tensor, channels: int) -> Tensor | None:
    """The buffer of `channels` channels whose prefix x is, if nobody took it before."""
    token = getattr(x, _TOKEN, None)
    if not token:
        return None
    buffer = token.pop()
    fits = buffer.shape[1] == channels and buffer.data_ptr() == x.data_ptr() and buffer.dtype is x.dtype
    return buffer if fits and buffer.shape[2:] == x.shape[2:] and len(buffer) == len(x) else None
