"""`dense_block_train`: a dense block on one buffer, forward and backward."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightops.ops._native import to_nhwc
from lightops.ops.training._op import define, differentiate, innermost, nhwc_input, sums
from lightops.ops.training.bn_act_conv2d import like
from lightops.reference import training as reference

_LAYERS = "Tensor[] params, float[] eps, Tensor?[] frozen, Tensor?[] masks, int growth, int bottleneck, int algo"


class DenseBlockOut(NamedTuple):
    """The buffer `[N, C + L*k, H, W]`; mean and biased variance of its channels, and of each layer's 1x1 output
    (`[L, b]`; `[L, 0]` without bottleneck)."""

    buffer: Tensor
    mean: Tensor
    var: Tensor
    middle_mean: Tensor
    middle_var: Tensor


def dense_block_train(
    x: Tensor,
    params: Sequence[Tensor | None],
    eps: Sequence[float],
    frozen: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
    growth: int,
    bottleneck: int,
    *,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    winograd: int = 2,
) -> DenseBlockOut:
    """`for H in layers: x = concat(x, H(x))` with H = BN-ReLU-conv1x1-BN-ReLU-conv3x3, or BN-ReLU-conv3x3 for a
    `bottleneck` of 0 (DenseNet, arXiv 1608.06993). Saves the buffer, the 1x1 outputs and vectors of channels.

    Args:
        params: per layer gamma1, beta1, w1, gamma2, beta2, w2, or gamma, beta, w. A gamma or beta may be None.
        eps: per norm. frozen: per norm a running mean and variance, or None and None for batch statistics; empty for
            none frozen.
        masks: per layer a scaled dropout mask `[N, k, H, W]` or None; empty for none.
        mean, var: x's own batch statistics, where they are known.

    Shapes: x `[N, C, H, W]`, any strides; w1 `[b, C + l*k, 1, 1]`, w2 `[k, b, 3, 3]`, w `[k, C + l*k, 3, 3]`.
    dtypes: float32, float64, bfloat16, float16 of x, weights and masks; gamma, beta and statistics float32 (float64).
    Differentiable in x and params, through the buffer alone.
    Raises: TypeError for a non-tensor; ValueError for a non-4-D x; RuntimeError for a dtype, device, shape or
    channel mismatch, or lists that are not of whole layers.
    """
    x = nhwc_input("dense_block_train", x)
    absent = sums(x, 0)
    given = [absent if p is None else p for p in params]
    masks = [None if m is None else to_nhwc(m)[0] for m in masks]
    algo = min(winograd, 2)  # training has no larger tile
    buffer, _, *stats = _op(x, mean, var, given, eps, frozen, masks, growth, bottleneck, algo)
    return DenseBlockOut(buffer, *stats)


def _present(params: Sequence[Tensor]) -> list[Tensor | None]:
    """A list with None in it carries no gradient through the dispatcher, so an absent parameter crosses it empty."""
    return [p if p.numel() else None for p in params]


def _reference(x: Tensor, mean: Any, var: Any, params: list[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    out = reference.dense_block_train(x, mean, var, _present(params), *rest)
    return (to_nhwc(out[0])[0], out[1].contiguous(memory_format=torch.channels_last), *out[2:])


def _fake(
    x: Tensor,
    mean: Any,
    var: Any,
    params: list[Tensor],
    eps: list[float],
    frozen: list[Any],
    masks: list[Any],
    growth: int,
    bottleneck: int,
    algo: int,
) -> tuple[Tensor, ...]:
    layers = len(eps) // (2 if bottleneck else 1)
    n, c, *size = x.shape
    channels = c + layers * growth
    middle = (layers * n, bottleneck) if bottleneck else (0, 0)
    vectors = [sums(x, channels), sums(x, channels), sums(x, layers, bottleneck), sums(x, layers, bottleneck)]
    return innermost(x, (n, channels, *size)), innermost(x, (*middle, *size)), *vectors


def _backward_reference(
    dbuffer: Tensor,
    buffer: Tensor,
    middle: Tensor,
    mean: Tensor,
    var: Tensor,
    middle_mean: Tensor,
    middle_var: Tensor,
    params: list[Tensor],
    eps: list[float],
    frozen: list[Any],
    masks: list[Any],
    growth: int,
    bottleneck: int,
    algo: int,
    needs: list[bool],
) -> tuple[Tensor, list[Tensor]]:
    layers = len(eps) // (2 if bottleneck else 1)

    def forward(x: Tensor, *params: Tensor) -> Tensor:
        rest = (eps, frozen, masks, growth, bottleneck, algo)
        return reference.dense_block_train(x, None, None, _present(params), *rest)[0]

    x = buffer[:, : buffer.shape[1] - layers * growth]
    wanted = [needs[0], *(need and p.numel() > 0 for p, need in zip(params, needs[1:], strict=True))]
    dx, *grads = differentiate(forward, [x, *params], wanted, dbuffer)
    dx = dx.contiguous(memory_format=torch.channels_last) if needs[0] else dx
    # A weight's gradient is of the weight's type, that of a vector of channels of the vector's.
    return dx, [g.contiguous() if g.numel() else sums(x, 0) for g in grads]


def _backward_fake(dbuffer: Tensor, buffer: Tensor, *args: Any) -> tuple[Tensor, list[Tensor]]:
    params, eps, _, _, growth, bottleneck, _, needs = args[5:]
    layers = len(eps) // (2 if bottleneck else 1)
    n, channels, *size = buffer.shape
    dx = innermost(buffer, (n, channels - layers * growth, *size)) if needs[0] else buffer.new_empty(0)
    wanted = zip(params, needs[1:], strict=True)
    return dx, [p.new_empty(p.shape) if need and p.numel() else sums(buffer, 0) for p, need in wanted]


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    _, _, _, params, ctx.eps, frozen, masks, *ctx.sizes = inputs
    # save_for_backward takes no lists.
    ctx.lists = [len(params), len(frozen), len(masks)]
    ctx.no_grads = [_no_grads(frozen), _no_grads(masks)]
    ctx.save_for_backward(*output, *params, *frozen, *masks)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _no_grads(items: list[Tensor | None]) -> list[None] | None:
    """No gradient, in the structure that the autograd of lists wants: a list with None in it counts as no tensors."""
    return [None] * len(items) if all(isinstance(item, Tensor) for item in items) else None


def _backward(ctx: Any, dbuffer: Tensor | None, *_: None) -> tuple:
    if dbuffer is None:
        return None, None, None, [None] * ctx.lists[0], None, *ctx.no_grads, None, None, None
    saved = ctx.saved_tensors
    out, lists = saved[:6], saved[6:]
    split = []
    for length in ctx.lists:
        split.append(list(lists[:length]))
        lists = lists[length:]
    params, frozen, masks = split
    needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[3]]
    dx, grads = _backward_op(to_nhwc(dbuffer)[0], *out, params, ctx.eps, frozen, masks, *ctx.sizes, needs)
    dparams = [like(g, p) if need and p.numel() else None for g, p, need in zip(grads, params, needs[1:], strict=True)]
    return dx if needs[0] else None, None, None, dparams, None, *ctx.no_grads, None, None, None


_backward_op = define(
    "dense_block_train_backward",
    "(Tensor dbuffer, Tensor buffer, Tensor middle, Tensor mean, Tensor var, Tensor middle_mean, Tensor middle_var, "
    f"{_LAYERS}, bool[] needs) -> (Tensor dx, Tensor[] dparams)",
    _backward_reference,
    _backward_fake,
)
_op = define(
    "dense_block_train",
    f"(Tensor x, Tensor? mean_x, Tensor? var_x, {_LAYERS}) -> (Tensor buffer, "
    "Tensor middle, Tensor mean, Tensor var, Tensor middle_mean, Tensor middle_var)",
    _reference,
    _fake,
    casts=("x", "params", "masks"),
    setup=_setup,
    backward=_backward,
)
