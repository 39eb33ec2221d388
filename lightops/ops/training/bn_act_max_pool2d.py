"""`bn_act_max_pool2d`: max-pool of a normalised tensor that is never stored."""

from typing import Any

from torch import Tensor

from lightops.ops._check import pool_out_size
from lightops.ops._native import to_nhwc
from lightops.ops.training._op import PROLOGUE, by_name, define, innermost, nhwc_input
from lightops.ops.training._prologue import Prologue, differentiate_prologue, prologue_fakes, prologue_grads
from lightops.reference import ACTIVATIONS
from lightops.reference import training as reference

_WINDOW = "int[2] kernel, int[2] stride, int[2] padding, bool ceil_mode"


def bn_act_max_pool2d(
    x: Tensor,
    prologue: Prologue,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    ceil_mode: bool = False,
) -> Tensor:
    """The maximum of `u = act(bn(x))` over each window (the stems of DenseNet, arXiv 1608.06993, and SqueezeNet, arXiv
    1602.07360). Saves x alone: the backward finds the maxima again. The gradient goes to a window's first maximum in
    row order, as stock's does.

    Shapes: x `[N, C, H, W]`, any strides; result `[N, C, OH, OW]`, channels innermost; sizes as `nn.MaxPool2d`'s.
    dtypes: float32, float64, bfloat16, float16.
    Differentiable in x and the prologue's weight and bias.
    Raises: TypeError for a non-tensor; ValueError for a non-4-D x or an unknown act; RuntimeError for a dtype,
    device, shape or channel mismatch, an illegal geometry or a window larger than the padded input.
    """
    return _op(nhwc_input("bn_act_max_pool2d", x), *prologue.flat(), kernel, stride, padding, ceil_mode, prologue.batch)


def _fake(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    act: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    batch: bool,
) -> Tensor:
    size = pool_out_size("bn_act_max_pool2d", x.shape[2:], kernel, stride, padding, ceil_mode, arg="kernel")
    return innermost(x, (*x.shape[:2], *size))


def _backward_fake(dy: Tensor, x: Tensor, mean: Tensor | None, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return innermost(x, x.shape), *prologue_fakes(x, mean)


def _backward_reference(
    dy: Tensor, x: Tensor, mean: Any, var: Any, gamma: Any, beta: Any, eps: float, act: int, *rest: Any
) -> tuple[Tensor, ...]:
    def forward(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        return reference.bn_act_max_pool2d(x, mean, var, gamma, beta, eps, ACTIVATIONS[act], *rest)

    return tuple(differentiate_prologue(forward, dy, [x, mean, gamma, beta], [True, True]))


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, mean, var, gamma, beta, *ctx.rest = inputs
    ctx.save_for_backward(x, mean, var, gamma, beta)


def _backward(ctx: Any, dy: Tensor) -> tuple:
    dx, dgamma, dbeta = _backward_op(to_nhwc(dy)[0], *ctx.saved_tensors, *ctx.rest)
    return dx, *prologue_grads(dgamma, dbeta, ctx.needs_input_grad[1:7]), None, None, None, None, None


_backward_op = define(
    "bn_act_max_pool2d_backward",
    f"(Tensor dy, Tensor x, {PROLOGUE}, {_WINDOW}, bool batch) -> (Tensor dx, Tensor dgamma, Tensor dbeta)",
    _backward_reference,
    _backward_fake,
)
_op = define(
    "bn_act_max_pool2d",
    f"(Tensor x, {PROLOGUE}, {_WINDOW}, bool batch) -> Tensor",
    by_name(reference.bn_act_max_pool2d, 6),
    _fake,
    setup=_setup,
    backward=_backward,
)
