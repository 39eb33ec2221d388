"""A post-activation residual block: `act(steps(x) + shortcut(x))`, its runs of steps fused."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from lightops.modules._flow import Flow, Pass
from lightops.modules._reader import Decline
from lightops.modules._walk import Chain, Run
from lightops.modules.chain import FusedChain


class FusedResidual(FusedChain):
    """`act(steps(x) + x)`, or `act(steps(x) + shortcut(x))` where the block has a child of that name.

    Sum, activation and shortcut are the block's own modules, called as they are; inside the block tensors stay
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
        act: str,
        neutral: tuple[str, ...] = (),
        winograd: int = 2,
    ) -> Self:
        """Stand in for `stock`. `paths`, `runs` and `neutral` are FusedChain's; a shortcut that is None when the block
        is swapped is the input itself."""
        block = super().from_stock(stock, paths, runs, residual=True, neutral=neutral, winograd=winograd)
        block.__dict__.update(_shortcut=shortcut, _act=act, _adds_x=stock._modules.get(shortcut) is None)
        return block

    def _finish(self, y: Any, x: Tensor, forward: Pass | None = None) -> Any:
        if forward is not None and not self._adds_x:
            forward.keep(self._modules[self._shortcut])
        other = x if self._adds_x else self._modules[self._shortcut](x)
        fresh = not torch.is_grad_enabled() and type(y) is Tensor and y.dtype is other.dtype and y is not x
        if fresh and y.shape[2:] == (1, 1):  # where layouts look alike, stock's strides are the shortcut's
            y = y.view(-1).view(y.shape)
        return self._modules[self._act](y.add_(other) if fresh else y + other)

    def _train_flow(self, flow: Flow) -> Flow:
        if self._must_be_stock():
            raise Decline("a hook or dropout inside")
        if self._adds_uncast(flow.raw):
            raise Decline(f"autocast with a {flow.raw.dtype} input, which stock adds uncast")
        x = flow.materialise()
        y = Chain._train_flow(self, flow.plain(x)).materialise()
        return flow.plain(self._finish(y, x, flow.forward))

    def _adds_input(self) -> bool:
        return self._adds_x

    def _must_be_stock(self) -> bool:
        gone = self._modules.get(self._act) is None or (self._modules.get(self._shortcut) is None) != self._adds_x
        return gone or super()._must_be_stock()
