"""`inverted_residual`: MobileNetV2's whole block; the expanded tensor is never stored."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightops import reference
from lightops.ops._check import (
    Pair,
    check_act,
    check_bias,
    check_bn,
    check_depthwise_weight,
    check_input,
    check_map,
    check_weight,
    conv_out_size,
    pair,
    same_padding,
)
from lightops.ops._dispatch import NATIVE, op_table
from lightops.ops._native import (
    ACT_CODE,
    backend_ops,
    fold,
    nhwc_empty,
    pack_conv,
    pack_depthwise,
    reads_pairs,
    register_fake,
    suggests_channels_last,
    to_nchw,
    to_nhwc,
)
from lightops.reference import BatchNormParams


class InvertedResidualPacked(NamedTuple):
    """The three weights with their BN scales folded in and packed, folded biases, geometry; `channels_last` is the
    layout of the projection's weight."""

    ex: Tensor
    ex_bias: Tensor | None
    hidden: int
    ex_act: int
    dw: Tensor
    dw_bias: Tensor | None
    kernel: Pair
    stride: Pair
    padding: Pair
    dw_act: int
    pw: Tensor
    pw_bias: Tensor | None
    out_channels: int
    residual: bool
    channels_last: bool


def inverted_residual(
    x: Tensor,
    ex_weight: Tensor,
    dw_weight: Tensor,
    pw_weight: Tensor,
    *,
    ex_bias: Tensor | None = None,
    ex_bn: BatchNormParams | None = None,
    dw_bias: Tensor | None = None,
    dw_bn: BatchNormParams | None = None,
    pw_bias: Tensor | None = None,
    pw_bn: BatchNormParams | None = None,
    act: str = "relu6",
    stride: int | Pair = 1,
    padding: int | Pair | None = None,
    residual: bool = False,
    backend: str = "auto",
) -> Tensor:
    """`pw_bn(pw(act(dw_bn(dw(act(ex_bn(ex(x)))))))) (+ x)`: expand, depthwise, linear projection; the expanded tensor
    never leaves cache.

    The inverted residual with linear bottleneck of MobileNetV2 (arXiv 1801.04381, section 3.3). Each convolution may
    have a bias, added before its BN.

    Shapes: x `[N, C, H, W]`, ex_weight `[E, C, 1, 1]`, dw_weight `[E, 1, kh, kw]`, pw_weight `[O, E, 1, 1]`, ex and dw
    biases and bn over E, pw over O; result `[N, O, (H + 2p - kh) // s + 1, ...]`. `padding=None` is (kh // 2, kw // 2).
    `residual=True` adds x and wants the result in its shape.
    dtypes: float32, bfloat16, float16, float64; sums in float32 (float64 for float64), the expanded tensor is kept in
    that precision.
    Layout: any strides; computed with channels innermost. The result is channels_last when x or pw_weight is, as stock
    returns it.
    Raises: TypeError for a non-tensor, or a stride or padding that is not an int or a pair; NotImplementedError for a
    sparse, quantized or nested tensor; ValueError for an unknown act; RuntimeError for a non-4-D x, a dtype, device,
    shape or channel mismatch, an illegal geometry, a kernel larger than the padded input or a residual of another
    shape; BackendUnavailable when the backend asked for cannot serve.
    """
    op = "inverted_residual"
    check_input(op, x)
    check_weight(op, "ex_weight", ex_weight, x, x.shape[1], kernel=(1, 1))
    hidden = ex_weight.shape[0]
    check_depthwise_weight(op, "dw_weight", dw_weight, x, hidden)
    check_weight(op, "pw_weight", pw_weight, x, hidden, kernel=(1, 1))
    out_channels = pw_weight.shape[0]
    for prefix, bias, bn, channels in (
        ("ex", ex_bias, ex_bn, hidden),
        ("dw", dw_bias, dw_bn, hidden),
        ("pw", pw_bias, pw_bn, out_channels),
    ):
        check_bias(op, f"{prefix}_bias", bias, x, channels)
        check_bn(op, f"{prefix}_bn", bn, x, channels)
    check_act(op, "act", act)
    kernel = (dw_weight.shape[2], dw_weight.shape[3])
    stride = pair(op, "stride", stride)
    padding = same_padding(kernel) if padding is None else pair(op, "padding", padding)
    check_map(op, x)
    out_shape = (x.shape[0], out_channels, *conv_out_size(op, x.shape[2:], kernel, stride, padding))
    if residual and out_shape != tuple(x.shape):
        raise RuntimeError(
            f"{op}: argument 'residual' got True, wants an output of x's shape {list(x.shape)}, "
            f"which is {list(out_shape)}"
        )
    return _TABLE.call(
        backend, x, ex_weight, dw_weight, pw_weight, ex_bias=ex_bias, ex_bn=ex_bn, dw_bias=dw_bias, dw_bn=dw_bn,
        pw_bias=pw_bias, pw_bn=pw_bn, act=act, stride=stride, padding=padding, residual=residual,
    )  # fmt: skip


def pack_inverted_residual(
    ex_weight: Tensor,
    dw_weight: Tensor,
    pw_weight: Tensor,
    dtype: torch.dtype,
    *,
    ex_bias: Tensor | None = None,
    ex_bn: BatchNormParams | None = None,
    dw_bias: Tensor | None = None,
    dw_bn: BatchNormParams | None = None,
    pw_bias: Tensor | None = None,
    pw_bn: BatchNormParams | None = None,
    act: str = "relu6",
    stride: Pair = (1, 1),
    padding: Pair | None = None,
    residual: bool = False,
) -> InvertedResidualPacked:
    """Fold and pack for activations of `dtype`."""
    kernel = (dw_weight.shape[2], dw_weight.shape[3])
    ex_scale, ex_bias = fold(ex_bias, ex_bn, dtype)
    dw_scale, dw_bias = fold(dw_bias, dw_bn, dtype)
    pw_scale, pw_bias = fold(pw_bias, pw_bn, dtype)
    code = ACT_CODE[act]
    pairs = reads_pairs(dtype, ex_weight, pw_weight)
    return InvertedResidualPacked(
        pack_conv(ex_weight, ex_scale, dtype, pairs=pairs), ex_bias, ex_weight.shape[0], code,
        pack_depthwise(dw_weight, dw_scale, dtype), dw_bias, kernel, stride,
        same_padding(kernel) if padding is None else padding, code,
        pack_conv(pw_weight, pw_scale, dtype, pairs=pairs), pw_bias, pw_weight.shape[0], residual,
        suggests_channels_last(pw_weight),
    )  # fmt: skip


def run_inverted_residual(x: Tensor, packed: InvertedResidualPacked, backend: str = NATIVE) -> Tensor:
    """The kernel call: x is 4-D, `packed` was made for its dtype."""
    x, nchw = to_nhwc(x)
    out = _ops[backend](x, *packed[:-1])
    return to_nchw(out) if nchw and not packed.channels_last else out


def _native_run(
    x: Tensor, ex_weight: Tensor, dw_weight: Tensor, pw_weight: Tensor, *, backend: str, **options
) -> Tensor:
    return run_inverted_residual(
        x, pack_inverted_residual(ex_weight, dw_weight, pw_weight, x.dtype, **options), backend
    )


def _fake(
    x: Tensor,
    ex: Tensor,
    ex_bias: Tensor | None,
    hidden: int,
    ex_act: int,
    dw: Tensor,
    dw_bias: Tensor | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dw_act: int,
    pw: Tensor,
    pw_bias: Tensor | None,
    out_channels: int,
    residual: bool,
) -> Tensor:
    return nhwc_empty(x, out_channels, conv_out_size("inverted_residual", x.shape[2:], kernel, stride, padding))


_TABLE = op_table("inverted_residual", _native_run, reference.inverted_residual)
_ops = backend_ops("inverted_residual")
register_fake("inverted_residual", _fake)
