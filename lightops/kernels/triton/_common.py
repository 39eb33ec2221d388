"""What every kernel and launcher shares: activations, tensor views, the device guard."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def activate(v, ACT: tl.constexpr):
    """The activation codes of the op schemas. `tl.where` on a comparison keeps NaN, `tl.maximum` would drop it."""
    if ACT == 1:
        v = tl.where(v < 0, 0.0, v)
    elif ACT == 2:
        v = tl.where(v < 0, 0.0, tl.where(v > 6, 6.0, v))
    elif ACT == 3:
        gate = v + 3
        v = v * tl.where(gate < 0, 0.0, tl.where(gate > 6, 6.0, gate)) / 6
    elif ACT == 4:
        v = v / (1 + tl.exp(-v))
    return v


class View(NamedTuple):
    """A 4-D tensor as the kernels address it: sizes, then strides in elements."""

    data: Tensor
    n: int
    h: int
    w: int
    c: int
    image: int
    row: int
    pixel: int
    channel: int


def view(t: Tensor) -> View:
    n, c, h, w = t.shape
    # Strides of dimensions of size 1 say nothing, and are not read: their index is 0.
    return View(t, n, h, w, c, t.stride(0), t.stride(2), t.stride(3), t.stride(1))


def new_image(x: Tensor, channels: int, h: int, w: int) -> Tensor:
    shape = (x.shape[0], channels, h, w)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def channel_slice(t: Tensor, first: int, channels: int) -> Tensor:
    return t[:, first : first + channels]


@contextlib.contextmanager
def on_device(x: Tensor) -> Iterator[None]:
    """Triton launches on torch's current device and its current stream: make it the tensor's."""
    if x.is_cuda:
        with torch.cuda.device(x.device):
            yield
    else:
        yield  # the interpreter


def conv_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """acc + a b in float32."""
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


def widen(dtype: torch.dtype) -> bool:
    """Triton's interpreter multiplies the bit patterns of bfloat16: there, and only there, operands become float32."""
    return triton.knobs.runtime.interpret and dtype == torch.bfloat16


def precision(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies: float32 in tf32 only where torch's own convolutions would."""
    return "tf32" if dtype == torch.float32 and torch.backends.cudnn.allow_tf32 else "ieee"
