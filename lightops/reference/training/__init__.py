"""The specification of every training op: the differentiable forward in pure torch.

A training op reads a raw tensor through a *prologue* `u = act((x - mean) / sqrt(var + eps) * gamma + beta)`. With
`batch` the statistics are x's own and the gradient goes through them (Ioffe, Szegedy, arXiv 1502.03167); otherwise they
are constants, running statistics as a rule. float64 is computed in float64, everything else in float32.
"""

from lightops.reference.training.batch_stats import batch_stats
from lightops.reference.training.bn_act import bn_act, prologue
from lightops.reference.training.bn_act_conv2d import bn_act_conv2d
from lightops.reference.training.bn_act_max_pool2d import bn_act_max_pool2d
from lightops.reference.training.bn_act_mean import bn_act_mean
from lightops.reference.training.dense_block import dense_block_train
from lightops.reference.training.fire import fire_train
from lightops.reference.training.stem import stem_train

__all__ = [
    "batch_stats",
    "bn_act",
    "bn_act_conv2d",
    "bn_act_max_pool2d",
    "bn_act_mean",
    "dense_block_train",
    "fire_train",
    "prologue",
    "stem_train",
]
