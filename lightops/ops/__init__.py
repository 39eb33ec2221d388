"""Public functions, one per fused op.

Each docstring holds the op's contract; `explain` says which backend a call would use.
"""

from lightops.ops._dispatch import OPS, BackendUnavailable, Decision, explain
from lightops.ops.bn_relu_conv2d import bn_relu_conv2d
from lightops.ops.conv1x1_bn_act import conv1x1_bn_act
from lightops.ops.dense_block import dense_block, dense_layer
from lightops.ops.depthwise_pointwise import depthwise_pointwise
from lightops.ops.fire import fire
from lightops.ops.head import head
from lightops.ops.inverted_residual import inverted_residual
from lightops.ops.max_pool2d import max_pool2d
from lightops.ops.stem import stem
from lightops.ops.transition import transition
from lightops.reference import BatchNormParams, DenseLayerParams, MaxPool

__all__ = [
    "OPS",
    "BackendUnavailable",
    "BatchNormParams",
    "Decision",
    "DenseLayerParams",
    "MaxPool",
    "bn_relu_conv2d",
    "conv1x1_bn_act",
    "dense_block",
    "dense_layer",
    "depthwise_pointwise",
    "explain",
    "fire",
    "head",
    "inverted_residual",
    "max_pool2d",
    "stem",
    "transition",
]
