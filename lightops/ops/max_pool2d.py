"""`max_pool2d`: a max-pool that reads and writes channels_last."""

from typing import Any, NamedTuple

from torch import Tensor

from lightops import reference
from lightops.ops._check import (
    Pair,
    check_input,
    check_not_empty,
    check_pool_padding,
    is_unbatched,
    pair,
    pool_out_size,
)
from lightops.ops._dispatch import NATIVE, op_table
from lightops.ops._native import backend_ops, nhwc_empty, register_fake, to_nchw, to_nhwc


class MaxPool2dPacked(NamedTuple):
    """The geometry, each as (rows, columns)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    ceil_mode: bool


def max_pool2d(
    x: Tensor,
    kernel: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    *,
    backend: str = "auto",
) -> Tensor:
    """`out[n, c, y, x] = max of x[n, c]` over the kernel's window at `(y, x) * stride - padding`, cut to the map.

    The pools between the fire modules of SqueezeNet (arXiv 1602.07360).

    Shapes: x `[N, C, H, W]` or `[C, H, W]`; kernel, stride and padding in pixels, one number or (rows, columns), stride
    None is the kernel; the output size is that of `torch.nn.MaxPool2d`, `ceil_mode` included.
    dtypes: float32, bfloat16, float16, float64. A NaN anywhere in a window is its result.
    Layout: any strides; the result is channels_last when x is, as stock returns it.
    Raises: TypeError for a non-tensor, or a kernel, stride or padding that is not an int or a pair; NotImplementedError
    for a sparse, quantized or nested tensor; RuntimeError for a dtype or shape that is not served, an illegal geometry,
    padding above half the kernel or an output that would be empty; BackendUnavailable when the backend asked for cannot
    serve.
    """
    op = "max_pool2d"
    if is_unbatched(op, x):
        return max_pool2d(x.unsqueeze(0), kernel, stride, padding, ceil_mode, backend=backend).squeeze(0)
    check_input(op, x)
    kernel = pair(op, "kernel", kernel)
    stride = kernel if stride is None else pair(op, "stride", stride)
    padding = pair(op, "padding", padding)
    check_pool_padding(op, kernel, padding)
    check_not_empty(op, x)
    pool_out_size(op, x.shape[2:], kernel, stride, padding, ceil_mode, arg="kernel")
    return _TABLE.call(backend, x, kernel, stride, padding, ceil_mode)


def pack_max_pool2d(kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool) -> MaxPool2dPacked:
    """The kernel's arguments; a pool has nothing to fold."""
    return MaxPool2dPacked(kernel, stride, padding, bool(ceil_mode))


def run_max_pool2d(x: Tensor, packed: MaxPool2dPacked, backend: str = NATIVE) -> Tensor:
    """The kernel call: x is 4-D."""
    x, nchw = to_nhwc(x)
    out = _ops[backend](x, *packed)
    return to_nchw(out) if nchw else out


def _native_run(x: Tensor, *geometry: Any, backend: str) -> Tensor:
    return run_max_pool2d(x, pack_max_pool2d(*geometry), backend)


def _fake(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool) -> Tensor:
    return nhwc_empty(x, x.shape[1], pool_out_size("max_pool2d", x.shape[2:], kernel, stride, padding, ceil_mode))


_TABLE = op_table("max_pool2d", _native_run, reference.max_pool2d)
_ops = backend_ops("max_pool2d")
register_fake("max_pool2d", _fake)
