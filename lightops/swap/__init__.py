"""One call that makes a model's blocks fused, and one that undoes it."""

from lightops.swap.core import explain, swap_, unswap_
from lightops.swap.report import Declined, Fused, SwapError, SwapReport

__all__ = ["Declined", "Fused", "SwapError", "SwapReport", "explain", "swap_", "unswap_"]
