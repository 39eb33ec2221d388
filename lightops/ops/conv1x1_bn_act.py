"""`conv1x1_bn_act`: pointwise convolution with BN, activation and residual in its epilogue."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightops import reference
from lightops.ops._check import (
    check_act,
    check_addend,
    check_bias,
    check_bn,
    check_input,
    check_map,
    check_weight,
    is_unbatched,
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
from lightops.reference import BatchNormParams


class Conv1x1BNActPacked(NamedTuple):
    """Weight with the BN scale folded in and packed, folded bias `[O]`; `channels_last` is the layout of the weight it
    came from."""

    w: Tensor
    bias: Tensor | None
    out_channels: int
    act: int
    channels_last: bool


def conv1x1_bn_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    bn: BatchNormParams | None = None,
    *,
    act: str = "relu",
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """`act(bn(conv1x1(x, weight) + bias)) + residual`: one pass over x, the residual added after the activation.

    The expand half of an inverted residual (MobileNetV2, arXiv 1801.04381), its linear end with `act="none"`, and
    SqueezeNet's classifier (arXiv 1602.07360).

    Shapes: x `[N, C, H, W]` (`[C, H, W]` without bn), weight `[O, C, 1, 1]`, bias `[O]`, bn over O channels, residual
    and result `[N, O, H, W]`.
    dtypes: float32, bfloat16, float16, float64; sums in float32 (float64 for float64). bn may be float32 beside a
    half-precision x.
    Layout: any strides; computed with channels innermost. The result is channels_last when x or weight is, as stock
    returns it.
    Raises: TypeError for a non-tensor; NotImplementedError for a sparse, quantized or nested one; ValueError for an
    unknown act, or a non-4-D x with bn; RuntimeError for a dtype, device, shape or channel mismatch; BackendUnavailable
    when the backend asked for cannot serve.
    """
    op = "conv1x1_bn_act"
    if is_unbatched(op, x, bn):
        lifted = None if residual is None else residual.unsqueeze(0)
        return conv1x1_bn_act(x.unsqueeze(0), weight, bias, bn, act=act, residual=lifted, backend=backend).squeeze(0)
    check_input(op, x)
    check_weight(op, "weight", weight, x, x.shape[1], kernel=(1, 1))
    out_channels = weight.shape[0]
    check_bias(op, "bias", bias, x, out_channels)
    check_bn(op, "bn", bn, x, out_channels)
    check_act(op, "act", act)
    check_map(op, x)
    check_addend(op, "residual", residual, x, (x.shape[0], out_channels, *x.shape[2:]))
    return _TABLE.call(backend, x, weight, bias, bn, act=act, residual=residual)


def pack_conv1x1_bn_act(
    weight: Tensor, bias: Tensor | None, bn: BatchNormParams | None, act: str, dtype: torch.dtype
) -> Conv1x1BNActPacked:
    """Fold and pack for activations of `dtype`."""
    scale, bias = fold(bias, bn, dtype)
    w = pack_conv(weight, scale, dtype, pairs=reads_pairs(dtype, weight))
    return Conv1x1BNActPacked(w, bias, weight.shape[0], ACT_CODE[act], suggests_channels_last(weight))


def run_conv1x1_bn_act(
    x: Tensor, packed: Conv1x1BNActPacked, residual: Tensor | None = None, backend: str = NATIVE
) -> Tensor:
    """The kernel call: x is 4-D, `packed` was made for its dtype."""
    w, bias, out_channels, act, channels_last = packed
    x, nchw = to_nhwc(x)
    if residual is not None:
        residual, _ = to_nhwc(residual)
    out = _ops[backend](x, w, bias, out_channels, act, residual)
    return to_nchw(out) if nchw and not channels_last else out


def _native_run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    bn: BatchNormParams | None,
    *,
    act: str,
    residual: Tensor | None,
    backend: str,
) -> Tensor:
    return run_conv1x1_bn_act(x, pack_conv1x1_bn_act(weight, bias, bn, act, x.dtype), residual, backend)


def _fake(x: Tensor, w: Tensor, bias: Tensor | None, out_channels: int, act: int, residual: Tensor | None) -> Tensor:
    return nhwc_empty(x, out_channels, x.shape[2:])


_TABLE = op_table("conv1x1_bn_act", _native_run, reference.conv1x1_bn_act)
_ops = backend_ops("conv1x1_bn_act")
register_fake("conv1x1_bn_act", _fake)
