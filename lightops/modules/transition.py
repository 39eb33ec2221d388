"""The transition between dense blocks."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import Container, FusedModule
from lightops.modules._flow import Flow
from lightops.modules._piece import Piece
from lightops.modules._reader import ConvParams, Decline, Reader
from lightops.ops.transition import pack_transition, run_transition, run_transition_out
from lightops.reference import BatchNormParams


class _Params(NamedTuple):
    bn: BatchNormParams
    conv: ConvParams
    dropouts: tuple[nn.Module, ...] = ()  # those that are active


@dataclass(frozen=True)
class TransitionPiece(Piece):
    """`fn` is the activation, and `pool` None, where the block's own forward applies them."""

    norm: str
    act: str | None
    conv: str
    pool: str | None
    fn: str = "none"

    op: ClassVar[str] = "transition"

    def read(self, reader: Reader) -> _Params:
        bn, act = reader.pre(self.norm, self.act, self.fn)
        if act != "relu":
            raise Decline(f"activation {act} before the transition's convolution, not relu")
        conv = reader.conv(self.conv)
        if not conv.pointwise:
            raise Decline(f"{self.conv} is not a plain 1x1 convolution")
        if self.pool:
            reader.halving_pool(self.pool)
        return _Params(bn, conv, tuple(reader.dropouts))

    def in_channels(self, params: _Params) -> int:
        return params.conv.in_channels

    def uses_x_as_it_is(self, params: _Params) -> bool:
        return True

    def arguments(self, params: _Params) -> tuple[tuple, dict[str, Any]]:
        return (params.bn, params.conv.weight, params.conv.bias), {}

    def reference(self, x: Tensor, params: _Params) -> Tensor:
        return reference.transition(x, *self.arguments(params)[0])

    def pack(self, params: _Params, dtype: torch.dtype, winograd: int) -> Any:
        return pack_transition(*self.arguments(params)[0], dtype)

    run = staticmethod(run_transition)

    def out_shape(self, x: Tensor, packed: Any) -> tuple[int, int, int]:
        return packed.out_channels, x.shape[2] // 2, x.shape[3] // 2

    run_into = staticmethod(run_transition_out)

    drops: ClassVar[bool] = True

    def train(self, params: _Params, flow: Flow, winograd: int) -> Flow:
        flow = flow.then(params.bn, "relu")
        height, width = flow.raw.shape[2:]
        if min(height, width) < 2:
            raise Decline(f"a map of {height}x{width} holds no 2x2 window")
        if not params.dropouts:
            return flow.conv(params.conv, pool=True, stats=params.bn.batch)
        # Dropout stands between the convolution and the pool, which do not commute then.
        return flow.plain(F.avg_pool2d(flow.conv(params.conv).dropped(params.dropouts).raw, 2))


class Transition(Container, FusedModule):
    """BN-ReLU, 2x2 average pool, 1x1 convolution: pooled first, because the average and the 1x1 commute."""

    @classmethod
    def from_stock(
        cls,
        stock: nn.Module,
        norm: str = "norm",
        act: str | None = "relu",
        conv: str = "conv",
        pool: str = "pool",
        *,
        drop: str | None = None,
        winograd: int = 2,
    ) -> Self:
        """Stand in for `stock`; the defaults are torchvision's names. `drop` names a dropout between conv and pool."""
        return cls.from_piece(stock, TransitionPiece(norm, act, conv, pool, neutral=(drop,) if drop else ()), winograd)
