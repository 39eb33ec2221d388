"""How one op is found in stock children: what each `modules/<op>.py` implements."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightops.modules._flow import Flow
from lightops.modules._reader import Decline, Reader


@dataclass(frozen=True, kw_only=True)
class Piece:
    """How one op reads its parameters from stock children. Subclasses are frozen dataclasses of paths: no state, cheap
    to copy and pickle.

    What the forward of the block may depend on besides the op's parameters is fused only while it is as it was:

    neutral: children that do nothing in evaluation (Identity, dropout).
    acts: `(path, name)` of activation modules whose place in the forward was found by trial.
    constants: `(path, attribute, value)` of plain attributes of the block (path "") or a child.

    Where the kernel can do more than `run`, a piece also has

    run_channels_last(x, packed, backend): `run` with a channels_last result for less than converting x before it.
    out_shape(x, packed), run_into(x, packed, out, backend): `(channels, height, width)` of the result, and `run` into
        `out`, which may be the channel prefix of a dense block's buffer.
    """

    neutral: tuple[str, ...] = ()
    acts: tuple[tuple[str, str], ...] = ()
    constants: tuple[tuple[str, str, Any], ...] = ()

    op: ClassVar[str]
    dims: ClassVar[int] = 4  # of x
    drops: ClassVar[bool] = False  # whether `train` applies the dropout of its neutral children

    def read_all(self, reader: Reader) -> Any:
        """`read`, after checking what is not part of the op's parameters."""
        for path in self.neutral:
            reader.inactive(path)
        for path, act in self.acts:
            if reader.act(path) != act:
                raise Decline(f"{path} is no longer {act}")
        for path, name, value in self.constants:
            now = reader.attr(reader.module(path) if path else reader.block, name)
            if now != value and not (name == "training" and reader.any_mode):
                raise Decline(
                    f"{f'{path}.{name}' if path else name} is {now!r}, not {value!r} as when the block was proven"
                )
        return self.read(reader)

    def read(self, reader: Reader) -> Any:
        """The op's current parameters; raises Decline where they have no exact fused form."""
        raise NotImplementedError

    def in_channels(self, params: Any) -> int | None:
        """The channels x must have; None where any number will do."""
        raise NotImplementedError

    def slower(self, params: Any) -> str | None:
        """Why stock is the faster of the two by measurement, whatever the machine; None where it is not."""
        return None

    def uses_x_as_it_is(self, params: Any) -> bool:
        """Whether stock normalises x or adds it to the result, which autocast does in x's own dtype."""
        return False

    def arguments(self, params: Any) -> tuple[tuple, dict[str, Any]]:
        """`params` as the arguments of `lightops.ops.<op>` and of its reference that follow x."""
        raise NotImplementedError

    def reference(self, x: Tensor, params: Any) -> Tensor:
        """The op by its specification, for a backend that was asked for by name and for proofs."""
        raise NotImplementedError

    def pack(self, params: Any, dtype: torch.dtype, winograd: int) -> Any:
        """`params` folded and packed for activations of `dtype`, as `run` takes them."""
        raise NotImplementedError

    def run(self, x: Tensor, packed: Any, backend: str) -> Tensor:
        """`backend` is any but the reference, which `packed` was made for."""
        raise NotImplementedError

    def train(self, params: Any, flow: Flow, winograd: int) -> Flow:
        """The training forward, of params read by a `TrainReader`. Decline where there is none."""
        raise Decline(f"{self.op} has no training form")
