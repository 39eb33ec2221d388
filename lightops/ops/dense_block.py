"""`dense_block`, `dense_layer`: every layer reads the channel prefix of one buffer and writes its channels in place
behind it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightops import reference
from lightops.ops._check import check_bn, check_input, check_map, check_weight, check_winograd
from lightops.ops._dispatch import NATIVE, op_table
from lightops.ops._native import (
    affine,
    backend_ops,
    choose_algo,
    fold,
    nhwc_empty,
    pack_conv,
    reads_pairs,
    register_fake,
    to_nchw,
    to_nhwc,
)
from lightops.reference import DenseLayerParams


class DenseBlockPacked(NamedTuple):
    """Per layer, flat: scale1, shift1, w1 (bn2's scale folded in), bias1 (bn2's shift), w2; without bottleneck: scale,
    shift, w."""

    params: tuple[Tensor, ...]
    in_channels: int
    growth: int
    bottleneck: int
    algo: int
    out_channels: int


def dense_block(x: Tensor, layers: Sequence[DenseLayerParams], *, winograd: int = 2, backend: str = "auto") -> Tensor:
    """`for H in layers: x = concat(x, H(x))`, H = BN-ReLU-conv1x1-BN-ReLU-conv3x3 or BN-ReLU-conv3x3, on one buffer and
    without a copy.

    DenseNet and DenseNet-BC (arXiv 1608.06993). The bottleneck's 1x1 result stays in cache; each layer's k channels are
    stored once, at their place.

    Shapes: x `[N, C, H, W]`; layer l (0-based) reads c = C + l*k channels: bn1 over c, weight1 `[b, c, 1, 1]`, bn2 over
    b, weight2 `[k, b, 3, 3]`, or without bottleneck weight1 `[k, c, 3, 3]`; padding 1. k and b are the same in all
    layers. Result `[N, C + L*k, H, W]`; its first C channels are x. `winograd` is the 3x3's output tile: 2, 4 (faster,
    larger rounding error) or 0 for the direct sum.
    dtypes: float32, bfloat16, float16, float64; sums in float32 (float64 for float64). BN may be float32 beside a
    half-precision x.
    Layout: any strides; computed with channels innermost. The result is channels_last when x is, as stock returns it.
    Raises: TypeError for a non-tensor or an empty or wrong layer list; NotImplementedError for a sparse, quantized or
    nested tensor; ValueError for a non-4-D x or an unknown winograd; RuntimeError for a dtype, device, shape or channel
    mismatch; BackendUnavailable when the backend asked for cannot serve.
    """
    op = "dense_block"
    check_input(op, x, bn_first=True)
    check_winograd(op, winograd)
    layers = tuple(layers)
    if not layers or not all(isinstance(layer, DenseLayerParams) for layer in layers):
        raise TypeError(
            f"{op}: argument 'layers' got {[type(layer).__name__ for layer in layers]}, "
            "wants at least one DenseLayerParams"
        )
    check_map(op, x)
    channels = x.shape[1]
    for i, layer in enumerate(layers):
        _check_layer(op, f"layers[{i}]", layer, x, channels, layers[0])
        channels += _growth(layers[0])
    return _TABLE.call(backend, x, layers, winograd=winograd)


def dense_layer(x: Tensor, layer: DenseLayerParams, *, winograd: int = 2, backend: str = "auto") -> Tensor:
    """`concat(x, H(x))`: a dense block of one layer; contract, layout and errors of `dense_block`."""
    return dense_block(x, (layer,), winograd=winograd, backend=backend)


def pack_dense_block(layers: Sequence[DenseLayerParams], dtype: torch.dtype, winograd: int = 2) -> DenseBlockPacked:
    """Fold and pack for activations of `dtype`."""
    first = layers[0]
    pairs = reads_pairs(dtype, *(w for layer in layers for w in (layer.weight1, layer.weight2) if w is not None))
    algo = 0 if pairs else choose_algo(winograd, (3, 3), dtype)
    params: list[Tensor] = []
    for bn1, weight1, bn2, weight2 in layers:
        params += affine(bn1, dtype)
        if weight2 is None:
            params.append(pack_conv(weight1, None, dtype, algo, pairs=pairs))
        else:
            scale2, shift2 = fold(None, bn2, dtype)
            w1 = pack_conv(weight1, scale2, dtype, pairs=pairs)
            params += (w1, shift2, pack_conv(weight2, None, dtype, algo, pairs=pairs))
    in_channels, growth = first.weight1.shape[1], _growth(first)
    bottleneck = 0 if first.weight2 is None else first.weight1.shape[0]
    return DenseBlockPacked(tuple(params), in_channels, growth, bottleneck, algo, in_channels + len(layers) * growth)


def run_dense_block(x: Tensor, packed: DenseBlockPacked, backend: str = NATIVE) -> Tensor:
    """The kernel call: x is 4-D, `packed` was made for its dtype.

    Allocates the block's buffer and copies x into its prefix.
    """
    x, nchw = to_nhwc(x)
    out = _ops[backend](x, packed.params, packed.growth, packed.bottleneck, packed.algo)
    return to_nchw(out) if nchw else out


def run_dense_block_(buffer: Tensor, packed: DenseBlockPacked, backend: str = NATIVE) -> Tensor:
    """The kernel call in place: `buffer` `[N, out_channels, H, W]`, channels_last, already holds the first
    `in_channels` channels. Returns it."""
    _ops_in_place[backend](buffer, packed.params, packed.in_channels, packed.growth, packed.bottleneck, packed.algo)
    return buffer


def _growth(layer: DenseLayerParams) -> int:
    return (layer.weight1 if layer.weight2 is None else layer.weight2).shape[0]


def _check_layer(op: str, arg: str, layer: DenseLayerParams, x: Tensor, channels: int, first: DenseLayerParams) -> None:
    if (
        layer.bn1 is None
        or (layer.bn2 is None) != (layer.weight2 is None)
        or (layer.weight2 is None) != (first.weight2 is None)
    ):
        raise TypeError(
            f"{op}: argument {arg!r} wants bn1 and weight1, "
            "and either both or neither of bn2 and weight2, alike in all layers"
        )
    kernel = (3, 3) if layer.weight2 is None else (1, 1)
    check_weight(op, f"{arg}.weight1", layer.weight1, x, channels, kernel=kernel)
    check_bn(op, f"{arg}.bn1", layer.bn1, x, channels)
    if layer.weight2 is not None:
        check_weight(op, f"{arg}.weight2", layer.weight2, x, layer.weight1.shape[0], kernel=(3, 3))
        check_bn(op, f"{arg}.bn2", layer.bn2, x, layer.weight1.shape[0])
    if layer.weight1.shape[0] != first.weight1.shape[0] or _growth(layer) != _growth(first):
        raise RuntimeError(
            f"{op}: argument {arg!r} got width {layer.weight1.shape[0]} and growth {_growth(layer)}, "
            f"wants {first.weight1.shape[0]} and {_growth(first)} as layer 0"
        )


def _native_run(x: Tensor, layers: Sequence[DenseLayerParams], *, winograd: int, backend: str) -> Tensor:
    return run_dense_block(x, pack_dense_block(layers, x.dtype, winograd), backend)


def _fake(x: Tensor, params: list[Tensor], growth: int, bottleneck: int, algo: int) -> Tensor:
    layers = len(params) // (5 if bottleneck else 3)
    return nhwc_empty(x, x.shape[1] + layers * growth, x.shape[2:])


def _fake_(buffer: Tensor, params: list[Tensor], in_channels: int, growth: int, bottleneck: int, algo: int) -> None:
    return None


_TABLE = op_table("dense_block", _native_run, reference.dense_block)
_ops = backend_ops("dense_block")
_ops_in_place = backend_ops("dense_block_")
register_fake("dense_block", _fake)
register_fake("dense_block_", _fake_)
