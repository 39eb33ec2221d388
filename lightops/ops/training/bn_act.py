"""`bn_act`: batch norm and activation of a raw tensor, written out where a chain of training ops ends."""

from typing import Any

from torch import Tensor

from lightops.ops._native import to_nhwc
from lightops.ops.training._op import PROLOGUE, by_name, define, innermost, nhwc_input
from lightops.ops.training._prologue import Prologue, differentiate_prologue, prologue_fakes, prologue_grads
from lightops.reference import ACTIVATIONS
from lightops.reference import training as reference


def bn_act(x: Tensor, prologue: Prologue, residual: Tensor | None = None) -> Tensor:
    """`act(bn(x)) + residual`: saves x alone for its backward (batch norm: arXiv 1502.03167).

    Shapes: x, residual and result `[N, C, H, W]`, channels innermost in the result.
    dtypes: float32, float64, bfloat16, float16; x and residual agree.
    Differentiable in x, the prologue's weight and bias, and residual.
    Raises: TypeError for a non-tensor; ValueError for a non-4-D x or an unknown act; RuntimeError for a dtype,
    device, shape or channel mismatch.
    """
    if residual is not None:
        residual = to_nhwc(residual)[0]
    return _op(nhwc_input("bn_act", x), *prologue.flat(), residual, prologue.batch)


def _fake(x: Tensor, *args: Any) -> Tensor:
    return innermost(x, x.shape)


def _backward_fake(dy: Tensor, x: Tensor, mean: Tensor | None, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return innermost(x, x.shape), *prologue_fakes(x, mean)


def _backward_reference(
    dy: Tensor, x: Tensor, mean: Any, var: Any, gamma: Any, beta: Any, eps: float, act: int, batch: bool
) -> tuple[Tensor, ...]:
    def forward(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        return reference.bn_act(x, mean, var, gamma, beta, eps, ACTIVATIONS[act], None, batch)

    return tuple(differentiate_prologue(forward, dy, [x, mean, gamma, beta], [True, True]))


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, mean, var, gamma, beta, ctx.eps, ctx.act, residual, ctx.batch = inputs
    ctx.has_residual = residual is not None
    ctx.save_for_backward(x, mean, var, gamma, beta)


def _backward(ctx: Any, dy: Tensor) -> tuple:
    x, *norm = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grads: tuple = (None,) * 7
    if any(needs[:5]):
        dx, dgamma, dbeta = _backward_op(to_nhwc(dy)[0], x, *norm, ctx.eps, ctx.act, ctx.batch)
        grads = (dx, *prologue_grads(dgamma, dbeta, needs[1:7]))
    return *grads, dy if ctx.has_residual else None, None


_backward_op = define(
    "bn_act_backward",
    f"(Tensor dy, Tensor x, {PROLOGUE}, bool batch) -> (Tensor dx, Tensor dgamma, Tensor dbeta)",
    _backward_reference,
    _backward_fake,
)
_op = define(
    "bn_act",
    f"(Tensor x, {PROLOGUE}, Tensor? residual, bool batch) -> Tensor",
    by_name(reference.bn_act, 6),
    _fake,
    setup=_setup,
    backward=_backward,
)
