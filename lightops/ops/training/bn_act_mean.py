"""`bn_act_mean`: the head of a network in training."""

from typing import Any

from torch import Tensor

from lightops.ops.training._op import PROLOGUE, by_name, define, innermost, nhwc_input
from lightops.ops.training._prologue import Prologue, differentiate_prologue, prologue_fakes, prologue_grads
from lightops.reference import ACTIVATIONS
from lightops.reference import training as reference


def bn_act_mean(x: Tensor, prologue: Prologue) -> Tensor:
    """The average of `act(bn(x))` over each map: no tensor of the map's size is written (DenseNet's last layers,
    arXiv 1608.06993).

    Shapes: x `[N, C, H, W]`, any strides; result `[N, C]`.
    dtypes: float32, float64, bfloat16, float16; summed in float32 (float64).
    Differentiable in x and the prologue's weight and bias.
    Raises: TypeError for a non-tensor; ValueError for a non-4-D x or an unknown act; RuntimeError for a dtype,
    device, shape or channel mismatch, or a map without pixels.
    """
    return _op(nhwc_input("bn_act_mean", x), *prologue.flat(), prologue.batch)


def _fake(x: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape[:2])


def _backward_fake(dy: Tensor, x: Tensor, mean: Tensor | None, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return innermost(x, x.shape), *prologue_fakes(x, mean)


def _backward_reference(
    dy: Tensor, x: Tensor, mean: Any, var: Any, gamma: Any, beta: Any, eps: float, act: int, batch: bool
) -> tuple[Tensor, ...]:
    def forward(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        return reference.bn_act_mean(x, mean, var, gamma, beta, eps, ACTIVATIONS[act], batch)

    return tuple(differentiate_prologue(forward, dy, [x, mean, gamma, beta], [True, True]))


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, mean, var, gamma, beta, ctx.eps, ctx.act, ctx.batch = inputs
    ctx.save_for_backward(x, mean, var, gamma, beta)


def _backward(ctx: Any, dy: Tensor) -> tuple:
    dx, dgamma, dbeta = _backward_op(dy.contiguous(), *ctx.saved_tensors, ctx.eps, ctx.act, ctx.batch)
    return dx, *prologue_grads(dgamma, dbeta, ctx.needs_input_grad[1:7]), None


_backward_op = define(
    "bn_act_mean_backward",
    f"(Tensor dy, Tensor x, {PROLOGUE}, bool batch) -> (Tensor dx, Tensor dgamma, Tensor dbeta)",
    _backward_reference,
    _backward_fake,
)
_op = define(
    "bn_act_mean",
    f"(Tensor x, {PROLOGUE}, bool batch) -> Tensor",
    by_name(reference.bn_act_mean, 6),
    _fake,
    setup=_setup,
    backward=_backward,
)
