"""From a case (shapes and options) to a call: the arguments of the public op, drawn from a fill."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from lightops.reference import BatchNormParams, DenseLayerParams, MaxPool
from lightops.testing.fill import Fill


@dataclass(frozen=True)
class Case:
    """One shape of one op.

    `x` is [N, C, H, W]; `options` are the op's sizes and switches (see the builder of the op).
    """

    op: str
    name: str
    x: tuple[int, int, int, int]
    options: dict[str, Any] = field(default_factory=dict)

    def with_batch(self, batch: int) -> "Case":
        return Case(self.op, self.name, (batch, *self.x[1:]), self.options)


class Call(NamedTuple):
    """Arguments of `lightops.ops.<op>` and, without `winograd`, of `lightops.reference.<op>`; `args[0]` is x."""

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Call":
        """The call with every tensor replaced."""
        return Call(self.op, map_tensors(self.args, function), map_tensors(self.kwargs, function))


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply `function` to every tensor in nested tuples, named tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, function) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, function) for item in value)
    return value


def build_call(case: Case, fill: Fill) -> Call:
    """Draw the tensors of a case."""
    args, kwargs = _BUILDERS[case.op](case.x, fill, **case.options)
    return Call(case.op, args, kwargs)


def _maybe_bn(fill: Fill, wanted: bool, channels: int) -> BatchNormParams | None:
    return fill.bn(channels) if wanted else None


def _maybe_bias(fill: Fill, wanted: bool, channels: int) -> Tensor | None:
    return fill.bias(channels) if wanted else None


def _out_hw(x: tuple[int, ...], kernel, stride, padding, dilation=(1, 1)) -> tuple[int, int]:
    return tuple((x[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1))


def _bn_relu_conv2d(
    x, fill, *, out, kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1),
    bn=True, act="relu", bias=False, out_bn=False, out_act="none", winograd=2,
):  # fmt: skip
    first = _maybe_bn(fill, bn, x[1])
    weight = fill.weight((out, x[1], *kernel))
    args = (fill.x(x, first), first, weight, _maybe_bias(fill, bias, out))
    return args, {
        "act": act, "stride": stride, "padding": padding, "dilation": dilation,
        "out_bn": _maybe_bn(fill, out_bn, out), "out_act": out_act, "winograd": winograd,
    }  # fmt: skip


def _conv1x1_bn_act(x, fill, *, out, bias=False, bn=True, act="relu6", residual=False):
    args = (fill.x(x), fill.weight((out, x[1], 1, 1)), _maybe_bias(fill, bias, out), _maybe_bn(fill, bn, out))
    return args, {"act": act, "residual": fill.x((x[0], out, *x[2:])) if residual else None}


def _depthwise_pointwise(
    x, fill, *, out, kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1),
    dw_bias=False, dw_bn=True, pw_bias=False, pw_bn=True, dw_act="relu", pw_act="relu", residual=False,
):  # fmt: skip
    args = (fill.x(x), fill.weight((x[1], 1, *kernel)), fill.weight((out, x[1], 1, 1)))
    kwargs = {
        "dw_bias": _maybe_bias(fill, dw_bias, x[1]), "dw_bn": _maybe_bn(fill, dw_bn, x[1]),
        "pw_bias": _maybe_bias(fill, pw_bias, out), "pw_bn": _maybe_bn(fill, pw_bn, out),
        "dw_act": dw_act, "pw_act": pw_act, "stride": stride, "padding": padding, "dilation": dilation,
    }  # fmt: skip
    out_shape = (x[0], out, *_out_hw(x, kernel, stride, padding, dilation))
    return args, {**kwargs, "residual": fill.x(out_shape) if residual else None}


def _inverted_residual(
    x,
    fill,
    *,
    hidden,
    out,
    kernel=(3, 3),
    stride=(1, 1),
    padding=(1, 1),
    act="relu6",
    bn=True,
    bias=False,
    residual=False,
):
    args = (
        fill.x(x),
        fill.weight((hidden, x[1], 1, 1)),
        fill.weight((hidden, 1, *kernel)),
        fill.weight((out, hidden, 1, 1)),
    )
    kwargs: dict[str, Any] = {"act": act, "stride": stride, "padding": padding, "residual": residual}
    for prefix, channels in (("ex", hidden), ("dw", hidden), ("pw", out)):
        kwargs[f"{prefix}_bias"] = _maybe_bias(fill, bias, channels)
        kwargs[f"{prefix}_bn"] = _maybe_bn(fill, bn, channels)
    return args, kwargs


def _fire(x, fill, *, squeeze, expand1, expand3, bias=True, bypass=False, winograd=2):
    args = (
        fill.x(x),
        fill.weight((squeeze, x[1], 1, 1)), _maybe_bias(fill, bias, squeeze),
        fill.weight((expand1, squeeze, 1, 1)), _maybe_bias(fill, bias, expand1),
        fill.weight((expand3, squeeze, 3, 3)), _maybe_bias(fill, bias, expand3),
    )  # fmt: skip
    return args, {"bypass": fill.x((x[0], expand1 + expand3, *x[2:])) if bypass else None, "winograd": winograd}


def _dense_block(x, fill, *, layers, growth, bottleneck=0, winograd=2):
    params, calm = [], layers > 4
    for i in range(layers):
        channels = x[1] + i * growth
        bn1 = fill.bn(channels, calm=calm)
        if bottleneck:
            weight1, bn2 = fill.weight((bottleneck, channels, 1, 1)), fill.bn(bottleneck, calm=calm)
            params.append(DenseLayerParams(bn1, weight1, bn2, fill.weight((growth, bottleneck, 3, 3))))
        else:
            params.append(DenseLayerParams(bn1, fill.weight((growth, channels, 3, 3))))
    prefix = params[0].bn1
    return (fill.x(x, prefix), tuple(params)), {"winograd": winograd}


def _transition(x, fill, *, out, bias=False):
    bn = fill.bn(x[1])
    return (fill.x(x, bn), bn, fill.weight((out, x[1], 1, 1)), _maybe_bias(fill, bias, out)), {}


def _stem(x, fill, *, out, kernel=(3, 3), stride=(2, 2), padding=(1, 1), bias=False, bn=True, act="relu", pool=None):
    args = (fill.x(x), fill.weight((out, x[1], *kernel)), _maybe_bias(fill, bias, out), _maybe_bn(fill, bn, out))
    return args, {"act": act, "stride": stride, "padding": padding, "pool": None if pool is None else MaxPool(*pool)}


def _head(x, fill, *, bn=False, act="none", out=0, bias=True):
    first = _maybe_bn(fill, bn, x[1])
    weight = fill.weight((out, x[1], 1, 1)).flatten(1) if out else None
    return (fill.x(x, first), first), {"act": act, "weight": weight, "bias": _maybe_bias(fill, bias and out > 0, out)}


def _max_pool2d(x, fill, *, kernel=(3, 3), stride=(2, 2), padding=(0, 0), ceil_mode=False):
    return (fill.x(x),), {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}


_BUILDERS = {
    "bn_relu_conv2d": _bn_relu_conv2d,
    "conv1x1_bn_act": _conv1x1_bn_act,
    "depthwise_pointwise": _depthwise_pointwise,
    "dense_block": _dense_block,
    "fire": _fire,
    "head": _head,
    "inverted_residual": _inverted_residual,
    "max_pool2d": _max_pool2d,
    "stem": _stem,
    "transition": _transition,
}
OPS = tuple(sorted(_BUILDERS))
# A pool has no weights that x could disagree with.
WEIGHTED_OPS = tuple(op for op in OPS if op != "max_pool2d")
