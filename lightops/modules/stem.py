"""The first layers of a network, and any other convolution with what follows it."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import Container, FusedModule
from lightops.modules._flow import Flow
from lightops.modules._piece import Piece
from lightops.modules._reader import ConvParams, Decline, Reader, Unit
from lightops.ops import training
from lightops.ops.stem import pack_stem, run_stem, run_stem_out, stem_out_size
from lightops.reference import MaxPool


class _Params(NamedTuple):
    conv: ConvParams
    pool: MaxPool | None


@dataclass(frozen=True)
class StemPiece(Piece):
    """A convolution with what follows it; `pool` is the path of a max-pool behind that."""

    unit: Unit
    pool: str | None = None

    op: ClassVar[str] = "stem"

    def read(self, reader: Reader) -> _Params:
        conv = reader.unit(self.unit)
        if conv.groups != 1 or conv.dilation != (1, 1):
            raise Decline(f"{self.unit.conv} has groups={conv.groups}, dilation={conv.dilation}")
        return _Params(conv, reader.max_pool(self.pool) if self.pool else None)

    def in_channels(self, params: _Params) -> int:
        return params.conv.in_channels

    def arguments(self, params: _Params) -> tuple[tuple, dict[str, Any]]:
        conv, pool = params
        return (conv.weight, conv.bias, conv.bn), {
            "act": conv.act,
            "stride": conv.stride,
            "padding": conv.padding,
            "pool": pool,
        }

    def reference(self, x: Tensor, params: _Params) -> Tensor:
        args, kwargs = self.arguments(params)
        return reference.stem(x, *args, **kwargs)

    def pack(self, params: _Params, dtype: torch.dtype, winograd: int) -> Any:
        args, kwargs = self.arguments(params)
        return pack_stem(*args, dtype, **kwargs)

    run = staticmethod(run_stem)

    def run_channels_last(self, x: Tensor, packed: Any, backend: str) -> Tensor:
        # The kernel reads an NCHW image as it lies: converting it first would be one more pass.
        return run_stem(x, packed._replace(channels_last=True), backend)

    def out_shape(self, x: Tensor, packed: Any) -> tuple[int, int, int]:
        return packed.out_channels, *stem_out_size(x.shape[2:], packed)

    run_into = staticmethod(run_stem_out)

    def train(self, params: _Params, flow: Flow, winograd: int) -> Flow:
        conv, pool = params
        if pool is None:
            return flow.conv(conv)
        window = (pool.kernel,) * 2, (pool.stride,) * 2, (pool.padding,) * 2, pool.ceil_mode
        pending = flow.norm is not None or flow.act != "none"
        if conv.bn is None and not pending and training.stem_train_fits(flow.raw, conv.act, window[0]):
            weight, bias = (None if t is None else t.to(flow.raw.dtype) for t in (conv.weight, conv.bias))
            return flow.plain(training.stem_train(flow.raw, weight, bias, conv.stride, conv.padding, conv.act, *window))
        return flow.conv(conv).max_pool(*window)


class Stem(Container, FusedModule):
    """Convolution, BN, activation and max-pool in one op."""

    @classmethod
    def from_stock(
        cls, stock: nn.Module, conv: str = "0", norm: str | None = "1", act: str | None = "2", pool: str | None = None,
        *, fn: str = "none", winograd: int = 2,
    ) -> Self:  # fmt: skip
        """Stand in for `stock`, whose forward is `pool(act(norm(conv(x))))`; names are dotted paths below `stock`."""
        return cls.from_piece(stock, StemPiece(Unit(conv, norm, act, fn), pool), winograd)
