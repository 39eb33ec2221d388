"""`bn_act_conv2d`: a convolution between two raw tensors."""

from typing import Any

import torch
from torch import Tensor

from lightops.ops._native import to_nhwc
from lightops.ops.training._op import PROLOGUE, by_name, define, innermost, nhwc_input, sums
from lightops.ops.training._prologue import Prologue, differentiate_prologue, prologue_fakes, prologue_grads
from lightops.reference import ACTIVATIONS
from lightops.reference import training as reference

_GEOMETRY = "int[2] stride, int[2] padding, int[2] dilation, int groups, bool pool"


def bn_act_conv2d(
    x: Tensor,
    prologue: Prologue,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    pool: bool = False,
    stats: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """`y = conv(act(bn(x)))` without its own norm and activation, and the batch mean and biased variance of y for them.

    The normalised input is never stored: backward recomputes it from x, which is the previous op's y. Batch norm: arXiv
    1502.03167; the layers of DenseNet (arXiv 1608.06993) and MobileNet (arXiv 1704.04861, 1801.04381).

    Args:
        pool: average over 2x2 pixels of act(bn(x)) before the (1x1) convolution, DenseNet's transition: the two
            commute.
        stats: whether the statistics of y are wanted; two empty tensors otherwise.

    Shapes: x `[N, C, H, W]`, any strides; weight `[O, C, kh, kw]`, or `[C, 1, kh, kw]` with groups = C; bias `[O]`;
    padding is zeros of act(bn(x)). y has channels innermost; mean and variance `[O]`.
    dtypes: float32, float64, bfloat16, float16 of x, weight and bias alike; sums and statistics in float32 (float64).
    Differentiable in x, the prologue's weight and bias, weight and bias, through y alone.
    Raises: TypeError for a non-tensor; ValueError for a non-4-D x or an unknown act; RuntimeError for a dtype,
    device, shape or channel mismatch, an illegal geometry, a kernel larger than the padded input, or statistics of
    an empty y.
    """
    x = nhwc_input("bn_act_conv2d", x)
    return _op(x, *prologue.flat(), weight, bias, stride, padding, dilation, groups, pool, stats, prologue.batch)


def _fake(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    act: int,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pool: bool,
    stats: bool,
    batch: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    channels = weight.shape[0]
    sizes = (
        (size // 2 if pool else size) + 2 * p - d * (k - 1) - 1
        for size, k, p, d in zip(x.shape[2:], weight.shape[2:], padding, dilation, strict=True)
    )
    y = innermost(x, (x.shape[0], channels, *(size // s + 1 for size, s in zip(sizes, stride, strict=True))))
    return y, sums(x, channels if stats else 0), sums(x, channels if stats else 0)


def _backward_fake(dy: Tensor, x: Tensor, mean: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
    weight, needs = args[5], args[-1]
    return (
        innermost(x, x.shape) if needs[0] else x.new_empty(0),
        *prologue_fakes(x, mean, needs[1]),
        x.new_empty(weight.shape if needs[2] else 0),
        x.new_empty(weight.shape[0] if needs[3] else 0),
    )


def _backward_reference(
    dy: Tensor,
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    act: int,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pool: bool,
    batch: bool,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    def forward(x: Tensor, gamma: Any, beta: Any, weight: Tensor, bias: Tensor | None) -> Tensor:
        args = (eps, ACTIVATIONS[act], weight, bias, stride, padding, dilation, groups, pool, False, batch)
        return reference.bn_act_conv2d(x, mean, var, gamma, beta, *args)[0]

    bias = weight.new_zeros(weight.shape[0]) if needs[3] else None
    *rest, dweight, dbias = differentiate_prologue(forward, dy, [x, mean, gamma, beta, weight, bias], needs)
    return *rest, dweight.contiguous(), dbias


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, mean, var, gamma, beta, ctx.eps, ctx.act, weight, _, *geometry, _, batch = inputs
    ctx.rest = (*geometry, batch)
    ctx.save_for_backward(x, mean, var, gamma, beta, weight)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple:
    if dy is None:
        return (None,) * 16
    x, mean, var, gamma, beta, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    wanted = [needs[0], needs[3] or needs[4], needs[7], needs[8]]
    dx, dgamma, dbeta, dweight, dbias = _backward_op(
        to_nhwc(dy)[0], x, mean, var, gamma, beta, ctx.eps, ctx.act, weight, *ctx.rest, wanted
    )
    return (
        dx if needs[0] else None,
        *prologue_grads(dgamma, dbeta, needs[1:7]),
        like(dweight, weight) if needs[7] else None,
        dbias if needs[8] else None,
        *(None,) * 7,
    )


def like(grad: Tensor, weight: Tensor) -> Tensor:
    """A weight's gradient in the weight's own layout and dtype, which DDP's buckets and optimizers expect."""
    if grad.dtype is weight.dtype:
        strides = weight.stride()
        if grad.stride() == strides:
            return grad
        # A 1x1 or depthwise weight lies alike in both layouts: only strides of dimensions of size 1 differ.
        if all(n == 1 or a == b for n, a, b in zip(weight.shape, grad.stride(), strides, strict=True)):
            return grad.as_strided(weight.shape, strides)
    return torch.empty_like(weight, memory_format=torch.preserve_format).copy_(grad)


def _supports(arguments: dict[str, Any]) -> str:
    groups, outputs, inputs = arguments["groups"], arguments["weight"].shape[0], arguments["x"].shape[1]
    return "" if groups == 1 or groups == outputs == inputs else "grouped convolutions have no kernel"


_backward_op = define(
    "bn_act_conv2d_backward",
    f"(Tensor dy, Tensor x, {PROLOGUE}, Tensor weight, {_GEOMETRY}, bool batch, bool[] needs) -> "
    "(Tensor dx, Tensor dgamma, Tensor dbeta, Tensor dweight, Tensor dbias)",
    _backward_reference,
    _backward_fake,
    supports=_supports,
)
_op = define(
    "bn_act_conv2d",
    f"(Tensor x, {PROLOGUE}, Tensor weight, Tensor? bias, {_GEOMETRY}, bool stats, bool batch) -> "
    "(Tensor y, Tensor mean_y, Tensor var_y)",
    by_name(reference.bn_act_conv2d, 6),
    _fake,
    supports=_supports,
    casts=("x", "weight", "bias"),
    setup=_setup,
    backward=_backward,
)
