"""The inverted residual of MobileNetV2 as one op."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import Container, FusedModule
from lightops.modules._flow import Flow
from lightops.modules._piece import Piece
from lightops.modules._reader import ConvParams, Decline, Reader, Residual, Unit
from lightops.ops.inverted_residual import pack_inverted_residual, run_inverted_residual

# torchvision's names.
EXPAND = Unit("conv.0.0", "conv.0.1", "conv.0.2")
DEPTHWISE = Unit("conv.1.0", "conv.1.1", "conv.1.2")
PROJECT = Unit("conv.2", "conv.3")


class _Params(NamedTuple):
    ex: ConvParams
    dw: ConvParams
    pw: ConvParams
    residual: bool


@dataclass(frozen=True)
class InvertedResidualPiece(Piece):
    """`residual`: whether x is added to the output, or the name of the block's attribute that says so."""

    ex: Unit
    dw: Unit
    pw: Unit
    residual: Residual = False

    op: ClassVar[str] = "inverted_residual"

    def read(self, reader: Reader) -> _Params:
        ex, dw, pw = reader.unit(self.ex), reader.unit(self.dw), reader.unit(self.pw)
        if not ex.pointwise or not pw.pointwise:
            raise Decline(f"{self.ex.conv} or {self.pw.conv} is not a plain 1x1 convolution")
        if not dw.depthwise or dw.dilation != (1, 1):
            raise Decline(f"{self.dw.conv} is not a depthwise convolution of dilation 1")
        if ex.act != dw.act or pw.act != "none":
            raise Decline(f"activations {ex.act}, {dw.act}, {pw.act} are not those of an inverted residual")
        return _Params(ex, dw, pw, reader.residual(self.residual))

    def in_channels(self, params: _Params) -> int:
        return params.ex.in_channels

    def uses_x_as_it_is(self, params: _Params) -> bool:
        return params.residual

    def arguments(self, params: _Params) -> tuple[tuple, dict[str, Any]]:
        ex, dw, pw, residual = params
        return (ex.weight, dw.weight, pw.weight), {
            "ex_bias": ex.bias, "ex_bn": ex.bn, "dw_bias": dw.bias, "dw_bn": dw.bn, "pw_bias": pw.bias, "pw_bn": pw.bn,
            "act": ex.act, "stride": dw.stride, "padding": dw.padding, "residual": residual,
        }  # fmt: skip

    def reference(self, x: Tensor, params: _Params) -> Tensor:
        args, kwargs = self.arguments(params)
        return reference.inverted_residual(x, *args, **kwargs)

    def pack(self, params: _Params, dtype: torch.dtype, winograd: int) -> Any:
        args, kwargs = self.arguments(params)
        return pack_inverted_residual(*args, dtype, **kwargs)

    run = staticmethod(run_inverted_residual)

    def train(self, params: _Params, flow: Flow, winograd: int) -> Flow:
        ex, dw, pw, residual = params
        return flow.around(residual, lambda inner: inner.conv(ex).conv(dw).conv(pw))


class InvertedResidual(Container, FusedModule):
    """`bn(pw(act(bn(dw(act(bn(ex(x)))))))) (+ x)`: the expanded tensor never leaves cache."""

    @classmethod
    def from_stock(
        cls,
        stock: nn.Module,
        ex: Unit = EXPAND,
        dw: Unit = DEPTHWISE,
        pw: Unit = PROJECT,
        *,
        residual: Residual = "use_res_connect",
        winograd: int = 2,
    ) -> Self:
        """Stand in for `stock`, which applies the units `ex`, `dw`, `pw` in this order and adds x if `residual` (or the
        attribute of that name) says so. The defaults fit torchvision's MobileNetV2 blocks with an expansion.
        """
        return cls.from_piece(stock, InvertedResidualPiece(ex, dw, pw, residual), winograd)
