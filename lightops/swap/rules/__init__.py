"""What each family's blocks look like. A rule gets a module and returns a Proposal, a Refusal, or None for "not
mine".
"""

from torch import nn

from lightops.swap.rules import densenet, mobilenet, residual, squeezenet, structure
from lightops.swap.rules._proposal import Proposal, Refusal

__all__ = ["Proposal", "Refusal", "propose"]

_RULES = (densenet.propose, squeezenet.propose, mobilenet.propose, residual.propose, structure.propose)


def propose(module: nn.Module) -> Proposal | Refusal | None:
    """The answer of the first rule that has one."""
    return next((answer for rule in _RULES if (answer := rule(module)) is not None), None)
