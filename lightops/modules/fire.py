"""The Fire module of SqueezeNet, with the bypass that its block adds."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import Container, FusedModule
from lightops.modules._flow import Flow
from lightops.modules._piece import Piece
from lightops.modules._reader import ConvParams, Decline, Reader, Unit
from lightops.ops import training
from lightops.ops._native import choose_algo
from lightops.ops.conv1x1_bn_act import pack_conv1x1_bn_act, run_conv1x1_bn_act
from lightops.ops.fire import pack_fire, run_fire

# torchvision's names.
SQUEEZE, EXPAND1X1, EXPAND3X3 = (Unit(n, act=f"{n}_activation") for n in ("squeeze", "expand1x1", "expand3x3"))


class _Params(NamedTuple):
    squeeze: ConvParams
    expand1x1: ConvParams
    expand3x3: ConvParams
    bypass: bool
    bypass_conv: ConvParams | None


@dataclass(frozen=True)
class FirePiece(Piece):
    """`bypass`: None; True where the block adds its input; or the path of a child (Identity or a 1x1 convolution) whose
    output it adds.
    """

    squeeze: Unit
    expand1x1: Unit
    expand3x3: Unit
    bypass: str | bool | None = None

    op: ClassVar[str] = "fire"

    def read(self, reader: Reader) -> _Params:
        convs = [reader.unit(u) for u in (self.squeeze, self.expand1x1, self.expand3x3)]
        squeeze, expand1x1, expand3x3 = convs
        if any(c.bn is not None or c.act != "relu" for c in convs):
            raise Decline("a Fire convolution has BN or an activation other than ReLU")
        if not squeeze.pointwise or not expand1x1.pointwise:
            raise Decline("squeeze or expand1x1 is not a plain 1x1 convolution")
        if not expand3x3.keeps_size(3):
            raise Decline(f"{self.expand3x3.conv} is not a 3x3 convolution of stride 1 and padding 1")
        conv = None
        if isinstance(self.bypass, str) and type(reader.module(self.bypass)) is not nn.Identity:
            conv = reader.conv(self.bypass)
            if not conv.pointwise:
                raise Decline(f"{self.bypass} is not a plain 1x1 convolution")
        return _Params(*convs, bypass=bool(self.bypass), bypass_conv=conv)

    def in_channels(self, params: _Params) -> int:
        return params.squeeze.in_channels

    def uses_x_as_it_is(self, params: _Params) -> bool:
        return params.bypass and params.bypass_conv is None

    def arguments(self, params: _Params) -> tuple[tuple, dict[str, Any]]:
        tensors = [t for conv in params[:3] for t in (conv.weight, conv.bias)]
        return tuple(tensors), {}

    def reference(self, x: Tensor, params: _Params) -> Tensor:
        bypass = x if params.bypass else None
        if params.bypass_conv is not None:
            bypass = F.conv2d(x, params.bypass_conv.weight, params.bypass_conv.bias)
        return reference.fire(x, *self.arguments(params)[0], bypass=bypass)

    def pack(self, params: _Params, dtype: torch.dtype, winograd: int) -> Any:
        conv = params.bypass_conv
        around = None if conv is None else pack_conv1x1_bn_act(conv.weight, conv.bias, None, "none", dtype)
        return pack_fire(*self.arguments(params)[0], dtype, winograd), params.bypass, around

    def run(self, x: Tensor, packed: Any, backend: str) -> Tensor:
        weights, bypass, around = packed
        if around is not None:
            return run_fire(x, weights, run_conv1x1_bn_act(x, around, backend=backend), backend)
        return run_fire(x, weights, x if bypass else None, backend)

    def train(self, params: _Params, flow: Flow, winograd: int) -> Flow:
        x = flow.materialise()
        tensors = [None if t is None else t.to(x.dtype) for t in self.arguments(params)[0]]
        out = training.fire_train(x, *tensors, choose_algo(winograd, (3, 3), x.dtype))
        if params.bypass_conv is not None:
            return flow.plain(flow.plain(x).conv(params.bypass_conv).materialise(out))
        return flow.plain(out + x if params.bypass else out)


class Fire(Container, FusedModule):
    """Squeeze and both expands in one op: the squeezed tensor stays in cache, the two halves are written side by
    side.
    """

    @classmethod
    def from_stock(
        cls,
        stock: nn.Module,
        squeeze: Unit = SQUEEZE,
        expand1x1: Unit = EXPAND1X1,
        expand3x3: Unit = EXPAND3X3,
        *,
        bypass: str | bool | None = None,
        winograd: int = 2,
    ) -> Self:
        """Stand in for `stock`; the defaults are torchvision's names.

        Args:
            bypass: True if the block adds its input to the output, or the name of the child whose output it adds.
            winograd: output tile of the 3x3 expand: 0 direct, 2 or 4.
        """
        return cls.from_piece(stock, FirePiece(squeeze, expand1x1, expand3x3, bypass), winograd)
