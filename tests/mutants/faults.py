"""Faults planted into the running package: each one a mistake that somebody could make, named for what it gets wrong.

A fault is a function of the op's stem that patches `lightops.ops.<op>` (or what packing takes from `_native`) for the
life of the process.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightops import reference
from lightops.ops import _native
from lightops.reference import BatchNormParams

Fault = Callable[[str], None]


def _module(op: str) -> Any:
    return importlib.import_module(f"lightops.ops.{op}")


def _after_kernel(change: Callable[[Tensor], Tensor]) -> Fault:
    """The kernel's result is replaced by `change(result)`."""

    def plant(op: str) -> None:
        module = _module(op)
        kernel = module._ops["cpu"]
        module._ops["cpu"] = lambda *args: change(kernel(*args))

    return plant


def _before_kernel(change: Callable[[dict[str, Any]], None]) -> Fault:
    """`change` edits the kernel's arguments, given by their schema names."""

    def plant(op: str) -> None:
        module = _module(op)
        kernel = module._ops["cpu"]
        names = [argument.name for argument in kernel._schema.arguments]

        def run(*args: Any) -> Tensor:
            named = dict(zip(names, args, strict=True))
            change(named)
            return kernel(*named.values())

        module._ops["cpu"] = run

    return plant


def _packing(name: str, change: Callable[..., Any]) -> Fault:
    """`change(original, *args)` stands in for `_native.<name>` in the op's module."""

    def plant(op: str) -> None:
        module, original = _module(op), getattr(_native, name)
        if hasattr(module, name):
            setattr(module, name, lambda *args, **kwargs: change(original, *args, **kwargs))

    return plant


def _statistics(change: Callable[[BatchNormParams], BatchNormParams]) -> Fault:
    """Every fold sees `change(bn)`."""

    def plant(op: str) -> None:
        del op
        _native.bn_affine = lambda bn: reference.bn_affine(change(bn))

    return plant


def _edit(index: tuple, value: float) -> Callable[[Tensor], Tensor]:
    def change(out: Tensor) -> Tensor:
        if out.numel():
            out[index] = value
        return out

    return change


def _input_overwritten(named: dict[str, Any]) -> None:
    if named["x"].numel():
        named["x"].view(-1)[0] = 0 if named["x"].is_contiguous() else named["x"].view(-1)[0]
        named["x"][:1].mul_(1.01)


def _drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda named: named.update({name: None})


def _first_fold_kept(original: Callable, *args: Any, **kwargs: Any) -> Any:
    """A cache keyed by shape alone: the weights of the first call serve every later one of the same shape."""
    key = tuple(tuple(a.shape) if isinstance(a, Tensor) else str(a) for a in args if not isinstance(a, BatchNormParams))
    if key not in _kept:
        _kept[key] = original(*args, **kwargs)
    return _kept[key]


_kept: dict[tuple, Any] = {}


def _without_tap(original: Callable, weight: Tensor, *args: Any, **named: Any) -> Tensor:
    weight = weight.clone()
    weight[:, :, -1, -1] = 0
    return original(weight, *args, **named)


def _transposed_taps(original: Callable, weight: Tensor, *args: Any, **named: Any) -> Tensor:
    square = weight.shape[2] == weight.shape[3]
    return original(weight.transpose(2, 3) if square else weight, *args, **named)


def _without_last_input(original: Callable, weight: Tensor, *args: Any, **named: Any) -> Tensor:
    weight = weight.clone()
    weight[:, -1] = 0
    return original(weight, *args, **named)


def _strided_wrongly(named: dict[str, Any]) -> None:
    """Rows by the stride of columns: wrong only where the two differ."""
    named["stride"] = (named["stride"][1], named["stride"][1])


def _padding_shifted(named: dict[str, Any]) -> None:
    """Columns padded like rows."""
    named["padding"] = (named["padding"][0], named["padding"][0])


def _half_precision(out: Tensor) -> Tensor:
    return out.bfloat16().to(out.dtype)


def _every_other_batch(out: Tensor) -> Tensor:
    if out.shape[0] > 1:
        out[1] = out[0]
    return out


# name -> (what is planted, the ops whose suites must notice it)
FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    "scale_one_percent": (_after_kernel(lambda out: out * 1.01), ("fire", "head", "stem")),
    "scale_one_ppm": (_after_kernel(lambda out: out * (1 + 2.0**-20)), ("conv1x1_bn_act", "transition")),
    "bias_half": (_after_kernel(lambda out: out + 0.5), ("depthwise_pointwise",)),
    "last_row_zero": (
        _after_kernel(_edit((..., slice(-1, None), slice(None)), 0.0)),
        ("bn_relu_conv2d", "inverted_residual"),
    ),
    "last_column_zero": (_after_kernel(_edit((..., slice(None), slice(-1, None)), 0.0)), ("transition", "fire")),
    "channels_reversed": (_after_kernel(lambda out: out.flip(1)), ("dense_block", "fire", "head")),
    "last_channel_zero": (
        _after_kernel(_edit((slice(None), slice(-1, None)), 0.0)),
        ("conv1x1_bn_act", "max_pool2d", "stem"),
    ),
    "relu_leaks": (_after_kernel(lambda out: torch.where(out == 0, -0.1, out).to(out.dtype)), ("fire", "stem")),
    "rounded_to_bfloat16": (_after_kernel(_half_precision), ("bn_relu_conv2d", "depthwise_pointwise")),
    "second_image_copied": (_after_kernel(_every_other_batch), ("inverted_residual", "head")),
    "nan_dropped": (
        _after_kernel(lambda out: out.nan_to_num(0.0, float("inf"), -float("inf"))),
        ("fire", "bn_relu_conv2d", "max_pool2d"),
    ),
    "nchw_result": (_after_kernel(lambda out: out.contiguous()), ("conv1x1_bn_act", "dense_block", "max_pool2d")),
    "wrong_dtype": (_after_kernel(lambda out: out.float()), ("transition",)),
    "input_overwritten": (_before_kernel(_input_overwritten), ("fire", "stem")),
    "residual_dropped": (_before_kernel(_drop("residual")), ("conv1x1_bn_act", "depthwise_pointwise")),
    "bypass_dropped": (_before_kernel(_drop("bypass")), ("fire",)),
    "bias_dropped": (_before_kernel(_drop("bias")), ("stem", "transition")),
    "squeeze_bias_dropped": (_before_kernel(_drop("sq_bias")), ("fire",)),
    "relu6_for_relu": (
        _before_kernel(lambda named: named.update(act=2 if named["act"] == 1 else named["act"])),
        ("head", "stem"),
    ),
    "pre_activation_skipped": (_before_kernel(lambda named: named.update(pre_act=0)), ("bn_relu_conv2d",)),
    "stride_of_columns": (
        _before_kernel(_strided_wrongly),
        ("bn_relu_conv2d", "depthwise_pointwise", "max_pool2d", "stem"),
    ),
    "padding_of_rows": (_before_kernel(_padding_shifted), ("inverted_residual", "max_pool2d", "stem")),
    "floor_mode": (_before_kernel(lambda named: named.update(ceil_mode=False)), ("max_pool2d",)),
    "no_dilation": (_before_kernel(lambda named: named.update(dilation=(1, 1))), ("bn_relu_conv2d",)),
    "stale_fold": (_packing("pack_conv", _first_fold_kept), ("conv1x1_bn_act", "dense_block")),
    "stale_affine": (_packing("affine", _first_fold_kept), ("transition", "bn_relu_conv2d")),
    "dropped_tap": (_packing("pack_conv", _without_tap), ("dense_block", "stem")),
    "dropped_depthwise_tap": (_packing("pack_depthwise", _without_tap), ("depthwise_pointwise", "inverted_residual")),
    "taps_transposed": (_packing("pack_conv", _transposed_taps), ("fire", "bn_relu_conv2d")),
    "last_input_channel": (_packing("pack_conv", _without_last_input), ("head", "inverted_residual")),
    "scale_not_folded": (
        _packing("pack_conv", lambda original, w, scale, *rest, **named: original(w, None, *rest, **named)),
        ("stem", "dense_block"),
    ),
    "eps_outside_the_root": (
        _statistics(lambda bn: bn._replace(running_var=(bn.running_var.double().sqrt() + bn.eps) ** 2, eps=0.0)),
        ("transition", "conv1x1_bn_act"),
    ),
    "eps_1e-3": (_statistics(lambda bn: bn._replace(eps=1e-3)), ("head", "dense_block")),
    "variance_biased": (
        _statistics(lambda bn: bn._replace(running_var=bn.running_var * 1.001)),
        ("bn_relu_conv2d", "stem"),
    ),
    "mean_ignored": (_statistics(lambda bn: bn._replace(running_mean=bn.running_mean * 0)), ("transition",)),
    "negative_gamma": (
        _statistics(lambda bn: bn._replace(weight=None if bn.weight is None else bn.weight.abs())),
        ("head",),
    ),
    "variance_clamped": (
        _statistics(lambda bn: bn._replace(running_var=bn.running_var.clamp(min=0))),
        ("depthwise_pointwise",),
    ),
}
