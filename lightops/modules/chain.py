"""A residual block of which only some pieces have a fused form (squeeze-and-excite or padding stays stock)."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from lightops.modules._base import Container, exporting_to_onnx, is_jit_tracing
from lightops.modules._flow import Flow, Pass
from lightops.modules._guard import is_hooked
from lightops.modules._reader import Decline, Residual
from lightops.modules._walk import Chain, Run, walkable


class FusedChain(Container, Chain):
    """`steps(x)` or `steps(x) + x`, with the runs of steps that have a fused form fused."""

    @classmethod
    def from_stock(
        cls,
        stock: nn.Module,
        paths: tuple[str, ...],
        runs: list[Run],
        *,
        residual: Residual = False,
        neutral: tuple[str, ...] = (),
        winograd: int = 2,
    ) -> Self:
        """Stand in for `stock`, whose forward applies the children at `paths` in order and adds x if `residual` (or the
        attribute of that name) says so. `runs` lists disjoint runs of consecutive paths; `neutral` are further children
        of the forward that do nothing in evaluation."""
        chain = cls(stock, runs, winograd)
        containers = {path.rsplit(".", i)[0] for path in paths for i in range(1, path.count(".") + 1)}
        chain.__dict__.update(
            _children=tuple(paths), _containers=(*sorted(containers), *neutral), _neutral=neutral, _residual=residual
        )
        return chain

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            return self._whole_stock(x, *args, **kwargs)
        if is_jit_tracing():
            return self._stock_forward(x)
        compiling = torch.compiler.is_compiling()
        if not (compiling or walkable(x)) or self._must_be_stock() or self._adds_uncast(x):
            return self._whole_stock(x)
        if compiling and exporting_to_onnx():
            return self._whole_stock(x)
        return self._trace_walk(x) if compiling else self._walk(self._current_plan(), x)

    def _finish(self, y: Any, aside: Tensor, forward: Pass | None = None) -> Any:
        del forward
        return y + aside if self._adds_input() else y

    def _adds_input(self) -> bool:
        residual = self._residual
        return bool(getattr(self._stock, residual) if isinstance(residual, str) else residual)

    def _adds_uncast(self, x: Tensor) -> bool:
        """Whether autocast makes the sum one of two dtypes: whether it is in x's or in the other's depends on how stock
        writes it (`+` or `+=`).
        """
        kind = x.device.type
        if kind == "meta" or not torch.is_autocast_enabled(kind) or not self._adds_input():
            return False
        return x.dtype not in (torch.get_autocast_dtype(kind), torch.float64)

    def _train_flow(self, flow: Flow) -> Flow:
        if self._must_be_stock():
            raise Decline("a hook or dropout inside")
        if self._adds_uncast(flow.raw):
            raise Decline(f"autocast with a {flow.raw.dtype} input, which stock adds uncast")
        return flow.around(self._adds_input(), super()._train_flow)

    def _paths(self) -> list[str]:
        return list(self._children)

    def _must_be_stock(self) -> bool:
        """A hook on a container between block and children, or dropout in training: walking the children would
        miss it.
        """
        for path in self._containers:
            module = self.get_submodule(path)
            if is_hooked(module) or "forward" in module.__dict__:
                return True
        neutral = (self.get_submodule(path) for path in self._neutral)
        return any(module.training and type(module) is not nn.Identity for module in neutral)
