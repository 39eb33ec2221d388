"""Training ops: differentiable, each a dispatcher op with its backward as an op of its own.

An op reads a raw tensor, normalises and activates it on the way in (`Prologue`), and returns the raw result with its
batch statistics. Nothing but raw tensors and vectors of channels is kept for backward.
"""

from lightops.ops.training._op import TRAINING_DTYPES, explain, training_reason
from lightops.ops.training._prologue import Prologue
from lightops.ops.training.batch_stats import batch_stats
from lightops.ops.training.bn_act import bn_act
from lightops.ops.training.bn_act_conv2d import bn_act_conv2d
from lightops.ops.training.bn_act_max_pool2d import bn_act_max_pool2d
from lightops.ops.training.bn_act_mean import bn_act_mean
from lightops.ops.training.dense_block import DenseBlockOut, dense_block_train
from lightops.ops.training.dropout import dropout, explain_dropout
from lightops.ops.training.fire import fire_train
from lightops.ops.training.stem import stem_train, stem_train_fits

__all__ = [
    "TRAINING_DTYPES",
    "DenseBlockOut",
    "Prologue",
    "batch_stats",
    "bn_act",
    "bn_act_conv2d",
    "bn_act_max_pool2d",
    "bn_act_mean",
    "dense_block_train",
    "dropout",
    "explain",
    "explain_dropout",
    "fire_train",
    "stem_train",
    "stem_train_fits",
    "training_reason",
]
