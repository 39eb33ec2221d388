"""What a rule says about a module."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from lightops.modules import FusedModule
from lightops.modules._piece import Piece


class Proposal(NamedTuple):
    """`build(stock, winograd)` makes the fused module. `rest` are children that stay stock and are looked into on their
    own.
    """

    op: str
    pieces: list[Piece]
    build: Callable[[nn.Module, int], FusedModule]
    rest: tuple[str, ...] = ()


class Refusal(NamedTuple):
    """The module is of the rule's family, but has no exact fused form."""

    op: str
    reason: str
