"""The train-step oracle (tier T3): three SGD steps of a stock network and of its swapped twin, in float64, compared in
everything that a step leaves behind.
"""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

import lightops
from lightops.modules import FallbackWarning, FusedModule

# Of the value itself, and of the largest gradient (output, statistic) of the same step: a bias in front of a norm has a
# gradient that is zero but for rounding, whose digits nobody shares. Stock's own two layouts differ by up to 4e-13.
RTOL, ATOL = 1e-9, 1e-11
# In a hundred residual blocks and more, each step multiplies what rounding has left by ten to seventy. After three,
# stock's two layouts are 7e-8 of the largest gradient apart in preact_resnet1001, stock and swapped 8e-8 (7e-10 and
# 1e-9 in a post-activation network of 152 layers). There this many times the distance of the layouts is allowed.
LAYOUTS = 4
STEPS = 3


def pair_of(model: nn.Module, winograd: int = 2) -> tuple[nn.Module, nn.Module]:
    """The model in training mode, and a swapped copy."""
    stock = model.train()
    fused = copy.deepcopy(stock)
    lightops.swap_(fused, winograd=winograd)
    assert any(isinstance(m, FusedModule) for m in fused.modules())
    return stock, fused


def assert_trains_alike(
    model: nn.Module,
    inputs: Callable[[int], Tensor],
    *,
    rtol: float = RTOL,
    atol: float = ATOL,
    allowed: str = "",
    deep: bool = False,
) -> None:
    """`inputs(step)` is the batch of a step. `allowed`: blocks whose reason for running stock holds this may do so.
    `deep`: the limit is LAYOUTS times the distance between stock's two layouts where that is more."""
    models = list(pair_of(model))
    formats = [torch.preserve_format] * 2
    if deep:
        models.append(copy.deepcopy(models[0]).to(memory_format=torch.channels_last))
        formats.append(torch.channels_last)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4) for m in models]
    for step in range(STEPS):
        stock, fused, *other = [
            _step(m, inputs(step).clone(memory_format=layout), step, optimizer)
            for m, layout, optimizer in zip(models, formats, optimizers, strict=True)
        ]
        _assert_fused(models[1], allowed)
        _compare(stock, fused, rtol, _limits(stock, *other, atol=atol))
        # A step that moves the weights by about a thousandth, whatever the size of the gradients.
        size = max(g.abs().max() for g in stock["gradients"].values())
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 1e-3 / size.item()
            optimizer.step()
    stock, fused, *other = [{"parameters": dict(m.named_parameters())} for m in models]
    _compare(stock, fused, rtol, _limits(stock, *other, atol=atol))


def _largest(tensors: dict[str, Tensor]) -> float:
    return max((t.abs().max().item() for t in tensors.values() if t.is_floating_point()), default=1.0)


def _limits(stock: dict[str, dict[str, Tensor]], *other: dict[str, dict[str, Tensor]], atol: float) -> dict[str, float]:
    """The absolute limit of each kind of tensor."""
    limits = {}
    for kind, tensors in stock.items():
        apart = [_largest({n: t.double() - twin[kind][n].double() for n, t in tensors.items()}) for twin in other]
        limits[kind] = max([atol * _largest(tensors), *(LAYOUTS * distance for distance in apart)])
    return limits


def _step(model: nn.Module, x: Tensor, step: int, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(step)  # for dropout
    optimizer.zero_grad()
    x.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        y = model(x)
    y.backward(torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(step)))
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    return {"output": {"y": y.detach()}, "gradients": {"x": x.grad, **gradients}, "buffers": buffers}


def _assert_fused(model: nn.Module, allowed: str) -> None:
    reasons = {n: m.last_reason for n, m in model.named_modules() if isinstance(m, FusedModule) and m.last_reason}
    assert not [reason for reason in reasons.values() if not (allowed and allowed in reason)], reasons


def _compare(
    want: dict[str, dict[str, Tensor]], got: dict[str, dict[str, Tensor]], rtol: float, limits: dict[str, float]
) -> None:
    for kind, tensors in want.items():
        assert tensors.keys() == got[kind].keys(), kind
        assert _largest(tensors) > 0
        for name, tensor in tensors.items():
            other = got[kind][name]
            assert other.dtype is tensor.dtype, (kind, name)
            if kind == "output":
                assert other.stride() == tensor.stride()
            limit = limits[kind] if tensor.is_floating_point() else 0
            torch.testing.assert_close(
                other, tensor, rtol=rtol, atol=limit, msg=lambda text, what=f"{kind} {name}": f"{what}: {text}"
            )
