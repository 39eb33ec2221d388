"""`stem_train`: convolution, activation and max-pool of an image, of which only the result is kept."""

from typing import Any

import torch
from torch import Tensor

from lightops.ops._check import check_act, pool_out_size
from lightops.ops._native import ACT_CODE, to_nhwc
from lightops.ops.training._op import TRAINING_DTYPES, define, differentiate, innermost, nhwc_input
from lightops.ops.training.bn_act_conv2d import like
from lightops.reference import ACTIVATIONS
from lightops.reference import training as reference

_GEOMETRY = "int[2] stride, int[2] padding, int act, int[2] pool_kernel, int[2] pool_stride, int[2] pool_padding"
# On the CPU a sixteen-bit map between convolution and pool is small change: its kernels are for exact types.
_DTYPES = {"cpu": (torch.float32, torch.float64), "cuda": TRAINING_DTYPES["cuda"]}


def stem_train(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    act: str,
    pool_kernel: tuple[int, int],
    pool_stride: tuple[int, int],
    pool_padding: tuple[int, int] = (0, 0),
    ceil_mode: bool = False,
) -> Tensor:
    """`maxpool(act(conv(x) + bias))`: the first layers of a network without batch norm (SqueezeNet, arXiv 1602.07360).

    Saves x, the result, and a byte a value for where in its window the maximum was; the convolution's own result is
    never stored. The gradient goes to a window's first maximum in row order, as stock's does.

    Shapes: x `[N, C, H, W]`, any strides; weight `[O, C, kh, kw]`; bias `[O]`; result `[N, O, H', W']`, channels
    innermost, sizes as `nn.MaxPool2d`'s. act "none" or "relu"; windows of at most 256 pixels.
    dtypes: float32, float64 on the CPU, float32, float16, bfloat16 in CUDA, of all tensors alike; others are computed
    by the reference.
    Differentiable in every tensor; the gradient of x, which an image does not need, is taken by the reference on the
    CPU.
    Raises: TypeError for a non-tensor; ValueError for a non-4-D x or an unknown act; RuntimeError for a dtype,
    device, shape or channel mismatch, an illegal geometry or a window larger than the padded input.
    """
    x = nhwc_input("stem_train", x)
    check_act("stem_train", "act", act)
    code = ACT_CODE[act]
    return _op(x, weight, bias, stride, padding, code, pool_kernel, pool_stride, pool_padding, ceil_mode)[0]


def stem_train_fits(x: Tensor, act: str, pool_kernel: tuple[int, int]) -> bool:
    """Whether kernels take both directions: on the CPU of an image that needs no gradient."""
    wanted = torch.is_grad_enabled() and x.requires_grad
    return not _reason(x, act, pool_kernel, wanted)


def _reason(x: Tensor, act: str, pool_kernel: Any, wanted: bool) -> str:
    """Why no kernel takes such a call; `wanted`: the gradient of x is."""
    device = x.device.type
    if x.dtype not in _DTYPES.get(device, ()):
        return f"dtype {x.dtype} has no kernel for {device}"
    if wanted and device == "cpu":
        return "the gradient of the image has no kernel"
    if act not in ("none", "relu"):
        return f"{act} has no kernel"
    pixels = pool_kernel[0] * pool_kernel[1]
    return "" if pixels <= 256 else f"a window of {pixels} pixels has no kernel"


def _reference(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, act: int, *pool: Any) -> Any:
    out, places = reference.stem_train(x, weight, bias, stride, padding, ACTIVATIONS[act], *pool)
    return to_nhwc(out)[0], to_nhwc(places)[0]


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    stride: list[int],
    padding: list[int],
    act: int,
    pool_kernel: list[int],
    pool_stride: list[int],
    pool_padding: list[int],
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    sizes = [(x.shape[i + 2] + 2 * padding[i] - weight.shape[i + 2]) // stride[i] + 1 for i in (0, 1)]
    pooled = pool_out_size("stem_train", sizes, pool_kernel, pool_stride, pool_padding, ceil_mode)
    out = innermost(x, (x.shape[0], weight.shape[0], *pooled))
    return out, torch.empty_like(out, dtype=torch.uint8)


def _backward_reference(
    dout: Tensor,
    x: Tensor,
    out: Tensor,
    places: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    act: int,
    pool_kernel: list[int],
    pool_stride: list[int],
    pool_padding: list[int],
    needs: list[bool],
) -> tuple[Tensor, ...]:
    """Through the places, which do not depend on a bias that the derivative is not given."""
    top = torch.arange(out.shape[2], device=x.device)[:, None] * pool_stride[0] - pool_padding[0]
    left = torch.arange(out.shape[3], device=x.device) * pool_stride[1] - pool_padding[1]
    at = places.long()
    rows, columns = top + torch.div(at, pool_kernel[1], rounding_mode="floor"), left + at % pool_kernel[1]

    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = torch.conv2d(x, weight, bias, stride, padding)
        return y.flatten(2).gather(2, (rows * y.shape[3] + columns).flatten(2)).view(out.shape)

    masked = dout * ~(out <= 0) if ACTIVATIONS[act] == "relu" else dout
    dx, *rest = differentiate(forward, [x, weight, weight.new_zeros(weight.shape[0])], needs, masked)
    return to_nhwc(dx)[0] if needs[0] else dx, *(g.contiguous() for g in rest)


def _backward_fake(dout: Tensor, x: Tensor, out: Tensor, places: Tensor, weight: Tensor, *args: Any) -> tuple:
    needs = args[-1]
    return (
        innermost(x, x.shape) if needs[0] else x.new_empty(0),
        x.new_empty(weight.shape if needs[1] else 0),
        x.new_empty(weight.shape[0] if needs[2] else 0),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, *geometry, _ = inputs
    ctx.geometry = geometry
    ctx.save_for_backward(x, *output, weight)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dout: Tensor | None, *_: None) -> tuple:
    if dout is None:
        return (None,) * 10
    x, out, places, weight = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    dx, dweight, dbias = _backward_op(to_nhwc(dout)[0], x, out, places, weight, *ctx.geometry, needs)
    grads = dx, like(dweight, weight) if needs[1] else None, dbias
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), *(None,) * 7


def _supports(arguments: dict[str, Any]) -> str:
    wanted = arguments.get("needs", (False,))[0]
    return _reason(arguments["x"], ACTIVATIONS[arguments["act"]], arguments["pool_kernel"], wanted)


_backward_op = define(
    "stem_train_backward",
    f"(Tensor dout, Tensor x, Tensor out, Tensor places, Tensor weight, {_GEOMETRY}, bool[] needs) -> "
    "(Tensor dx, Tensor dweight, Tensor dbias)",
    _backward_reference,
    _backward_fake,
    supports=_supports,
)
_op = define(
    "stem_train",
    f"(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, bool ceil_mode) -> (Tensor out, Tensor places)",
    _reference,
    _fake,
    supports=_supports,
    casts=("x", "weight", "bias"),
    setup=_setup,
    backward=_backward,
)
