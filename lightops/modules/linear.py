"""The classifier behind pooled features: the `head` op without a map to average."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import FusedModule
from lightops.modules._flow import Flow
from lightops.modules._piece import Piece
from lightops.modules._reader import Decline, Reader
from lightops.ops.head import pack_head, run_classifier

# Where the product is at least as fast as stock's. One core, AVX-512, 14 MB read between two calls, as a
# network's other weights are: 1280 -> 1000 takes 79 us of stock's 123 at batch 1, 180 of 567 at 16, 695 of 1698 at 64;
# 1024 -> 512 takes 32 of 34, 80 of 206, 300 of 664. Smaller ones lose to the cost of a call at batch 1 (512 -> 512: 22
# of 17; 128 -> 10: 8 of 3). Larger ones than this are no light network's, and every weight is there twice.
_LEAST_WEIGHTS, _MOST_WEIGHTS = 1 << 19, 1 << 23
# The packed weights are float32 where stock's are 16 bits: bfloat16 takes 698 us of stock's 386 at batch 64, float16
# 151 of 104 at batch 1 from memory.
_DTYPES = (torch.float32, torch.float64)


class _Params(NamedTuple):
    weight: Tensor
    bias: Tensor | None
    dropouts: tuple[nn.Module, ...] = ()  # those that are active


@dataclass(frozen=True)
class LinearPiece(Piece):
    """`x @ weight.T + bias` of the `nn.Linear` at `fc` ("" is the block itself), x `[N, C]`."""

    fc: str = ""

    op: ClassVar[str] = "head"
    dims: ClassVar[int] = 2

    def read(self, reader: Reader) -> _Params:
        if torch.compiler.is_compiling():
            raise Decline("a compiled graph packs weights at every call, which costs a linear layer more than it gains")
        params = _Params(*reader.linear(self.fc), tuple(reader.dropouts))
        weight = params.weight
        if not _LEAST_WEIGHTS <= weight.numel() <= _MOST_WEIGHTS or weight.device.type != "cpu":
            raise Decline(f"a linear layer of {weight.numel()} weights on {weight.device} is left to stock")
        _check_dtype(weight.dtype)
        return params

    def in_channels(self, params: _Params) -> int:
        return params.weight.shape[1]

    def arguments(self, params: _Params) -> tuple[tuple, dict[str, Any]]:
        return (None,), {"act": "none", "weight": params.weight, "bias": params.bias}

    def reference(self, x: Tensor, params: _Params) -> Tensor:
        return reference.head(x[:, :, None, None], weight=params.weight, bias=params.bias)

    def pack(self, params: _Params, dtype: torch.dtype, winograd: int) -> Any:
        _check_dtype(dtype)
        return pack_head(None, "none", params.weight, params.bias, dtype)

    run = run_channels_last = staticmethod(run_classifier)

    drops: ClassVar[bool] = True

    def train(self, params: _Params, flow: Flow, winograd: int) -> Flow:
        x = flow.dropped(params.dropouts).raw
        return flow.plain(F.linear(x, params.weight, params.bias))


class Linear(FusedModule, nn.Linear):
    """A classifier on `[N, C]` features; inputs of other ranks run the stock forward."""

    @classmethod
    def from_stock(cls, stock: nn.Linear, *, winograd: int = 2) -> Self:
        """Stand in for `stock`."""
        return cls.from_piece(stock, LinearPiece(), winograd)


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in _DTYPES:
        raise Decline(f"a linear layer in {dtype} is left to stock")
