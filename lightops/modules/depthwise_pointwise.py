"""Depthwise-separable convolution, with its residual where it has one."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import Container, FusedModule
from lightops.modules._flow import Flow
from lightops.modules._piece import Piece
from lightops.modules._reader import ConvParams, Decline, Reader, Residual, Unit
from lightops.ops.depthwise_pointwise import pack_depthwise_pointwise, run_depthwise_pointwise


class _Params(NamedTuple):
    dw: ConvParams
    pw: ConvParams
    residual: bool


@dataclass(frozen=True)
class DepthwisePointwisePiece(Piece):
    """`residual`: whether x is added to the output, or the name of the block's attribute that says so."""

    dw: Unit
    pw: Unit
    residual: Residual = False

    op: ClassVar[str] = "depthwise_pointwise"

    def read(self, reader: Reader) -> _Params:
        dw, pw = reader.unit(self.dw), reader.unit(self.pw)
        if not dw.depthwise:
            raise Decline(f"{self.dw.conv} is not depthwise")
        if not pw.pointwise:
            raise Decline(f"{self.pw.conv} is not a plain 1x1 convolution")
        return _Params(dw, pw, reader.residual(self.residual))

    def in_channels(self, params: _Params) -> int:
        return params.dw.in_channels

    def uses_x_as_it_is(self, params: _Params) -> bool:
        return params.residual

    def arguments(self, params: _Params) -> tuple[tuple, dict[str, Any]]:
        dw, pw, _ = params
        return (dw.weight, pw.weight), {
            "dw_bias": dw.bias, "dw_bn": dw.bn, "pw_bias": pw.bias, "pw_bn": pw.bn, "dw_act": dw.act, "pw_act": pw.act,
            "stride": dw.stride, "padding": dw.padding, "dilation": dw.dilation,
        }  # fmt: skip

    def reference(self, x: Tensor, params: _Params) -> Tensor:
        args, kwargs = self.arguments(params)
        return reference.depthwise_pointwise(x, *args, residual=x if params.residual else None, **kwargs)

    def pack(self, params: _Params, dtype: torch.dtype, winograd: int) -> Any:
        args, kwargs = self.arguments(params)
        return pack_depthwise_pointwise(*args, dtype, **kwargs), params.residual

    def run(self, x: Tensor, packed: Any, backend: str) -> Tensor:
        weights, residual = packed
        return run_depthwise_pointwise(x, weights, x if residual else None, backend)

    def train(self, params: _Params, flow: Flow, winograd: int) -> Flow:
        return flow.around(params.residual, lambda inner: inner.conv(params.dw).conv(params.pw))


class DepthwisePointwise(Container, FusedModule):
    """`act(bn(pw(act(bn(dw(x))))))` (+ x): the depthwise result stays in cache and feeds the pointwise product."""

    @classmethod
    def from_stock(cls, stock: nn.Module, dw: Unit, pw: Unit, *, residual: Residual = False, winograd: int = 2) -> Self:
        """Stand in for `stock`, which applies the units `dw` and `pw` in this order (and adds x, if `residual`)."""
        return cls.from_piece(stock, DepthwisePointwisePiece(dw, pw, residual), winograd)
