"""`batch_stats`: mean and variance of a batch."""

from torch import Tensor

from lightops.ops.training._op import define, nhwc_input, sums
from lightops.reference import training as reference


def batch_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance `[C]` of x `[N, C, H, W]` over batch and map (arXiv 1502.03167, algorithm 1).

    Without a derivative: an op whose prologue has `batch` set differentiates through the statistics itself.
    Shapes: x `[N, C, H, W]`, any strides. dtypes: float32, float64, bfloat16, float16; results float32 (float64).
    Raises: TypeError for a non-tensor; ValueError for a non-4-D x; RuntimeError for another dtype or an empty x.
    """
    return _op(nhwc_input("batch_stats", x).detach())


def _fake(x: Tensor) -> tuple[Tensor, Tensor]:
    return sums(x, x.shape[1]), sums(x, x.shape[1])


_op = define("batch_stats", "(Tensor x) -> (Tensor mean, Tensor var)", reference.batch_stats, _fake)
