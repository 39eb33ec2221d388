"""Pointwise convolution, BN, activation and an optional residual."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import Container, FusedModule
from lightops.modules._flow import Flow
from lightops.modules._piece import Piece
from lightops.modules._reader import ConvParams, Decline, Reader, Residual, Unit
from lightops.ops.conv1x1_bn_act import pack_conv1x1_bn_act, run_conv1x1_bn_act


class _Params(NamedTuple):
    conv: ConvParams
    residual: bool


@dataclass(frozen=True)
class Conv1x1BNActPiece(Piece):
    """`residual`: whether x is added to the output, or the name of the block's attribute that says so."""

    unit: Unit
    residual: Residual = False

    op: ClassVar[str] = "conv1x1_bn_act"

    def read(self, reader: Reader) -> _Params:
        conv = reader.unit(self.unit)
        if not conv.pointwise:
            raise Decline(f"{self.unit.conv} is not a plain 1x1 convolution")
        return _Params(conv, reader.residual(self.residual))

    def in_channels(self, params: _Params) -> int:
        return params.conv.in_channels

    def uses_x_as_it_is(self, params: _Params) -> bool:
        return params.residual

    def arguments(self, params: _Params) -> tuple[tuple, dict[str, Any]]:
        conv = params.conv
        return (conv.weight, conv.bias, conv.bn), {"act": conv.act}

    def reference(self, x: Tensor, params: _Params) -> Tensor:
        args, kwargs = self.arguments(params)
        return reference.conv1x1_bn_act(x, *args, residual=x if params.residual else None, **kwargs)

    def pack(self, params: _Params, dtype: torch.dtype, winograd: int) -> Any:
        conv = params.conv
        return pack_conv1x1_bn_act(conv.weight, conv.bias, conv.bn, conv.act, dtype), params.residual

    def run(self, x: Tensor, packed: Any, backend: str) -> Tensor:
        weights, residual = packed
        return run_conv1x1_bn_act(x, weights, x if residual else None, backend)

    def train(self, params: _Params, flow: Flow, winograd: int) -> Flow:
        return flow.around(params.residual, lambda inner: inner.conv(params.conv))


class Conv1x1BNAct(Container, FusedModule):
    """`act(bn(conv1x1(x)))` as one matrix product, BN folded into its weight."""

    @classmethod
    def from_stock(
        cls,
        stock: nn.Module,
        conv: str = "0",
        norm: str | None = "1",
        act: str | None = "2",
        *,
        fn: str = "none",
        winograd: int = 2,
    ) -> Self:
        """Stand in for `stock`, whose forward is `act(norm(conv(x)))`; names are dotted paths below `stock`."""
        return cls.from_piece(stock, Conv1x1BNActPiece(Unit(conv, norm, act, fn)), winograd)
