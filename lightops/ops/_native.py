"""The seam to the native library: op handles, layout at the boundary, packing.

Everything on a hot path is a plain function over a bound handle.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightops import _ext
from lightops.kernels import cuda
from lightops.ops import _triton
from lightops.ops._dispatch import BackendUnavailable
from lightops.reference import ACTIVATIONS, BatchNormParams, bn_affine

# Depthwise weights are packed in groups of 16 channels (csrc/include/lightops/common.h: kGroup).
DEPTHWISE_GROUP = 16
# Whether products read bfloat16 in pairs (csrc/include/lightops/pack.h); as the instruction set, chosen once.
_READS_PAIRS = _ext.reads_pairs()
ACT_CODE = {name: code for code, name in enumerate(ACTIVATIONS)}


def native_op(name: str) -> Callable[..., Any]:
    """The handle of `lightops::<name>`, bound once at import so that a call costs one dispatch; without the library, a
    function that says why."""
    why = _ext.cpu_reason()
    if not why:
        return getattr(torch.ops.lightops, name).default

    def missing(*args: Any) -> Any:
        raise BackendUnavailable(f"lightops::{name}: the CPU kernels are not available: {why}")

    return missing


def backend_ops(name: str) -> dict[str, Callable[..., Any]]:
    """The handles of an op by backend: CPU and CUDA share one, which goes by the device of its tensors."""
    native = native_op(name)
    triton = native if _ext.cpu_reason() else getattr(getattr(torch.ops, _triton.NAMESPACE), name).default
    return {"cpu": native, "cuda": native, "triton": triton}


def register_fake(name: str, fake: Callable[..., Any]) -> None:
    """Register the shape function of `lightops::<name>` and its Triton twin, where the native library defines the
    op."""
    if not _ext.cpu_reason():
        torch.library.register_fake(f"lightops::{name}", fake)
        if any(name in names for names in _triton.OPERATORS.values()):
            torch.library.register_fake(f"{_triton.NAMESPACE}::{name}", fake)


def suggests_channels_last(t: Tensor) -> bool:
    """PyTorch's own rule (`suggest_memory_format`) for which of the two layouts a 4-D tensor counts as, ambiguous
    strides included."""
    shape, stride = t.shape, t.stride()
    if stride[1] == 0:
        return False
    least = 0
    for d in (1, 3, 2, 0):
        if shape[d] == 0 or stride[d] < least or (d == 0 and least == stride[1]):
            return False
        least = stride[d] * max(1, shape[d])
    return True


def to_nhwc(x: Tensor) -> tuple[Tensor, bool]:
    """`(x with channels innermost, True when x counts as NCHW)`.

    A channel slice of a wider NHWC buffer passes without a copy.
    """
    _, c, h, w = x.shape
    sn, sc, sh, sw = x.stride()
    if sc == 1 and c > 1 and sw >= c and sh == w * sw and sn >= h * sh:
        return x, False
    return _relayout(x), not suggests_channels_last(x)


def _relayout(x: Tensor) -> Tensor:
    y = x.contiguous(memory_format=torch.channels_last)
    _, c, h, w = y.shape
    strides = (h * w * c, 1, w * c, c)
    # `contiguous` keeps whatever strides a size-1 dimension has; the kernels read all four.
    return y if y.stride() == strides else y.as_strided(y.shape, strides)


def to_nchw(out: Tensor) -> Tensor:
    """A kernel's output as a stock NCHW result, with the strides stock gives it where a size of 1 leaves a choice."""
    if not _by_matrices(out):
        return out.contiguous().view(-1).view(out.shape)
    _, c, h, w = out.shape
    y = torch.empty(out.shape, dtype=out.dtype)
    for image, pixels in zip(y, out, strict=True):
        image.view(c, h * w).copy_(pixels.permute(1, 2, 0).view(h * w, c).t())
    return y


def _by_matrices(out: Tensor) -> bool:
    """Whether NHWC to NCHW goes image by image as a transposed matrix, which torch copies in blocks but on one core:
    256 x 56 x 56 in 0.31 ms instead of 1.13 (0.57 on two cores), 1024 x 14 x 14 in 0.08 instead of 0.36 (0.18), while
    64 x 56 x 56 takes 0.09 instead of 0.11 (0.06)."""
    _, c, h, w = out.shape
    return (
        c >= 128
        and c * h * w >= 100_000
        and type(out) is Tensor
        and not torch.compiler.is_compiling()
        and out.device.type == "cpu"
        and out.stride()[1:] == (1, w * c, c)
        and torch.get_num_threads() <= 2
        and not (out.requires_grad and torch.is_grad_enabled())
    )


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums, folded scales and packed weights for activations of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def affine(bn: BatchNormParams | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """BN as `(scale, shift)` in the accumulation dtype; None gives None."""
    if bn is None:
        return None, None
    scale, shift = bn_affine(bn)
    to = accumulate_dtype(dtype)
    return scale.detach().to(to).contiguous(), shift.detach().to(to).contiguous()


def fold(bias: Tensor | None, bn: BatchNormParams | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """A convolution's BN folded: the float64 scale for its weight, and the bias `bias * scale + shift` in the
    accumulation dtype."""
    scale = None
    if bn is not None:
        scale, shift = bn_affine(bn)
        bias = shift if bias is None else bias.double() * scale + shift
        scale = scale.detach()
    return scale, None if bias is None else bias.detach().to(accumulate_dtype(dtype)).contiguous()


def reads_pairs(dtype: torch.dtype, *weights: Tensor, odd: bool = False) -> bool:
    """Whether an op of these convolution weights computes on pairs of bfloat16: all of them or none, so all need an
    even number of input channels (or the op pads them itself: `odd`)."""
    if dtype != torch.bfloat16 or not _READS_PAIRS:
        return False
    return all(not _for_gpu(w) and (odd or w.shape[1] % 2 == 0) for w in weights)


def pack_conv(
    weight: Tensor,
    scale: Tensor | None,
    dtype: torch.dtype,
    algo: int = 0,
    *,
    flat: bool = False,
    pairs: bool = False,
) -> Tensor:
    """A convolution weight `[O, I, kh, kw]` times `scale` `[O]`, in the order of the kernels of its device: for
    `algo` or in `pairs` of bfloat16 on the CPU, by taps or `flat` (the stem's order) on CUDA."""
    if _for_gpu(weight):
        return cuda.pack_conv2d(weight, scale, dtype, flat=flat)
    return _pack_conv2d(_matching(weight, dtype), scale, 0 if pairs else algo, pairs)


def pack_depthwise(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A depthwise weight `[C, 1, kh, kw]` times `scale` `[C]` as `[ceil(C / 16), kh*kw, 16]`, zero filled; on CUDA
    `[kh*kw, C]`."""
    if _for_gpu(weight):
        return cuda.pack_depthwise(weight, scale, dtype)
    return _pack_depthwise(_matching(weight, dtype), scale)


def _for_gpu(weight: Tensor) -> bool:
    return weight.is_cuda


def choose_algo(
    winograd: int,
    kernel: tuple[int, int],
    dtype: torch.dtype,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> int:
    """The algorithm code: `winograd` for a dense 3x3 of stride 1, else 0. float64 stays direct, because there it is the
    accuracy that counts."""
    if kernel == (3, 3) and stride == (1, 1) and dilation == (1, 1) and dtype != torch.float64:
        return winograd
    return 0


def nhwc_empty(x: Tensor, channels: int, hw: tuple[int, int]) -> Tensor:
    """What a kernel allocates for its output: `[N, channels, *hw]`, channels_last."""
    return torch.empty((x.shape[0], channels, *hw), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _matching(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The packers give float64 for float64 and float32 for every other weight dtype, so only a mismatch between the two
    is cast."""
    weight = weight.detach()
    to = accumulate_dtype(dtype)
    return weight if accumulate_dtype(weight.dtype) == to else weight.to(to)


_pack_conv2d = native_op("pack_conv2d")
_pack_depthwise = native_op("pack_depthwise")


def _pack_conv2d_fake(weight: Tensor, scale: Tensor | None, algo: int, pairs: bool = False) -> Tensor:
    numel = _ext.packed_numel(*weight.shape, algo, pairs)
    dtype = torch.bfloat16 if pairs else accumulate_dtype(weight.dtype)
    return torch.empty((numel,), dtype=dtype, device=weight.device)


def _pack_depthwise_fake(weight: Tensor, scale: Tensor | None) -> Tensor:
    channels, _, kh, kw = weight.shape
    groups = (channels + DEPTHWISE_GROUP - 1) // DEPTHWISE_GROUP
    return torch.empty((groups, kh * kw, DEPTHWISE_GROUP), dtype=accumulate_dtype(weight.dtype), device=weight.device)


register_fake("pack_conv2d", _pack_conv2d_fake)
register_fake("pack_depthwise", _pack_depthwise_fake)
