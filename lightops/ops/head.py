"""`head`: BN, activation and the global average in one pass over x, then the classifier."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightops import reference
from lightops.ops._check import (
    check_act,
    check_bias,
    check_bn,
    check_companion,
    check_input,
    check_not_empty,
    check_tensor,
)
from lightops.ops._dispatch import NATIVE, op_table
from lightops.ops._native import ACT_CODE, affine, backend_ops, fold, pack_conv, reads_pairs, register_fake, to_nhwc
from lightops.reference import BatchNormParams


class HeadPacked(NamedTuple):
    """BN as scale and shift `[C]`, packed classifier weight and bias `[O]` (None without a classifier, then
    `out_features` is 0)."""

    scale: Tensor | None
    shift: Tensor | None
    act: int
    fc: Tensor | None
    fc_bias: Tensor | None
    out_features: int


def head(
    x: Tensor,
    bn: BatchNormParams | None = None,
    *,
    act: str = "none",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """`y = mean over H and W of act(bn(x))`, then `y @ weight.T + bias` when a weight is given.

    The end of DenseNet (arXiv 1608.06993; BN-ReLU first), MobileNet (arXiv 1704.04861) and, without a classifier,
    SqueezeNet (arXiv 1602.07360).

    Shapes: x `[N, C, H, W]`, bn over C channels, weight `[O, C]` or `[O, C, 1, 1]`, bias `[O]`; result `[N, O]`, or
    `[N, C]` without weight.
    dtypes: float32, bfloat16, float16, float64; sums in float32 (float64 for float64). bn may be float32 beside a
    half-precision x.
    Layout: any strides; the result is contiguous.
    Raises: TypeError for a non-tensor; NotImplementedError for a sparse, quantized or nested one; ValueError for an
    unknown act, or a non-4-D x with bn; RuntimeError for an empty map, a bias without weight, or a dtype, device, shape
    or channel mismatch; BackendUnavailable when the backend asked for cannot serve.
    """
    op = "head"
    check_input(op, x, bn_first=bn is not None)
    channels = x.shape[1]
    check_bn(op, "bn", bn, x, channels)
    check_act(op, "act", act)
    check_not_empty(op, x)
    if weight is None and bias is not None:
        raise RuntimeError(f"{op}: argument 'bias' got a tensor, wants None without a weight")
    if weight is not None:
        _check_classifier(op, weight, bias, x, channels)
    return _TABLE.call(backend, x, bn, act=act, weight=weight, bias=bias)


def pack_head(
    bn: BatchNormParams | None, act: str, weight: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> HeadPacked:
    """Fold and pack for activations of `dtype`."""
    scale, shift = affine(bn, dtype)
    if weight is None:
        return HeadPacked(scale, shift, ACT_CODE[act], None, None, 0)
    weight = weight if weight.dim() == 4 else weight[:, :, None, None]
    fc = pack_conv(weight, None, dtype, pairs=reads_pairs(dtype, weight))
    return HeadPacked(scale, shift, ACT_CODE[act], fc, fold(bias, None, dtype)[1], weight.shape[0])


def run_head(x: Tensor, packed: HeadPacked, backend: str = NATIVE) -> Tensor:
    """The kernel call: x is 4-D, `packed` was made for its dtype."""
    x, _ = to_nhwc(x)
    return _ops[backend](x, *packed)


def run_classifier(x: Tensor, packed: HeadPacked, backend: str = NATIVE) -> Tensor:
    """The kernel call for features `[N, C]`: maps of one pixel."""
    return _ops[backend](x.contiguous().view(*x.shape, 1, 1), *packed)


def _check_classifier(op: str, weight: Tensor, bias: Tensor | None, x: Tensor, channels: int) -> None:
    check_tensor(op, "weight", weight)
    check_companion(op, "weight", weight, x)
    if weight.dim() not in (2, 4) or 0 in weight.shape or any(size != 1 for size in weight.shape[2:]):
        raise RuntimeError(f"{op}: argument 'weight' got shape {list(weight.shape)}, wants [O, C] or [O, C, 1, 1]")
    if weight.shape[1] != channels:
        raise RuntimeError(
            f"{op}: argument 'weight' of shape {list(weight.shape)} expects {weight.shape[1]} input channels, "
            f"got {channels} channels instead"
        )
    check_bias(op, "bias", bias, x, weight.shape[0])


def _native_run(
    x: Tensor,
    bn: BatchNormParams | None,
    *,
    act: str,
    weight: Tensor | None,
    bias: Tensor | None,
    backend: str,
) -> Tensor:
    return run_head(x, pack_head(bn, act, weight, bias, x.dtype), backend)


def _fake(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    act: int,
    fc: Tensor | None,
    fc_bias: Tensor | None,
    out_features: int,
) -> Tensor:
    return torch.empty((x.shape[0], out_features if fc is not None else x.shape[1]), dtype=x.dtype, device=x.device)


_TABLE = op_table("head", _native_run, reference.head)
_ops = backend_ops("head")
register_fake("head", _fake)
