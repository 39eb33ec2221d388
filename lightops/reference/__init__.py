"""The specification of every op: pure torch, written to be read.

Tests compare each kernel with these functions evaluated in float64.
"""

from lightops.reference.activation import ACTIVATIONS, activation
from lightops.reference.bn import BatchNormParams, batch_norm, bn_affine
from lightops.reference.bn_relu_conv2d import bn_relu_conv2d
from lightops.reference.conv1x1_bn_act import conv1x1_bn_act
from lightops.reference.dense_block import DenseLayerParams, dense_block, dense_layer
from lightops.reference.depthwise_pointwise import depthwise_pointwise
from lightops.reference.fire import fire
from lightops.reference.head import head
from lightops.reference.inverted_residual import inverted_residual
from lightops.reference.max_pool2d import max_pool2d
from lightops.reference.stem import MaxPool, stem
from lightops.reference.transition import transition

__all__ = [
    "ACTIVATIONS",
    "BatchNormParams",
    "DenseLayerParams",
    "MaxPool",
    "activation",
    "batch_norm",
    "bn_affine",
    "bn_relu_conv2d",
    "conv1x1_bn_act",
    "dense_block",
    "dense_layer",
    "depthwise_pointwise",
    "fire",
    "head",
    "inverted_residual",
    "max_pool2d",
    "stem",
    "transition",
]
