"""Packed weights of the CUDA kernels, in plain torch: rows of input channels in the activations' dtype, each in whole
16-byte chunks, so that a kernel reads them with 128-bit accesses whatever the channel count."""

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def _rows(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """`rows` cast to `dtype`, the last dimension filled with zeros to whole chunks."""
    chunk = 16 // dtype.itemsize
    return torch.nn.functional.pad(rows, (0, -rows.shape[-1] % chunk)).to(dtype).contiguous()


def _scaled(weight: Tensor, scale: Tensor | None) -> Tensor:
    """The folded weight in float64: one rounding, at the cast."""
    weight = weight.detach().double()
    return weight if scale is None else weight * scale.view(-1, 1, 1, 1)


def pack_conv2d(weight: Tensor, scale: Tensor | None, dtype: torch.dtype, *, flat: bool = False) -> Tensor:
    """`[O, C, kh, kw]` times `scale` `[O]` -> `[kh*kw, O, row]`; `flat` (the stem): `[O, row]` over (ky, kx,
    channel)."""
    weight = _scaled(weight, scale)
    o, c, kh, kw = weight.shape
    if flat:
        return _rows(weight.permute(0, 2, 3, 1).reshape(o, kh * kw * c), dtype)
    return _rows(weight.permute(2, 3, 0, 1).reshape(kh * kw, o, c), dtype)


def pack_depthwise(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`[C, 1, kh, kw]` times `scale` `[C]` -> `[kh*kw, row]`."""
    weight = _scaled(weight, scale)
    return _rows(weight.reshape(weight.shape[0], -1).t(), dtype)
