"""One training step of a stock block and of its fused twin, compared in all that it leaves behind (tier T3)."""

import copy
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightops.modules import FallbackWarning, FusedModule

from ..blocks import CASES, image, make

NORMED = [name for name in CASES if any(isinstance(m, nn.BatchNorm2d) for m in make(name)[0].modules())]


class Outcome(NamedTuple):
    output: Tensor
    grads: dict[str, Tensor | None]
    state: dict[str, Tensor]


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, FusedModule]:
    """Stock block and fused twin in training mode."""
    stock, fused = make(name, dtype)
    return stock.train(), fused.train()


def both(modules: tuple[nn.Module, ...], change: Callable[[nn.Module], object]) -> None:
    for module in modules:
        change(module)


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def step(module: nn.Module, x: Tensor, *, seed: int = 2, x_grad: bool = True) -> Outcome:
    """Forward and backward with a random upstream gradient."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x_grad)
    module.zero_grad()
    torch.manual_seed(seed)
    y = module(x)
    if y.requires_grad:
        y.backward(torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed)))
    grads = {name: p.grad for name, p in module.named_parameters()}
    return Outcome(y.detach(), {"x": x.grad, **grads}, copy.deepcopy(module.state_dict()))


def assert_same(got: Outcome, want: Outcome, *, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    torch.testing.assert_close(got.output, want.output, rtol=rtol, atol=atol)
    assert got.output.stride() == want.output.stride()
    assert got.grads.keys() == want.grads.keys()
    largest = max((g.abs().max().item() for g in want.grads.values() if g is not None and g.numel()), default=1.0)
    for name, g in want.grads.items():
        assert (got.grads[name] is None) == (g is None), name
        if g is not None:
            torch.testing.assert_close(
                got.grads[name], g, rtol=rtol, atol=atol * max(largest, 1), msg=f"gradient {name}"
            )
    assert list(got.state) == list(want.state)
    for name, t in want.state.items():
        torch.testing.assert_close(got.state[name], t, rtol=rtol, atol=atol, msg=name)


def assert_steps_alike(
    modules: tuple[nn.Module, FusedModule],
    name: str,
    *,
    steps: int = 2,
    fused: bool = True,
    n: int = 2,
    **options: bool,
) -> None:
    """Several steps with other inputs; `fused`: none of them may run stock code."""
    stock, twin = modules
    for i in range(steps):
        x = image(name, torch.float64, n=n, seed=i)
        with warnings.catch_warnings():
            warnings.simplefilter("error" if fused else "ignore", FallbackWarning)
            assert_same(step(twin, x, **options), step(stock, x, **options))
        if fused:
            assert twin.last_reason is None
