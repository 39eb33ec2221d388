"""`transition`: BN-ReLU and the 2x2 average on the way into the 1x1 product."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightops import reference
from lightops.ops._check import check_bias, check_bn, check_input, check_weight
from lightops.ops._dispatch import NATIVE, op_table
from lightops.ops._native import (
    affine,
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
from lightops.reference import BatchNormParams


class TransitionPacked(NamedTuple):
    """BN as scale and shift `[C]`, packed weight, bias `[O]`; `channels_last` is the layout of the unpacked weight."""

    scale: Tensor
    shift: Tensor
    w: Tensor
    bias: Tensor | None
    out_channels: int
    channels_last: bool


def transition(
    x: Tensor, bn: BatchNormParams, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """`avg_pool2d(conv1x1(relu(bn(x)), weight) + bias, 2)`, computed pool first: the two commute and a quarter of the
    multiply-adds remains.

    The transition layer of DenseNet (arXiv 1608.06993, section 3).

    Shapes: x `[N, C, H, W]`, bn over C channels, weight `[O, C, 1, 1]`, bias `[O]`; result `[N, O, H // 2, W // 2]` (an
    odd last row or column is dropped).
    dtypes: float32, bfloat16, float16, float64; sums in float32 (float64 for float64). bn may be float32 beside a
    half-precision x.
    Layout: any strides; computed with channels innermost. The result is channels_last when x or weight is, as stock
    returns it.
    Raises: TypeError for a non-tensor; NotImplementedError for a sparse, quantized or nested one; ValueError for a
    non-4-D x; RuntimeError for a map smaller than 2x2, or a dtype, device, shape or channel mismatch;
    BackendUnavailable when the backend asked for cannot serve.
    """
    op = "transition"
    check_input(op, x, bn_first=True)
    check_weight(op, "weight", weight, x, x.shape[1], kernel=(1, 1))
    if bn is None:
        raise TypeError(f"{op}: argument 'bn' got None, wants BatchNormParams")
    check_bn(op, "bn", bn, x, x.shape[1])
    check_bias(op, "bias", bias, x, weight.shape[0])
    if min(x.shape[2:]) < 2:
        raise RuntimeError(
            f"{op}: argument 'x' got a {x.shape[2]}x{x.shape[3]} map, wants at least 2x2: "
            "the pooled output size is too small"
        )
    return _TABLE.call(backend, x, bn, weight, bias)


def pack_transition(bn: BatchNormParams, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> TransitionPacked:
    """Fold and pack for activations of `dtype`."""
    scale, shift = affine(bn, dtype)
    bias = fold(bias, None, dtype)[1]
    w = pack_conv(weight, None, dtype, pairs=reads_pairs(dtype, weight))
    return TransitionPacked(scale, shift, w, bias, weight.shape[0], suggests_channels_last(weight))


def run_transition(x: Tensor, packed: TransitionPacked, backend: str = NATIVE) -> Tensor:
    """The kernel call: x is 4-D, `packed` was made for its dtype."""
    scale, shift, w, bias, out_channels, channels_last = packed
    x, nchw = to_nhwc(x)
    out = _ops[backend](x, scale, shift, w, bias, out_channels)
    return to_nchw(out) if nchw and not channels_last else out


def run_transition_out(x: Tensor, packed: TransitionPacked, out: Tensor, backend: str = NATIVE) -> Tensor:
    """The kernel call into `out` `[N, out_channels, H // 2, W // 2]`: channels innermost, it may be a channel slice of
    a wider buffer. Returns it."""
    x, _ = to_nhwc(x)
    _ops_out[backend](x, packed.scale, packed.shift, packed.w, packed.bias, out)
    return out


def _native_run(x: Tensor, bn: BatchNormParams, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    return run_transition(x, pack_transition(bn, weight, bias, x.dtype), backend)


def _fake(x: Tensor, scale: Tensor, shift: Tensor, w: Tensor, bias: Tensor | None, out_channels: int) -> Tensor:
    return nhwc_empty(x, out_channels, (x.shape[2] // 2, x.shape[3] // 2))


def _fake_out(x: Tensor, scale: Tensor, shift: Tensor, w: Tensor, bias: Tensor | None, out: Tensor) -> None:
    return None


_TABLE = op_table("transition", _native_run, reference.transition)
_ops = backend_ops("transition")
_ops_out = backend_ops("transition_out")
register_fake("transition", _fake)
register_fake("transition_out", _fake_out)
