"""The Fire modules of torchvision and lightops.networks."""

from torch import nn

from lightops.modules import Fire, Unit
from lightops.modules._reader import qualified_type
from lightops.modules.fire import FirePiece
from lightops.swap.rules._proposal import Proposal, Refusal

_FIRES = frozenset({"torchvision.models.squeezenet.Fire", "lightops.networks.squeezenet.Fire"})


def propose(module: nn.Module) -> Proposal | Refusal | None:
    if qualified_type(module) not in _FIRES:
        return None
    units = [Unit(name, act=f"{name}_activation") for name in ("squeeze", "expand1x1", "expand3x3")]
    bypass = "bypass" if module._modules.get("bypass") is not None else None
    piece = FirePiece(*units, bypass)
    return Proposal(
        "fire", [piece], lambda stock, winograd: Fire.from_stock(stock, *units, bypass=bypass, winograd=winograd)
    )
