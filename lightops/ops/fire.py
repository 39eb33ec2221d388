"""`fire`: the squeeze tile stays in cache and both expands write side by side into one output."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightops import reference
from lightops.ops._check import check_addend, check_bias, check_input, check_map, check_weight, check_winograd
from lightops.ops._dispatch import NATIVE, op_table
from lightops.ops._native import (
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


class FirePacked(NamedTuple):
    """The three packed weights, their biases and widths; `channels_last` is the layout of the expand weights."""

    sq: Tensor
    sq_bias: Tensor | None
    squeeze: int
    e1: Tensor
    e1_bias: Tensor | None
    expand1: int
    e3: Tensor
    e3_bias: Tensor | None
    expand3: int
    algo: int
    channels_last: bool


def fire(
    x: Tensor,
    squeeze_weight: Tensor,
    squeeze_bias: Tensor | None,
    expand1x1_weight: Tensor,
    expand1x1_bias: Tensor | None,
    expand3x3_weight: Tensor,
    expand3x3_bias: Tensor | None,
    *,
    bypass: Tensor | None = None,
    winograd: int = 2,
    backend: str = "auto",
) -> Tensor:
    """`s = relu(squeeze(x)); concat(relu(expand1x1(s)), relu(expand3x3(s))) + bypass`: the squeeze result never leaves
    cache, no concat copy.

    The Fire module of SqueezeNet (arXiv 1602.07360, section 3.2); `bypass` is x itself (simple) or a 1x1 convolution of
    it (complex, section 6).

    Shapes: x `[N, C, H, W]`, squeeze_weight `[S, C, 1, 1]`, expand1x1_weight `[E1, S, 1, 1]`, expand3x3_weight `[E3, S,
    3, 3]` (padding 1), biases of matching length or None, bypass and result `[N, E1 + E3, H, W]`. `winograd` is the
    3x3's output tile: 2, 4 (faster, larger rounding error) or 0 for the direct sum.
    dtypes: float32, bfloat16, float16, float64; sums in float32 (float64 for float64).
    Layout: any strides; computed with channels innermost. The result is channels_last when x or both expand weights
    are, as stock returns it.
    Raises: TypeError for a non-tensor; NotImplementedError for a sparse, quantized or nested one; ValueError for an
    unknown winograd; RuntimeError for a non-4-D x, or a dtype, device, shape or channel mismatch; BackendUnavailable
    when the backend asked for cannot serve.
    """
    op = "fire"
    check_input(op, x)
    check_weight(op, "squeeze_weight", squeeze_weight, x, x.shape[1], kernel=(1, 1))
    squeeze = squeeze_weight.shape[0]
    check_weight(op, "expand1x1_weight", expand1x1_weight, x, squeeze, kernel=(1, 1))
    check_weight(op, "expand3x3_weight", expand3x3_weight, x, squeeze, kernel=(3, 3))
    check_bias(op, "squeeze_bias", squeeze_bias, x, squeeze)
    check_bias(op, "expand1x1_bias", expand1x1_bias, x, expand1x1_weight.shape[0])
    check_bias(op, "expand3x3_bias", expand3x3_bias, x, expand3x3_weight.shape[0])
    check_winograd(op, winograd)
    check_map(op, x)
    check_addend(
        op, "bypass", bypass, x, (x.shape[0], expand1x1_weight.shape[0] + expand3x3_weight.shape[0], *x.shape[2:])
    )
    return _TABLE.call(
        backend,
        x,
        squeeze_weight,
        squeeze_bias,
        expand1x1_weight,
        expand1x1_bias,
        expand3x3_weight,
        expand3x3_bias,
        bypass=bypass,
        winograd=winograd,
    )


def pack_fire(
    squeeze_weight: Tensor,
    squeeze_bias: Tensor | None,
    expand1x1_weight: Tensor,
    expand1x1_bias: Tensor | None,
    expand3x3_weight: Tensor,
    expand3x3_bias: Tensor | None,
    dtype: torch.dtype,
    winograd: int = 2,
) -> FirePacked:
    """Pack for activations of `dtype`."""
    pairs = reads_pairs(dtype, squeeze_weight, expand1x1_weight, expand3x3_weight)
    algo = 0 if pairs else choose_algo(winograd, (3, 3), dtype)
    sq, e1 = (pack_conv(w, None, dtype, pairs=pairs) for w in (squeeze_weight, expand1x1_weight))
    e3 = pack_conv(expand3x3_weight, None, dtype, algo, pairs=pairs)
    return FirePacked(
        sq, fold(squeeze_bias, None, dtype)[1], squeeze_weight.shape[0],
        e1, fold(expand1x1_bias, None, dtype)[1], expand1x1_weight.shape[0],
        e3, fold(expand3x3_bias, None, dtype)[1], expand3x3_weight.shape[0],
        algo, suggests_channels_last(expand1x1_weight) and suggests_channels_last(expand3x3_weight),
    )  # fmt: skip


def run_fire(x: Tensor, packed: FirePacked, bypass: Tensor | None = None, backend: str = NATIVE) -> Tensor:
    """The kernel call: x is 4-D, `packed` was made for its dtype."""
    x, nchw = to_nhwc(x)
    if bypass is not None:
        bypass, _ = to_nhwc(bypass)
    out = _ops[backend](x, *packed[:-1], bypass)
    return to_nchw(out) if nchw and not packed.channels_last else out


def _native_run(x: Tensor, *weights: Tensor | None, bypass: Tensor | None, winograd: int, backend: str) -> Tensor:
    return run_fire(x, pack_fire(*weights, x.dtype, winograd), bypass, backend)


def _fake(
    x: Tensor,
    sq: Tensor,
    sq_bias: Tensor | None,
    squeeze: int,
    e1: Tensor,
    e1_bias: Tensor | None,
    expand1: int,
    e3: Tensor,
    e3_bias: Tensor | None,
    expand3: int,
    algo: int,
    bypass: Tensor | None,
) -> Tensor:
    return nhwc_empty(x, expand1 + expand3, x.shape[2:])


_TABLE = op_table("fire", _native_run, reference.fire)
_ops = backend_ops("fire")
register_fake("fire", _fake)
