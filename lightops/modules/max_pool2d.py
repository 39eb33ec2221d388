"""A max-pool between fused blocks."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import FusedModule
from lightops.modules._flow import Flow
from lightops.modules._piece import Piece
from lightops.modules._reader import Reader
from lightops.ops.max_pool2d import MaxPool2dPacked, pack_max_pool2d, run_max_pool2d


@dataclass(frozen=True)
class MaxPool2dPiece(Piece):
    """The `nn.MaxPool2d` at `pool`; "" is the block itself."""

    pool: str = ""

    op: ClassVar[str] = "max_pool2d"

    def read(self, reader: Reader) -> MaxPool2dPacked:
        return pack_max_pool2d(*reader.max_pool_window(self.pool))

    def in_channels(self, params: MaxPool2dPacked) -> None:
        return None

    def arguments(self, params: MaxPool2dPacked) -> tuple[tuple, dict[str, Any]]:
        return tuple(params), {}

    def reference(self, x: Tensor, params: MaxPool2dPacked) -> Tensor:
        return reference.max_pool2d(x, *params)

    def pack(self, params: MaxPool2dPacked, dtype: torch.dtype, winograd: int) -> MaxPool2dPacked:
        return params

    run = staticmethod(run_max_pool2d)

    def train(self, params: MaxPool2dPacked, flow: Flow, winograd: int) -> Flow:
        return flow.max_pool(*params)


class MaxPool2d(FusedModule, nn.MaxPool2d):
    """A max-pool on channels_last tensors. A swap fuses one only next to something fused, as a step of a
    `FusedSequential`."""

    @classmethod
    def from_stock(cls, stock: nn.MaxPool2d, *, winograd: int = 2) -> Self:
        """Stand in for `stock`."""
        return cls.from_piece(stock, MaxPool2dPiece(), winograd)
