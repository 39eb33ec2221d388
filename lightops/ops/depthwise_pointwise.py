"""`depthwise_pointwise`: the depthwise tile stays in cache and feeds the pointwise product."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightops import reference
from lightops.ops._check import (
    Pair,
    check_act,
    check_addend,
    check_bias,
    check_bn,
    check_depthwise_weight,
    check_input,
    check_weight,
    conv_out_size,
    is_unbatched,
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


class DepthwisePointwisePacked(NamedTuple):
    """Both weights with their BN scales folded in and packed, folded biases, geometry; `channels_last` is the layout of
    the pointwise weight."""

    dw: Tensor
    dw_bias: Tensor | None
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    dw_act: int
    pw: Tensor
    pw_bias: Tensor | None
    out_channels: int
    pw_act: int
    channels_last: bool


def depthwise_pointwise(
    x: Tensor,
    dw_weight: Tensor,
    pw_weight: Tensor,
    *,
    dw_bias: Tensor | None = None,
    dw_bn: BatchNormParams | None = None,
    pw_bias: Tensor | None = None,
    pw_bn: BatchNormParams | None = None,
    dw_act: str = "relu",
    pw_act: str = "relu",
    stride: int | Pair = 1,
    padding: int | Pair | None = None,
    dilation: int | Pair = 1,
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """`pw_act(pw_bn(pw(dw_act(dw_bn(dw(x) + dw_bias))) + pw_bias)) + residual`: the depthwise result never leaves
    cache.

    The unit of MobileNet (arXiv 1704.04861, figure 3); with `pw_act="none"` and a residual the second half of
    MobileNetV2's (arXiv 1801.04381).

    Shapes: x `[N, C, H, W]` (`[C, H, W]` without bn), dw_weight `[C, 1, kh, kw]`, pw_weight `[O, C, 1, 1]`, dw_bias and
    dw_bn over C, pw_bias and pw_bn over O; residual and result `[N, O, (H + 2p - d(kh-1) - 1) // s + 1, ...]`.
    `padding=None` is (kh // 2, kw // 2).
    dtypes: float32, bfloat16, float16, float64; sums in float32 (float64 for float64), the depthwise result is kept in
    that precision.
    Layout: any strides; computed with channels innermost. The result is channels_last when x or pw_weight is, as stock
    returns it.
    Raises: TypeError for a non-tensor, or a stride, padding or dilation that is not an int or a pair;
    NotImplementedError for a sparse, quantized or nested tensor; ValueError for an unknown act, or a non-4-D x with bn;
    RuntimeError for a dtype, device, shape or channel mismatch, an illegal geometry or a kernel larger than the padded
    input; BackendUnavailable when the backend asked for cannot serve.
    """
    op = "depthwise_pointwise"
    options = {
        "dw_bias": dw_bias, "dw_bn": dw_bn, "pw_bias": pw_bias, "pw_bn": pw_bn, "dw_act": dw_act, "pw_act": pw_act,
        "stride": stride, "padding": padding, "dilation": dilation,
    }  # fmt: skip
    if is_unbatched(op, x, dw_bn, pw_bn):
        lifted = None if residual is None else residual.unsqueeze(0)
        return depthwise_pointwise(
            x.unsqueeze(0), dw_weight, pw_weight, residual=lifted, backend=backend, **options
        ).squeeze(0)
    check_input(op, x)
    channels = x.shape[1]
    check_depthwise_weight(op, "dw_weight", dw_weight, x, channels)
    check_weight(op, "pw_weight", pw_weight, x, channels, kernel=(1, 1))
    check_bias(op, "dw_bias", dw_bias, x, channels)
    check_bn(op, "dw_bn", dw_bn, x, channels)
    check_bias(op, "pw_bias", pw_bias, x, pw_weight.shape[0])
    check_bn(op, "pw_bn", pw_bn, x, pw_weight.shape[0])
    check_act(op, "dw_act", dw_act)
    check_act(op, "pw_act", pw_act)
    kernel = (dw_weight.shape[2], dw_weight.shape[3])
    padding = same_padding(kernel) if padding is None else pair(op, "padding", padding)
    options.update(stride=pair(op, "stride", stride), padding=padding, dilation=pair(op, "dilation", dilation))
    out_hw = conv_out_size(op, x.shape[2:], kernel, options["stride"], padding, options["dilation"])
    check_addend(op, "residual", residual, x, (x.shape[0], pw_weight.shape[0], *out_hw))
    return _TABLE.call(backend, x, dw_weight, pw_weight, residual=residual, **options)


def pack_depthwise_pointwise(
    dw_weight: Tensor,
    pw_weight: Tensor,
    dtype: torch.dtype,
    *,
    dw_bias: Tensor | None = None,
    dw_bn: BatchNormParams | None = None,
    pw_bias: Tensor | None = None,
    pw_bn: BatchNormParams | None = None,
    dw_act: str = "relu",
    pw_act: str = "relu",
    stride: Pair = (1, 1),
    padding: Pair | None = None,
    dilation: Pair = (1, 1),
) -> DepthwisePointwisePacked:
    """Fold and pack for activations of `dtype`."""
    kernel = (dw_weight.shape[2], dw_weight.shape[3])
    dw_scale, dw_bias = fold(dw_bias, dw_bn, dtype)
    pw_scale, pw_bias = fold(pw_bias, pw_bn, dtype)
    return DepthwisePointwisePacked(
        pack_depthwise(dw_weight, dw_scale, dtype), dw_bias, kernel, stride,
        same_padding(kernel) if padding is None else padding, dilation, ACT_CODE[dw_act],
        pack_conv(pw_weight, pw_scale, dtype, pairs=reads_pairs(dtype, pw_weight)), pw_bias, pw_weight.shape[0],
        ACT_CODE[pw_act], suggests_channels_last(pw_weight),
    )  # fmt: skip


def run_depthwise_pointwise(
    x: Tensor, packed: DepthwisePointwisePacked, residual: Tensor | None = None, backend: str = NATIVE
) -> Tensor:
    """The kernel call: x is 4-D, `packed` was made for its dtype."""
    x, nchw = to_nhwc(x)
    if residual is not None:
        residual, _ = to_nhwc(residual)
    out = _ops[backend](x, *packed[:-1], residual)
    return to_nchw(out) if nchw and not packed.channels_last else out


def _native_run(
    x: Tensor, dw_weight: Tensor, pw_weight: Tensor, *, residual: Tensor | None, backend: str, **options
) -> Tensor:
    return run_depthwise_pointwise(
        x, pack_depthwise_pointwise(dw_weight, pw_weight, x.dtype, **options), residual, backend
    )


def _fake(
    x: Tensor,
    dw: Tensor,
    dw_bias: Tensor | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    dw_act: int,
    pw: Tensor,
    pw_bias: Tensor | None,
    out_channels: int,
    pw_act: int,
    residual: Tensor | None,
) -> Tensor:
    return nhwc_empty(
        x, out_channels, conv_out_size("depthwise_pointwise", x.shape[2:], kernel, stride, padding, dilation)
    )


_TABLE = op_table("depthwise_pointwise", _native_run, reference.depthwise_pointwise)
_ops = backend_ops("depthwise_pointwise")
register_fake("depthwise_pointwise", _fake)
