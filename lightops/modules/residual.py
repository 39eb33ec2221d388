"""A residual block with a shortcut or an activation of its own, its runs of steps fused."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from lightops.modules._flow import Flow, Pass
from lightops.modules._reader import Decline
from lightops.modules._walk import Chain, Run
from lightops.modules.chain import FusedChain


class FusedResidual(FusedChain):
    """`act(steps(x) + x)`, or `act(steps(x) + shortcut(x))` where the block has a child of that name (post-activation,
    ResNet); without `act`, and with x normalised by `first` for both, a pre-activation block that changes shape.

    Sum, activation, shortcut and `first` are the block's own modules, called as they are; inside the block tensors stay
    channels_last.
    """

    @classmethod
    def from_stock(
        cls,
        stock: nn.Module,
        paths: tuple[str, ...],
        runs: list[Run],
        *,
        shortcut: str,
        act: str | None,
        first: str | None = None,
        neutral: tuple[str, ...] = (),
        winograd: int = 2,
    ) -> Self:
        """Stand in for `stock`. `paths`, `runs` and `neutral` are FusedChain's; a shortcut that is None when the block
        is swapped is the input itself."""
        block = super().from_stock(stock, paths, runs, residual=True, neutral=neutral, winograd=winograd)
        adds_x = stock._modules.get(shortcut) is None
        block.__dict__.update(_shortcut=shortcut, _act=act, _first=first, _adds_x=adds_x)
        return block

    def _begin(self, x: Tensor, forward: Pass | None = None) -> tuple[Tensor, Tensor]:
        if self._first is None:
            return x, x
        x = self._call(self._first, x, forward)
        return x, self._call(self._shortcut, x, forward)

    def _finish(self, y: Any, aside: Tensor, forward: Pass | None = None) -> Any:
        ready = self._adds_x or self._first is not None
        other = aside if ready else self._call(self._shortcut, aside, forward)
        fresh = not torch.is_grad_enabled() and type(y) is Tensor and y.dtype is other.dtype and y is not aside
        if fresh and y.shape[2:] == (1, 1):  # where layouts look alike, stock's strides are the shortcut's
            y = y.view(-1).view(y.shape)
        y = y.add_(other) if fresh else y + other
        return y if self._act is None else self._modules[self._act](y)

    def _call(self, name: str, x: Tensor, forward: Pass | None) -> Tensor:
        """A child of the block, as it is."""
        child = self._modules[name]
        if forward is not None:
            forward.keep(child)
        return child(x)

    def _train_flow(self, flow: Flow) -> Flow:
        if self._must_be_stock():
            raise Decline("a hook or dropout inside")
        if self._adds_uncast(flow.raw):
            raise Decline(f"autocast with a {flow.raw.dtype} input, which stock adds uncast")
        x, aside = self._begin(flow.materialise(), flow.forward)
        y = Chain._train_flow(self, flow.plain(x)).materialise()
        return flow.plain(self._finish(y, aside, flow.forward))

    def _adds_input(self) -> bool:
        return self._adds_x

    def _must_be_stock(self) -> bool:
        called = [name for name in (self._act, self._first) if name is not None]
        gone = any(self._modules.get(name) is None for name in called)
        return gone or (self._modules.get(self._shortcut) is None) != self._adds_x or super()._must_be_stock()
