"""Argument checks of the public ops.

Each raises before anything is allocated, and names the op, the argument, what it got and what it wants.

Exception types follow PyTorch's for the same mistake: TypeError for a non-tensor, ValueError where BatchNorm2d raises
it, RuntimeError otherwise.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightops.ops._dispatch import KERNEL_DTYPES, autocasts
from lightops.reference import ACTIVATIONS, BatchNormParams, MaxPool

Pair = tuple[int, int]

_LOW_PRECISION = (torch.float16, torch.bfloat16)


def check_tensor(op: str, arg: str, value: Any) -> None:
    """A dense, strided tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: argument {arg!r} got {type(value).__name__}, wants torch.Tensor")
    kind = None
    if value.is_nested:
        kind = "a nested tensor"
    elif value.is_quantized:
        kind = "a quantized tensor"
    elif value.layout is not torch.strided:
        kind = f"layout {value.layout}"
    if kind is not None:
        raise NotImplementedError(f"{op}: argument {arg!r} got {kind}, wants a dense tensor of layout torch.strided")


def check_input(op: str, x: Any, *, bn_first: bool = False) -> None:
    """The activation `[N, C, H, W]` in a supported floating dtype."""
    check_tensor(op, "x", x)
    if x.dtype not in KERNEL_DTYPES:
        raise RuntimeError(f"{op}: argument 'x' got dtype {x.dtype}, wants one of {', '.join(map(str, KERNEL_DTYPES))}")
    if x.dim() != 4:
        error = ValueError if bn_first else RuntimeError
        raise error(
            f"{op}: argument 'x' expected 4D input (got {x.dim()}D input of shape {list(x.shape)}), wants [N, C, H, W]"
        )


def check_map(op: str, x: Tensor) -> None:
    """A map of at least one pixel, as an unpadded 1x1 convolution wants."""
    if 0 in x.shape[2:]:
        raise RuntimeError(
            f"{op}: argument 'x' got shape {list(x.shape)}, wants a non-empty map: "
            "the kernel size can't be greater than the input"
        )


def check_not_empty(op: str, x: Tensor) -> None:
    """Channels and a map of at least one pixel, as PyTorch's pools want; the batch may be empty."""
    if 0 in x.shape[1:]:
        raise RuntimeError(
            f"{op}: argument 'x' got shape {list(x.shape)}, wants non-zero sizes for non-batch dimensions"
        )


def is_unbatched(op: str, x: Any, *bns: BatchNormParams | None) -> bool:
    """True for `[C, H, W]` where stock accepts it: convolutions do, BatchNorm2d does not."""
    check_tensor(op, "x", x)
    return x.dim() == 3 and all(bn is None for bn in bns)


def check_weight(op: str, arg: str, weight: Any, x: Tensor, in_channels: int, *, kernel: Pair | None = None) -> None:
    """A convolution weight `[O, in_channels, kh, kw]` that goes with `x`: same dtype and device."""
    check_tensor(op, arg, weight)
    check_companion(op, arg, weight, x)
    if weight.dim() != 4:
        raise RuntimeError(f"{op}: argument {arg!r} got shape {list(weight.shape)}, wants [O, I, kh, kw]")
    if weight.shape[1] != in_channels:
        raise RuntimeError(
            f"{op}: argument {arg!r} of shape {list(weight.shape)} expects {weight.shape[1]} input channels, "
            f"got {in_channels} channels instead"
        )
    if kernel is not None and tuple(weight.shape[2:]) != kernel:
        raise RuntimeError(
            f"{op}: argument {arg!r} got a {weight.shape[2]}x{weight.shape[3]} kernel, wants {kernel[0]}x{kernel[1]}"
        )
    if 0 in weight.shape:
        raise RuntimeError(f"{op}: argument {arg!r} got shape {list(weight.shape)}, wants non-zero sizes")


def check_depthwise_weight(op: str, arg: str, weight: Any, x: Tensor, channels: int) -> None:
    """A depthwise weight `[C, 1, kh, kw]` over `channels` channels (channel multiplier 1)."""
    check_weight(op, arg, weight, x, 1)
    if weight.shape[0] != channels:
        raise RuntimeError(
            f"{op}: argument {arg!r} of shape {list(weight.shape)} has {weight.shape[0]} filters, "
            f"wants one for each of {channels} channels"
        )


def check_bias(op: str, arg: str, bias: Any, x: Tensor, channels: int) -> None:
    """A bias `[channels]` or None."""
    if bias is None:
        return
    check_tensor(op, arg, bias)
    check_companion(op, arg, bias, x)
    if tuple(bias.shape) != (channels,):
        raise RuntimeError(f"{op}: argument {arg!r} got shape {list(bias.shape)}, wants [{channels}]")


def check_bn(op: str, arg: str, bn: Any, x: Tensor, channels: int) -> None:
    """Evaluation-mode BN over `channels` channels, or None. With a half-precision x the BN tensors may be float32."""
    if bn is None:
        return
    if not isinstance(bn, BatchNormParams):
        raise TypeError(f"{op}: argument {arg!r} got {type(bn).__name__}, wants BatchNormParams or None")
    for field in ("running_mean", "running_var"):
        if getattr(bn, field) is None:
            raise RuntimeError(
                f"{op}: argument '{arg}.{field}' got None, wants a tensor [{channels}]: running statistics are required"
            )
    for field in ("running_mean", "running_var", "weight", "bias"):
        tensor = getattr(bn, field)
        if tensor is None:
            continue
        name = f"{arg}.{field}"
        check_tensor(op, name, tensor)
        check_companion(op, name, tensor, x, mixed=True)
        if tuple(tensor.shape) != (channels,):
            raise RuntimeError(
                f"{op}: argument {name!r} should contain {channels} elements, got shape {list(tensor.shape)}"
            )


def check_companion(op: str, arg: str, tensor: Tensor, x: Tensor, *, mixed: bool = False) -> None:
    """Same device and dtype as x; `mixed` also allows float32 beside a half-precision x.

    Autocast casts, so it allows all.
    """
    if tensor.device != x.device:
        raise RuntimeError(f"{op}: argument {arg!r} is on {tensor.device}, wants {x.device} as argument 'x'")
    mixed = mixed and x.dtype in _LOW_PRECISION and tensor.dtype == torch.float32
    if tensor.dtype != x.dtype and not mixed and not autocasts(x):
        raise RuntimeError(f"{op}: argument {arg!r} got dtype {tensor.dtype}, wants {x.dtype} as argument 'x'")


def check_addend(op: str, arg: str, addend: Any, x: Tensor, shape: Sequence[int]) -> None:
    """A residual or bypass of exactly the output's shape, or None."""
    if addend is None:
        return
    check_tensor(op, arg, addend)
    check_companion(op, arg, addend, x)
    if tuple(addend.shape) != tuple(shape):
        raise RuntimeError(f"{op}: argument {arg!r} got shape {list(addend.shape)}, wants the output's {list(shape)}")


def check_act(op: str, arg: str, act: Any) -> None:
    if act not in ACTIVATIONS:
        raise ValueError(f"{op}: argument {arg!r} got {act!r}, wants one of {', '.join(ACTIVATIONS)}")


def check_winograd(op: str, winograd: Any) -> None:
    if winograd not in (0, 2, 4):
        raise ValueError(
            f"{op}: argument 'winograd' got {winograd!r}, wants 0 (direct), 2 for F(2x2, 3x3) or 4 for F(4x4, 3x3)"
        )


def same_padding(kernel: Pair) -> Pair:
    """What `padding=None` means: at stride 1 an odd kernel keeps the map's size."""
    return kernel[0] // 2, kernel[1] // 2


def pair(op: str, arg: str, value: Any) -> Pair:
    """An int or a pair of ints as `(vertical, horizontal)`, with the limits of the named argument."""
    if isinstance(value, int):
        value = (value, value)
    values = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(values) != 2 or not all(isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool) for v in values):
        raise TypeError(f"{op}: argument {arg!r} got {value!r}, wants an int or a pair of ints")
    if arg == "padding":
        if min(values) < 0:
            raise RuntimeError(f"{op}: negative padding is not supported, argument 'padding' got {value!r}, wants >= 0")
    elif min(values) <= 0:
        zero_dilation = "dilation should be greater than zero"
        wording = zero_dilation if arg == "dilation" else f"non-positive {arg} is not supported"
        raise RuntimeError(f"{op}: {wording}, argument {arg!r} got {value!r}, wants >= 1")
    return values


def conv_out_size(
    op: str,
    hw: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> Pair:
    """Output height and width of a convolution; raises where the kernel does not fit into the padded input."""
    padded = [hw[i] + 2 * padding[i] for i in (0, 1)]
    extent = [dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    if padded[0] < extent[0] or padded[1] < extent[1]:
        raise RuntimeError(
            f"{op}: padded input size per channel: ({padded[0]} x {padded[1]}), "
            f"kernel size: ({extent[0]} x {extent[1]}); "
            "the kernel size can't be greater than the padded input"
        )
    return (padded[0] - extent[0]) // stride[0] + 1, (padded[1] - extent[1]) // stride[1] + 1


def check_pool(op: str, pool: Any) -> None:
    if pool is None:
        return
    if not isinstance(pool, MaxPool):
        raise TypeError(f"{op}: argument 'pool' got {type(pool).__name__}, wants MaxPool or None")
    if pool.kernel < 1 or pool.stride < 1 or not 0 <= pool.padding <= pool.kernel // 2:
        raise RuntimeError(
            f"{op}: argument 'pool' got {pool}, wants kernel >= 1, stride >= 1 and 0 <= padding <= kernel / 2"
        )


def check_pool_padding(op: str, kernel: Pair, padding: Pair) -> None:
    """Padding of at most half the window, so that no window lies outside the map."""
    if any(2 * p > k for k, p in zip(kernel, padding, strict=True)):
        raise RuntimeError(
            f"{op}: argument 'padding' got {padding}, wants at most half of argument 'kernel', which is {kernel}"
        )


def pool_out_size(
    op: str,
    hw: Sequence[int],
    kernel: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    ceil_mode: bool,
    *,
    arg: str = "pool",
) -> Pair:
    """Output height and width of a max-pool, by PyTorch's rule: with `ceil_mode` the last window must start inside the
    input or its left padding. One number is both rows and columns; `arg` is the argument to blame."""
    kernel, stride, padding = ((v, v) if isinstance(v, (int, torch.SymInt)) else v for v in (kernel, stride, padding))
    sizes = []
    for size, k, s, p in zip(hw, kernel, stride, padding, strict=True):
        out = (size + 2 * p - k + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (out - 1) * s >= size + p:
            out -= 1
        if out < 1:
            raise RuntimeError(
                f"{op}: max-pool of a {hw[0]}x{hw[1]} map gives an output that is too small, "
                f"argument {arg!r} got kernel {k}"
            )
        sizes.append(out)
    return sizes[0], sizes[1]
