"""`bn_relu_conv2d`: convolution with BN and activation applied while its input is loaded, and optionally again as its
output is stored."""

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
    check_weight,
    check_winograd,
    conv_out_size,
    pair,
)
from lightops.ops._dispatch import NATIVE, op_table
from lightops.ops._native import (
    ACT_CODE,
    affine,
    backend_ops,
    choose_algo,
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


class BNReLUConv2dPacked(NamedTuple):
    """BN as scale and shift `[C]`, packed weight, bias `[O]` and the geometry; `channels_last` is the layout of the
    weight it came from."""

    scale: Tensor | None
    shift: Tensor | None
    pre_act: int
    w: Tensor
    bias: Tensor | None
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    act: int
    algo: int
    channels_last: bool


def bn_relu_conv2d(
    x: Tensor,
    bn: BatchNormParams | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    act: str = "relu",
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    out_bn: BatchNormParams | None = None,
    out_act: str = "none",
    winograd: int = 2,
    backend: str = "auto",
) -> Tensor:
    """`out_act(out_bn(conv2d(act(bn(x)), weight) + bias))`: pre-activation convolution in one pass; the padding is
    zeros of the *activated* tensor.

    DenseNet's H() (arXiv 1608.06993) and the pre-activation residual unit (Identity Mappings, arXiv 1603.05027). With
    `bn=None, act="none"` and `out_bn`, `out_act` it is the ordinary conv-BN-activation.

    Shapes: x `[N, C, H, W]`, bn over C channels, weight `[O, C, kh, kw]`, bias `[O]`, out_bn over O channels; result
    `[N, O, (H + 2p - d(kh-1) - 1) // s + 1, ...]`. `winograd` is the output tile for a 3x3 of stride 1: 2, 4 (faster,
    larger rounding error) or 0 for the direct sum.
    dtypes: float32, bfloat16, float16, float64; sums in float32 (float64 for float64). bn may be float32 beside a
    half-precision x.
    Layout: any strides; computed with channels innermost. The result is channels_last when x or weight is, as stock
    returns it.
    Raises: TypeError for a non-tensor, or a stride, padding or dilation that is not an int or a pair;
    NotImplementedError for a sparse, quantized or nested tensor; ValueError for an unknown act or winograd, or a
    non-4-D x; RuntimeError for a dtype, device, shape or channel mismatch, an illegal geometry or a kernel larger than
    the padded input; BackendUnavailable when the backend asked for cannot serve.
    """
    op = "bn_relu_conv2d"
    check_input(op, x, bn_first=bn is not None)
    check_weight(op, "weight", weight, x, x.shape[1])
    check_bn(op, "bn", bn, x, x.shape[1])
    check_bias(op, "bias", bias, x, weight.shape[0])
    check_bn(op, "out_bn", out_bn, x, weight.shape[0])
    check_act(op, "act", act)
    check_act(op, "out_act", out_act)
    check_winograd(op, winograd)
    stride, padding, dilation = pair(op, "stride", stride), pair(op, "padding", padding), pair(op, "dilation", dilation)
    conv_out_size(op, x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return _TABLE.call(
        backend, x, bn, weight, bias, act=act, stride=stride, padding=padding, dilation=dilation,
        out_bn=out_bn, out_act=out_act, winograd=winograd,
    )  # fmt: skip


def pack_bn_relu_conv2d(
    bn: BatchNormParams | None,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    *,
    act: str = "relu",
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    out_bn: BatchNormParams | None = None,
    out_act: str = "none",
    winograd: int = 2,
) -> BNReLUConv2dPacked:
    """Fold and pack for activations of `dtype`."""
    kernel = (weight.shape[2], weight.shape[3])
    pairs = reads_pairs(dtype, weight)
    algo = 0 if pairs else choose_algo(winograd, kernel, dtype, stride, dilation)
    scale, shift = affine(bn, dtype)
    out_scale, bias = fold(bias, out_bn, dtype)
    w = pack_conv(weight, out_scale, dtype, algo, pairs=pairs)
    channels_last = suggests_channels_last(weight)
    return BNReLUConv2dPacked(
        scale,
        shift,
        ACT_CODE[act],
        w,
        bias,
        weight.shape[0],
        kernel,
        stride,
        padding,
        dilation,
        ACT_CODE[out_act],
        algo,
        channels_last,
    )


def run_bn_relu_conv2d(x: Tensor, packed: BNReLUConv2dPacked, backend: str = NATIVE) -> Tensor:
    """The kernel call: x is 4-D, `packed` was made for its dtype."""
    x, nchw = to_nhwc(x)
    out = _ops[backend](x, *packed[:-1])
    return to_nchw(out) if nchw and not packed.channels_last else out


def _native_run(
    x: Tensor, bn: BatchNormParams | None, weight: Tensor, bias: Tensor | None, *, backend: str, **options
) -> Tensor:
    return run_bn_relu_conv2d(x, pack_bn_relu_conv2d(bn, weight, bias, x.dtype, **options), backend)


def _fake(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    pre_act: int,
    w: Tensor,
    bias: Tensor | None,
    out_channels: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    act: int,
    algo: int,
) -> Tensor:
    return nhwc_empty(x, out_channels, conv_out_size("bn_relu_conv2d", x.shape[2:], kernel, stride, padding, dilation))


_TABLE = op_table("bn_relu_conv2d", _native_run, reference.bn_relu_conv2d)
_ops = backend_ops("bn_relu_conv2d")
register_fake("bn_relu_conv2d", _fake)
