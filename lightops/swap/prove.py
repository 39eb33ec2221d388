"""Proof that a block of unknown class computes what a piece computes: both run once on the same random input."""

import copy
import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightops.modules import Decline, FusedModule
from lightops.modules._piece import Piece
from lightops.modules._reader import Reader

# Odd and even, non-square, one image and two: padding, stride, pooling and batch mix-ups all show.
_SIZES = ((2, 7, 9), (1, 6, 4))
# float64 on both sides: a right piece agrees to 1e-13, a wrong one is off by 1e-3 and more with these parameters.
_TOLERANCE = 1e-9


class Unproven(Exception):
    """No piece computes what the block computes; the message says how far off the nearest was, or what went wrong."""


def prove(block: nn.Module, in_channels: int, pieces: Iterable[Piece]) -> Piece:
    """The first of `pieces` that agrees with `block`; raises Unproven if none does.

    A float64 copy of the block with random parameters and statistics is compared, in evaluation, against the pieces'
    specification: a trained block could hide a difference, and the block itself stays as it is.
    """
    # In inference mode copies count no edits, and nothing that reads them could be fused.
    with torch.inference_mode(False), torch.no_grad():
        try:
            twin = _twin(block).eval()
            inputs = [_normal(n, in_channels, h, w, seed=n) for n, h, w in _SIZES]
            wanted = [_stock(twin, x) for x in inputs]
        except Unproven:
            raise
        except Exception as error:
            raise Unproven(f"its forward does not run on one tensor: {type(error).__name__}: {error}") from error
        nearest, refused = float("inf"), None
        for piece in pieces:
            try:
                params = piece.read_all(Reader(twin, any_mode=True))
                off = max(_difference(piece.reference(x, params), y) for x, y in zip(inputs, wanted, strict=True))
            except Decline as decline:
                refused = refused or str(decline)
                continue
            except RuntimeError:
                continue
            if off < _TOLERANCE:
                return piece
            nearest = min(nearest, off)
    if nearest < float("inf"):
        raise Unproven(f"computes something else: off by {nearest:.2g} of its largest value on a random input")
    raise Unproven(refused or "computes something else: a result of another shape")


def trains_alike(block: nn.Module, in_channels: int, fuse: Callable[[nn.Module], FusedModule]) -> bool:
    """Whether `fuse(block)`, already proven in evaluation, trains as the block does: output, every gradient and the
    statistics left behind, with the block and its norms each in training and in evaluation, for a forward may ask
    either.
    """
    with torch.inference_mode(False), torch.enable_grad():
        try:
            stock = _twin(block)
            twin = copy.deepcopy(stock)
            fused = fuse(twin)
            x = _normal(2, in_channels, *_SIZES[-1][1:], seed=2)  # batch statistics want more than one image
            for mode, norm_mode in itertools.product((True, False), repeat=2):
                for module in (stock, twin, fused):
                    _set_modes(module, mode, norm_mode)
                want, got = _step(stock, stock, x), _step(fused._train_forward, twin, x)
                if not all(_agree(*pair) for pair in zip(got, want, strict=True)):
                    return False
        except Exception:  # whatever a foreign forward or its backward raises
            return False
    return True


def _set_modes(block: nn.Module, mode: bool, norm_mode: bool) -> None:
    for module in block.modules():
        module.training = norm_mode if isinstance(module, _BatchNorm) else mode


def _step(forward: Callable[[Tensor], Tensor], block: nn.Module, x: Tensor) -> list[Tensor | None]:
    """All that a training step leaves behind: the result, gradients, buffers."""
    block.zero_grad()
    x = x.clone().requires_grad_()
    y = forward(x)
    y.backward(_normal(*y.shape, seed=3))
    return [y.detach(), x.grad, *(p.grad for p in block.parameters()), *block.buffers()]


def _agree(got: Tensor | None, want: Tensor | None) -> bool:
    if got is None or want is None:
        return got is want
    return torch.allclose(got, want, rtol=0, atol=_TOLERANCE * max(1.0, want.abs().max().item()))


def _stock(block: nn.Module, x: Tensor) -> Tensor:
    before = x.clone()
    y = block(x)
    if not isinstance(y, Tensor):
        raise Unproven(f"returns a {type(y).__name__}")
    if not torch.equal(x, before):
        raise Unproven("writes its input in place")
    return y


def _difference(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape or not want.numel():
        return float("inf")
    return ((got - want).abs().max() / want.abs().max().clamp(min=1e-30)).item()


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def _twin(block: nn.Module) -> nn.Module:
    """A copy in float64 on the CPU, wherever the block is, with random parameters at which every activation has values
    on all its branches, relu6's upper one included."""
    twin = copy.deepcopy(block)
    nowhere = any(t.is_meta for t in (*twin.parameters(), *twin.buffers()))
    twin = (twin.to_empty(device="cpu") if nowhere else twin.cpu()).double()
    generator = torch.Generator().manual_seed(0)
    for module in twin.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            if not tensor.is_floating_point():
                tensor.zero_()
                continue
            noise = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
            if name == "running_var":
                tensor.copy_(noise.abs() + 0.3)
            elif tensor.dim() > 1:
                tensor.copy_(noise * 3 / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(noise + 0.5)
    return twin
