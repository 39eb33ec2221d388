"""An `nn.Sequential` whose runs of children are fused."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from lightops.modules._base import exporting_to_onnx, is_jit_tracing
from lightops.modules._walk import Chain, Run, walkable


class FusedSequential(Chain, nn.Sequential):
    """A Sequential with the same children, of which some runs are computed as one op."""

    _flat = True

    @classmethod
    def from_stock(cls, stock: nn.Sequential, runs: list[Run], *, winograd: int = 2) -> Self:
        """Stand in for `stock`; `runs` lists disjoint runs of consecutive children, by name, in order."""
        if type(stock).forward is not nn.Sequential.forward:
            raise TypeError(
                f"FusedSequential.from_stock: {type(stock).__name__} has a forward of its own, wants nn.Sequential's"
            )
        return cls(stock, runs, winograd)

    def forward(self, input: Tensor) -> Any:
        if torch.compiler.is_compiling():
            return self._whole_stock(input) if exporting_to_onnx() else self._trace_walk(input)
        if is_jit_tracing():
            return self._stock_forward(input)
        if not walkable(input):
            return self._whole_stock(input)
        return self._walk(self._current_plan(), input)

    def _paths(self) -> list[str]:
        return list(self._modules)

    def _holds(self, plan: Any) -> bool:
        # Children may also have been appended.
        return len(self._modules) == len(plan.links) and super()._holds(plan)

    def __getitem__(self, idx: slice | int) -> Any:
        return self._stock[idx]
