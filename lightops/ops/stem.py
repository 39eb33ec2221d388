"""`stem`: a network's first convolution with BN, activation and max-pool in one pass."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightops import reference
from lightops.ops._check import (
    Pair,
    check_act,
    check_bias,
    check_bn,
    check_input,
    check_pool,
    check_weight,
    conv_out_size,
    is_unbatched,
    pair,
    pool_out_size,
)
from lightops.ops._dispatch import NATIVE, op_table
from lightops.ops._native import (
    ACT_CODE,
    backend_ops,
    fold,
    nhwc_empty,
    pack_conv,
    reads_pairs,
    register_fake,
    suggests_channels_last,
    to_nchw,
    to_nhwc,
)
from lightops.reference import BatchNormParams, MaxPool


class StemPacked(NamedTuple):
    """Weight with the BN scale folded in and packed, folded bias, geometry; `pool` is () or (kernel, stride, padding,
    ceil_mode)."""

    w: Tensor
    bias: Tensor | None
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Pair
    act: int
    pool: tuple[int, ...]
    channels_last: bool


def stem(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    bn: BatchNormParams | None = None,
    *,
    act: str = "relu",
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    pool: MaxPool | None = None,
    backend: str = "auto",
) -> Tensor:
    """`max_pool2d(act(bn(conv2d(x, weight) + bias)), pool)`: the convolution's result never leaves cache.

    The first layers of DenseNet (arXiv 1608.06993), SqueezeNet (arXiv 1602.07360) and MobileNet (arXiv 1704.04861).

    Shapes: x `[N, C, H, W]` (`[C, H, W]` without bn), weight `[O, C, kh, kw]`, bias `[O]`, bn over O channels; the
    convolution gives `(H + 2p - kh) // s + 1`, the pool the size that `torch.nn.MaxPool2d` gives.
    dtypes: float32, bfloat16, float16, float64; sums in float32 (float64 for float64). bn may be float32 beside a
    half-precision x.
    Layout: any strides; NCHW is read as it lies. The result is channels_last when x or weight is, as stock returns it.
    Raises: TypeError for a non-tensor, or a stride or padding that is not an int or a pair, or a pool that is no
    MaxPool; NotImplementedError for a sparse, quantized or nested tensor; ValueError for an unknown act, or a non-4-D x
    with bn; RuntimeError for a dtype, device, shape or channel mismatch, an illegal geometry or a window larger than
    the padded input; BackendUnavailable when the backend asked for cannot serve.
    """
    op = "stem"
    if is_unbatched(op, x, bn):
        return stem(
            x.unsqueeze(0), weight, bias, bn, act=act, stride=stride, padding=padding, pool=pool, backend=backend
        ).squeeze(0)
    check_input(op, x)
    check_weight(op, "weight", weight, x, x.shape[1])
    check_bias(op, "bias", bias, x, weight.shape[0])
    check_bn(op, "bn", bn, x, weight.shape[0])
    check_act(op, "act", act)
    check_pool(op, pool)
    stride, padding = pair(op, "stride", stride), pair(op, "padding", padding)
    hw = conv_out_size(op, x.shape[2:], weight.shape[2:], stride, padding)
    if pool is not None:
        pool_out_size(op, hw, *pool)
    return _TABLE.call(backend, x, weight, bias, bn, act=act, stride=stride, padding=padding, pool=pool)


def pack_stem(
    weight: Tensor,
    bias: Tensor | None,
    bn: BatchNormParams | None,
    dtype: torch.dtype,
    *,
    act: str = "relu",
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    pool: MaxPool | None = None,
) -> StemPacked:
    """Fold and pack for activations of `dtype`."""
    scale, bias = fold(bias, bn, dtype)
    pool_args = () if pool is None else (pool.kernel, pool.stride, pool.padding, int(pool.ceil_mode))
    w = pack_conv(weight, scale, dtype, flat=True, pairs=reads_pairs(dtype, weight, odd=True))
    return StemPacked(
        w, bias, weight.shape[0], (weight.shape[2], weight.shape[3]), stride,
        padding, ACT_CODE[act], pool_args, suggests_channels_last(weight),
    )  # fmt: skip


def run_stem(x: Tensor, packed: StemPacked, backend: str = NATIVE) -> Tensor:
    """The kernel call: x is 4-D, `packed` was made for its dtype."""
    x, nchw = _as_it_lies(x)
    out = _ops[backend](x, *packed[:-1])
    return to_nchw(out) if nchw and not packed.channels_last else out


def run_stem_out(x: Tensor, packed: StemPacked, out: Tensor, backend: str = NATIVE) -> Tensor:
    """The kernel call into `out`: channels innermost, it may be a channel slice of a wider buffer. Returns it."""
    x, _ = _as_it_lies(x)
    w, bias, _, kernel, stride, padding, act, pool, _ = packed
    _ops_out[backend](x, w, bias, kernel, stride, padding, act, pool, out)
    return out


def stem_out_size(hw: tuple[int, int], packed: StemPacked) -> Pair:
    """Output height and width for an input of `hw`."""
    hw = conv_out_size("stem", hw, packed.kernel, packed.stride, packed.padding)
    return pool_out_size("stem", hw, *packed.pool) if packed.pool else hw


def _as_it_lies(x: Tensor) -> tuple[Tensor, bool]:
    """The stem alone also reads NCHW in place: with three channels a copy to NHWC would cost as much as reading it."""
    if x.is_contiguous():
        return x, not suggests_channels_last(x)
    return to_nhwc(x)


def _native_run(
    x: Tensor, weight: Tensor, bias: Tensor | None, bn: BatchNormParams | None, *, backend: str, **options
) -> Tensor:
    return run_stem(x, pack_stem(weight, bias, bn, x.dtype, **options), backend)


def _fake(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    out_channels: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    act: int,
    pool: list[int],
) -> Tensor:
    hw = conv_out_size("stem", x.shape[2:], kernel, stride, padding)
    return nhwc_empty(x, out_channels, pool_out_size("stem", hw, *pool) if pool else hw)


def _fake_out(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    act: int,
    pool: list[int],
    out: Tensor,
) -> None:
    return None


_TABLE = op_table("stem", _native_run, reference.stem)
_ops = backend_ops("stem")
_ops_out = backend_ops("stem_out")
register_fake("stem", _fake)
register_fake("stem_out", _fake_out)
