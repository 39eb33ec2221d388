"""`fire_train`: a Fire module that keeps its input and its result, and squeezes again for backward."""

from typing import Any

import torch
from torch import Tensor

from lightops.ops._native import to_nhwc
from lightops.ops.training._op import define, differentiate, innermost, nhwc_input
from lightops.ops.training.bn_act_conv2d import like
from lightops.reference import training as reference

_WEIGHTS = "Tensor ws, Tensor? bs, Tensor w1, Tensor? b1, Tensor w3, Tensor? b3"


def fire_train(
    x: Tensor,
    ws: Tensor,
    bs: Tensor | None,
    w1: Tensor,
    b1: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    winograd: int = 2,
) -> Tensor:
    """`concat(relu(conv(s, w1) + b1), relu(conv(s, w3, padding=1) + b3))` with `s = relu(conv(x, ws) + bs)`: the Fire
    module of SqueezeNet (arXiv 1602.07360). Saves x and the result, whose signs are the masks;
    s is computed again.

    Shapes: x `[N, C, H, W]`, any strides; ws `[S, C, 1, 1]`, w1 `[E1, S, 1, 1]`, w3 `[E3, S, 3, 3]`, biases as wide as
    their outputs; result `[N, E1 + E3, H, W]`, channels innermost.
    dtypes: float32, float64, bfloat16, float16 of all tensors alike; sums in float32 (float64).
    Differentiable in every tensor.
    Raises: TypeError for a non-tensor; ValueError for a non-4-D x; RuntimeError for a dtype, device, shape or
    channel mismatch, or an unknown winograd.
    """
    return _op(nhwc_input("fire_train", x), ws, bs, w1, b1, w3, b3, winograd)


def _reference(*args: Any) -> Tensor:
    return to_nhwc(reference.fire_train(*args))[0]


def _fake(x: Tensor, ws: Tensor, bs: Any, w1: Tensor, b1: Any, w3: Tensor, b3: Any, algo: int) -> Tensor:
    return innermost(x, (x.shape[0], w1.shape[0] + w3.shape[0], *x.shape[2:]))


def _backward_reference(
    dout: Tensor,
    x: Tensor,
    out: Tensor,
    ws: Tensor,
    bs: Tensor | None,
    w1: Tensor,
    w3: Tensor,
    algo: int,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    """Through the masks: where an output is zero nothing flows back, which holds for a zero bias as well."""

    def squeezed(x: Tensor, ws: Tensor, bs: Tensor) -> Tensor:
        return torch.conv2d(x, ws, bs)

    def expanded(s: Tensor, w1: Tensor, b1: Tensor, w3: Tensor, b3: Tensor) -> Tensor:
        return torch.cat((torch.conv2d(s, w1, b1), torch.conv2d(s, w3, b3, padding=1)), 1)

    squeeze = torch.conv2d(x, ws, bs).relu()
    bs, b1, b3 = (w.new_zeros(w.shape[0]) for w in (ws, w1, w3))
    first = any(needs[:3])
    ds, *rest = differentiate(expanded, [squeeze, w1, b1, w3, b3], [first, *needs[3:]], dout * (out > 0))
    grads = [x.new_empty(0)] * 3
    if first:
        grads = differentiate(squeezed, [x, ws, bs], needs[:3], ds * (squeeze > 0))
    dx = to_nhwc(grads[0])[0] if needs[0] else grads[0]
    return (dx, *(g.contiguous() for g in (*grads[1:], *rest)))


def _backward_fake(
    dout: Tensor,
    x: Tensor,
    out: Tensor,
    ws: Tensor,
    bs: Tensor | None,
    w1: Tensor,
    w3: Tensor,
    algo: int,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    shapes = (ws.shape, ws.shape[:1], w1.shape, w1.shape[:1], w3.shape, w3.shape[:1])
    dx = innermost(x, x.shape) if needs[0] else x.new_empty(0)
    return (dx, *(x.new_empty(shape if need else 0) for shape, need in zip(shapes, needs[1:], strict=True)))


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, ws, bs, w1, _, w3, _, ctx.algo = inputs
    ctx.save_for_backward(x, output, ws, bs, w1, w3)


def _backward(ctx: Any, dout: Tensor) -> tuple:
    needs = list(ctx.needs_input_grad[:7])
    x, out, ws, bs, w1, w3 = ctx.saved_tensors
    grads = list(_backward_op(to_nhwc(dout)[0], x, out, ws, bs, w1, w3, ctx.algo, needs))
    for place, weight in zip((1, 3, 5), (ws, w1, w3), strict=True):
        grads[place] = like(grads[place], weight) if needs[place] else None
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), None


_backward_op = define(
    "fire_train_backward",
    "(Tensor dout, Tensor x, Tensor out, Tensor ws, Tensor? bs, Tensor w1, Tensor w3, int algo, bool[] needs) -> "
    "(Tensor dx, Tensor dws, Tensor dbs, Tensor dw1, Tensor db1, Tensor dw3, Tensor db3)",
    _backward_reference,
    _backward_fake,
)
_op = define(
    "fire_train",
    f"(Tensor x, {_WEIGHTS}, int algo) -> Tensor",
    _reference,
    _fake,
    casts=("x", "ws", "bs", "w1", "b1", "w3", "b3"),
    setup=_setup,
    backward=_backward,
)
