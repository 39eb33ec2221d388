"""Is the answer right: every contestant against the stock network in float64, before any is timed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# lightops must stay within twice stock's own error (the larger of its two layouts) plus what rounding the answer itself
# costs. The others only have to be the same network: they choose their own algorithms.
LIGHTOPS_FACTOR = 2.0
OTHERS_RELATIVE = {torch.float64: 1e-9, torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.1}


@dataclass(frozen=True)
class Accuracy:
    """One contestant's answer against float64: largest absolute error, the same over the largest magnitude, the share
    of pictures with the same top class, and the limit that `error` was held to."""

    error: float
    relative: float
    top1: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether the error is a number within the limit."""
        return self.error <= self.limit


def measure(answer: Any, truth: Tensor, limit: float) -> Accuracy:
    """Compares an answer (torch or numpy) with the float64 one; a wrong shape is an infinite error."""
    answer = torch.as_tensor(answer).detach().cpu().to(torch.float64)
    if answer.shape != truth.shape:
        return Accuracy(float("inf"), float("inf"), 0.0, limit)
    difference = (answer - truth).abs()
    error = float("inf") if difference.isnan().any() else difference.max().item()
    scale = truth.abs().max().item() or 1.0
    top1 = (answer.flatten(1).argmax(1) == truth.flatten(1).argmax(1)).double().mean().item()
    return Accuracy(error, error / scale, top1, limit)


def limit_for(family: str, truth: Tensor, dtype: torch.dtype, stock_errors: list[float]) -> float:
    """The largest absolute error that a contestant of this family may make."""
    scale = truth.abs().max().item()
    if family != "lightops" or not stock_errors:
        return OTHERS_RELATIVE[dtype] * scale
    return LIGHTOPS_FACTOR * max(stock_errors) + 4 * torch.finfo(dtype).eps * scale
