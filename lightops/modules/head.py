"""The last layers of a network: (BN), activation, global average."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import Container, FusedModule
from lightops.modules._flow import Flow
from lightops.modules._piece import Piece
from lightops.modules._reader import Reader
from lightops.ops import training
from lightops.ops.head import pack_head, run_head
from lightops.reference import BatchNormParams


class _Params(NamedTuple):
    bn: BatchNormParams | None
    act: str
    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True)
class HeadPiece(Piece):
    """Global average of `act(norm(x))`: `[N, C, 1, 1]` as the AdaptiveAvgPool2d(1) at `pool` returns it, `[N, C]`
    behind the Flatten at `flatten`, `[N, O]` behind the Linear at `fc`."""

    norm: str | None
    act: str | None
    pool: str
    flatten: str | None = None
    fc: str | None = None

    op: ClassVar[str] = "head"

    def read(self, reader: Reader) -> _Params:
        bn, act = reader.pre(self.norm, self.act) if self.norm else (None, reader.then("none", self.act, "none"))
        reader.global_pool(self.pool)
        if self.flatten:
            reader.flatten(self.flatten)
        weight, bias = reader.linear(self.fc) if self.fc else (None, None)
        return _Params(bn, act, weight, bias)

    def in_channels(self, params: _Params) -> int | None:
        if params.weight is not None:
            return params.weight.shape[1]
        known = (t for t in (params.bn or ())[:4] if t is not None)
        return next((t.shape[0] for t in known), None)

    def uses_x_as_it_is(self, params: _Params) -> bool:
        return True

    def arguments(self, params: _Params) -> tuple[tuple, dict[str, Any]]:
        return (params.bn,), {"act": params.act, "weight": params.weight, "bias": params.bias}

    def reference(self, x: Tensor, params: _Params) -> Tensor:
        return self._shaped(reference.head(x, params.bn, act=params.act, weight=params.weight, bias=params.bias))

    def pack(self, params: _Params, dtype: torch.dtype, winograd: int) -> Any:
        return pack_head(*params, dtype)

    def run(self, x: Tensor, packed: Any, backend: str) -> Tensor:
        return self._shaped(run_head(x, packed, backend))

    def train(self, params: _Params, flow: Flow, winograd: int) -> Flow:
        flow = flow.then(params.bn, params.act)
        y = training.bn_act_mean(flow.raw, flow.prologue())
        if params.weight is not None:
            return flow.plain(F.linear(y, params.weight, params.bias))
        return flow.plain(self._shaped(y))

    def _shaped(self, y: Tensor) -> Tensor:
        return y if self.flatten else y[:, :, None, None]


class Head(Container, FusedModule):
    """BN, activation, global average pool and classifier in one pass."""

    @classmethod
    def from_stock(
        cls,
        stock: nn.Module,
        norm: str | None = "norm",
        act: str | None = "relu",
        pool: str = "pool",
        flatten: str | None = None,
        fc: str | None = None,
        *,
        winograd: int = 2,
    ) -> Self:
        """Stand in for `stock`, whose forward is `fc(flatten(pool(act(norm(x)))))` with a global average pool; what is
        None is not there. Names are dotted paths below `stock`."""
        return cls.from_piece(stock, HeadPiece(norm, act, pool, flatten, fc), winograd)
