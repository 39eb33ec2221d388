"""What a result is compared with: the reference in float64, and the magnitude S of the sums behind every element.

S is the op's formula evaluated in float64 with every term replaced by its absolute value: |x| for x, |weight| for
weight, (|x| + |mean|) * |scale| + |shift| for BN, the identity for an activation (ReLU and ReLU6 never enlarge an
error; hardswish and SiLU by at most 1.5). A 3x3 computed by Winograd sums other terms than the direct form, so its S is
the same algorithm with absolute values in place of its transforms.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightops import reference
from lightops.reference import BatchNormParams, DenseLayerParams
from lightops.testing.calls import Call
from lightops.testing.compare import check_bounded, check_exact
from lightops.testing.tolerances import chain_factor

# Largest slope of an activation: what an error in front of it can grow by.
_SLOPE = {"none": 1.0, "relu": 1.0, "relu6": 1.0, "hardswish": 1.5, "silu": 1.1}

# Transforms of the minimal filtering algorithm F(m x m, 3 x 3) (Lavin and Gray, arXiv 1509.09308): input B^T, weight G,
# output A^T.
_WINOGRAD = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}  # fmt: skip


class Truth(NamedTuple):
    """The float64 result and the magnitude S of every element."""

    expected: Tensor
    magnitude: Tensor


def truth(call: Call, actual: Tensor | None = None) -> Truth:
    """Reference result and magnitude of a call.

    For a dense block give `actual`: each layer is then judged on the channels that the layers before it really wrote,
    so that S stays the sum of one layer instead of growing with depth.
    """
    exact = call.map(lambda t: t.double())
    if call.op == "dense_block":
        return _dense_block(*exact.args, prefix=None if actual is None else actual.double(), winograd=_algo(call))
    kwargs = {key: value for key, value in exact.kwargs.items() if key != "winograd"}
    expected = getattr(reference, call.op)(*exact.args, **kwargs)
    return Truth(expected, _MAGNITUDE[call.op](*exact.args, **{**exact.kwargs, **_winograd_option(call)}))


class _Operands(TorchFunctionMode):
    """Collects what every convolution and matrix product reads."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (F.conv2d, F.linear):
            self.seen.append(args[0])
        return function(*args, **(kwargs or {}))


def operands(call: Call) -> list[Tensor]:
    """The activations that the call's products read, in float64. A kernel may round them to the call's dtype."""
    exact = call.map(lambda t: t.double())
    kwargs = {key: value for key, value in exact.kwargs.items() if key != "winograd"}
    with _Operands() as collected:
        getattr(reference, call.op)(*exact.args, **kwargs)
    return collected.seen


def judge(call: Call, kind: str, actual: Tensor) -> float:
    """Compare a result with the reference; the worst error in units of u * S, 0 for the exact oracle."""
    expected, magnitude = truth(call, actual)
    if kind == "exact":
        check_exact(actual, expected)
        return 0.0
    return check_bounded(actual, expected, magnitude, factor=chain_factor(longest_sum(call)))


def longest_sum(call: Call) -> int:
    """Terms of the longest convolution or matrix product in a call."""
    lengths = [1]

    def note(t: Tensor) -> Tensor:
        if t.dim() in (2, 4) and len(t):
            lengths.append(t[0].numel())
        return t

    weights = {key: value for key, value in call.kwargs.items() if key not in ("residual", "bypass")}
    Call(call.op, call.args[1:], weights).map(note)
    return max(lengths)


def _algo(call: Call) -> int:
    """float64 runs the direct sum whatever was asked for."""
    return 0 if call.args[0].dtype == torch.float64 else call.kwargs.get("winograd", 0)


def _winograd_option(call: Call) -> dict[str, int]:
    return {"winograd": _algo(call)} if "winograd" in call.kwargs else {}


def _bn(s: Tensor, bn: BatchNormParams | None) -> Tensor:
    """BN of a magnitude: the subtraction of the mean becomes a sum."""
    if bn is None:
        return s
    one = torch.ones_like(bn.running_mean)
    scale = (one if bn.weight is None else bn.weight.abs()) / (bn.running_var + bn.eps).sqrt()
    shift = 0 * one if bn.bias is None else bn.bias.abs()
    expand = (1, -1, 1, 1)
    return (s + bn.running_mean.abs().view(expand)) * scale.view(expand) + shift.view(expand)


def _conv(s: Tensor, weight: Tensor, bias: Tensor | None = None, algo: int = 0, **geometry) -> Tensor:
    bias = None if bias is None else bias.abs()
    if (
        algo == 0
        or weight.shape[2:] != (3, 3)
        or any(geometry.get(k, (1, 1)) != (1, 1) for k in ("stride", "dilation"))
    ):
        return F.conv2d(s, weight.abs(), bias, **geometry)
    out = winograd_magnitude(s, weight, algo, geometry.get("padding", (0, 0)))
    return out if bias is None else out + bias.view(1, -1, 1, 1)


def winograd_magnitude(s: Tensor, weight: Tensor, m: int, padding: tuple[int, int]) -> Tensor:
    """F(m x m, 3 x 3) on absolute values; tiles start at the output's origin, as the kernels' do."""
    bt, g, at = (torch.tensor(matrix, dtype=torch.float64) for matrix in _WINOGRAD[m])
    n, _, h, w = s.shape
    out_h, out_w = h + 2 * padding[0] - 2, w + 2 * padding[1] - 2
    rows, cols = -(-out_h // m), -(-out_w // m)
    s = F.pad(s, (padding[1], cols * m + 2 - w - padding[1], padding[0], rows * m + 2 - h - padding[0]))
    tiles = s.unfold(2, m + 2, m).unfold(3, m + 2, m)
    v = torch.einsum("ij,ncpqjk,lk->ncpqil", bt.abs(), tiles, bt.abs())
    u = torch.einsum("ij,ocjk,lk->ocil", g, weight, g).abs()
    # The transformed weight is rounded too, relative to the terms it is summed from.
    u = torch.maximum(u, torch.einsum("ij,ocjk,lk->ocil", g.abs(), weight.abs(), g.abs()))
    product = torch.einsum("ncpqil,ocil->nopqil", v, u)
    out = torch.einsum("ij,nopqjk,lk->nopiql", at.abs(), product, at.abs())
    return out.reshape(n, weight.shape[0], rows * m, cols * m)[:, :, :out_h, :out_w]


def _bn_relu_conv2d(x, bn, weight, bias, *, act, stride, padding, dilation, out_bn, out_act, winograd):
    s = _bn(x.abs(), bn) * _SLOPE[act]
    s = _conv(s, weight, bias, winograd, stride=stride, padding=padding, dilation=dilation)
    return _bn(s, out_bn) * _SLOPE[out_act]


def _conv1x1_bn_act(x, weight, bias, bn, *, act, residual):
    s = _bn(_conv(x.abs(), weight, bias), bn) * _SLOPE[act]
    return s if residual is None else s + residual.abs()


def _depthwise_pointwise(
    x, dw_weight, pw_weight, *, dw_bias, dw_bn, pw_bias, pw_bn, dw_act, pw_act, stride, padding, dilation, residual
):
    s = _conv(x.abs(), dw_weight, dw_bias, stride=stride, padding=padding, dilation=dilation, groups=x.shape[1])
    s = _bn(s, dw_bn) * _SLOPE[dw_act]
    s = _bn(_conv(s, pw_weight, pw_bias), pw_bn) * _SLOPE[pw_act]
    return s if residual is None else s + residual.abs()


def _inverted_residual(
    x,
    ex_weight,
    dw_weight,
    pw_weight,
    *,
    ex_bias,
    ex_bn,
    dw_bias,
    dw_bn,
    pw_bias,
    pw_bn,
    act,
    stride,
    padding,
    residual,
):
    s = _conv1x1_bn_act(x, ex_weight, ex_bias, ex_bn, act=act, residual=None)
    return _depthwise_pointwise(
        s, dw_weight, pw_weight, dw_bias=dw_bias, dw_bn=dw_bn, pw_bias=pw_bias, pw_bn=pw_bn, dw_act=act, pw_act="none",
        stride=stride, padding=padding, dilation=(1, 1), residual=x if residual else None,
    )  # fmt: skip


def _fire(x, squeeze_weight, squeeze_bias, e1_weight, e1_bias, e3_weight, e3_bias, *, bypass, winograd):
    s = _conv(x.abs(), squeeze_weight, squeeze_bias)
    out = torch.cat((_conv(s, e1_weight, e1_bias), _conv(s, e3_weight, e3_bias, winograd, padding=(1, 1))), 1)
    return out if bypass is None else out + bypass.abs()


def _dense_block(x: Tensor, layers: tuple[DenseLayerParams, ...], *, prefix: Tensor | None, winograd: int) -> Truth:
    expected, magnitude = x, x.abs()
    for layer in layers:
        channels = expected.shape[1]
        seen = expected if prefix is None or prefix.shape[1] < channels else prefix[:, :channels]
        s = _bn(seen.abs(), layer.bn1)
        if layer.weight2 is None:
            s = _conv(s, layer.weight1, algo=winograd, padding=(1, 1))
        else:
            s = _conv(_bn(_conv(s, layer.weight1), layer.bn2), layer.weight2, algo=winograd, padding=(1, 1))
        new = reference.dense_layer(seen, layer)[:, channels:]
        expected, magnitude = torch.cat((expected, new), 1), torch.cat((magnitude, s), 1)
    return Truth(expected, magnitude)


def _transition(x, bn, weight, bias):
    return F.avg_pool2d(_conv(_bn(x.abs(), bn), weight, bias), 2)


def _stem(x, weight, bias, bn, *, act, stride, padding, pool):
    s = _bn(_conv(x.abs(), weight, bias, stride=stride, padding=padding), bn) * _SLOPE[act]
    return s if pool is None else F.max_pool2d(s, pool.kernel, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)


def _head(x, bn, *, act, weight, bias):
    s = (_bn(x.abs(), bn) * _SLOPE[act]).mean((2, 3))
    return s if weight is None else F.linear(s, weight.flatten(1).abs(), None if bias is None else bias.abs())


def _max_pool2d(x, *, kernel, stride, padding, ceil_mode):
    """Nothing is summed, so nothing may be rounded."""
    return torch.zeros_like(reference.max_pool2d(x, kernel, stride, padding, ceil_mode))


_MAGNITUDE = {
    "bn_relu_conv2d": _bn_relu_conv2d,
    "conv1x1_bn_act": _conv1x1_bn_act,
    "depthwise_pointwise": _depthwise_pointwise,
    "fire": _fire,
    "head": _head,
    "inverted_residual": _inverted_residual,
    "max_pool2d": _max_pool2d,
    "stem": _stem,
    "transition": _transition,
}
