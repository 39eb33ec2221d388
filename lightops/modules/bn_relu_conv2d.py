"""BN, activation, convolution (and what follows it) as one pass."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import Container, FusedModule
from lightops.modules._flow import Flow
from lightops.modules._piece import Piece
from lightops.modules._reader import ConvParams, Decline, Reader, Unit
from lightops.ops.bn_relu_conv2d import pack_bn_relu_conv2d, run_bn_relu_conv2d
from lightops.reference import BatchNormParams

# Stock leaves out what a tap reads from the padding: 960 -> 256 channels, 3x3, on a 14x14 map take 4.2 ms of stock's
# 2.0 with dilation 12 and 5.7 of 1.7 with 24, but 3.6 of 3.9 with 2 (one core, AVX-512).
_MOST_DILATION = 2


class _Params(NamedTuple):
    bn: BatchNormParams | None
    act: str
    conv: ConvParams


@dataclass(frozen=True)
class BNReLUConv2dPiece(Piece):
    """`unit` with BN `norm` and activation `act` (or `fn`) before it; without `norm` the ordinary conv-BN-
    activation.
    """

    unit: Unit
    norm: str | None = None
    act: str | None = None
    fn: str = "none"

    op: ClassVar[str] = "bn_relu_conv2d"

    def read(self, reader: Reader) -> _Params:
        bn, act = reader.pre(self.norm, self.act, self.fn) if self.norm else (None, "none")
        conv = reader.unit(self.unit)
        if conv.groups != 1:
            raise Decline(f"{self.unit.conv} has groups={conv.groups}")
        return _Params(bn, act, conv)

    def slower(self, params: _Params) -> str | None:
        conv = params.conv
        if max(conv.dilation) <= _MOST_DILATION or conv.weight.device.type != "cpu":
            return None
        return f"{self.unit.conv} has dilation={conv.dilation}: stock skips the taps outside the map and is faster"

    def in_channels(self, params: _Params) -> int:
        return params.conv.in_channels

    def uses_x_as_it_is(self, params: _Params) -> bool:
        return self.norm is not None

    def arguments(self, params: _Params) -> tuple[tuple, dict[str, Any]]:
        conv = params.conv
        return (params.bn, conv.weight, conv.bias), {
            "act": params.act, "stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation,
            "out_bn": conv.bn, "out_act": conv.act,
        }  # fmt: skip

    def reference(self, x: Tensor, params: _Params) -> Tensor:
        args, kwargs = self.arguments(params)
        return reference.bn_relu_conv2d(x, *args, **kwargs)

    def pack(self, params: _Params, dtype: torch.dtype, winograd: int) -> Any:
        args, kwargs = self.arguments(params)
        return pack_bn_relu_conv2d(*args, dtype, winograd=winograd, **kwargs)

    run = staticmethod(run_bn_relu_conv2d)

    def train(self, params: _Params, flow: Flow, winograd: int) -> Flow:
        return flow.then(params.bn, params.act).conv(params.conv)


class BNReLUConv2d(Container, FusedModule):
    """`conv(act(bn(x)))` in one pass over memory, for a block whose children are a BN, an activation and a
    convolution.
    """

    @classmethod
    def from_stock(
        cls,
        stock: nn.Module,
        norm: str = "norm",
        act: str | None = "relu",
        conv: str = "conv",
        *,
        fn: str = "none",
        winograd: int = 2,
    ) -> Self:
        """Stand in for `stock`, whose forward is `conv(act(norm(x)))`.

        Args:
            norm, act, conv: dotted names of the children below `stock`; `act=None` when the activation is in the
            forward.
            fn: that activation's name.
            winograd: output tile of the 3x3 kernels: 0 direct, 2 or 4.
        """
        return cls.from_piece(stock, BNReLUConv2dPiece(Unit(conv), norm, act, fn), winograd)
