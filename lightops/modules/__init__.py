"""Modules that stand in for stock blocks: same children, names and parameters, one fused op in the forward.

`lightops.swap_` puts them in place; `<Class>.from_stock(block)` makes one by hand.
"""

from lightops.modules._base import FallbackWarning, FusedModule
from lightops.modules._reader import Decline, Unit
from lightops.modules._walk import Run
from lightops.modules.bn_relu_conv2d import BNReLUConv2d
from lightops.modules.chain import FusedChain
from lightops.modules.conv1x1_bn_act import Conv1x1BNAct
from lightops.modules.dense_block import DenseBlock, DenseLayer, LayerPaths
from lightops.modules.depthwise_pointwise import DepthwisePointwise
from lightops.modules.fire import Fire
from lightops.modules.head import Head
from lightops.modules.inverted_residual import InvertedResidual
from lightops.modules.linear import Linear
from lightops.modules.max_pool2d import MaxPool2d
from lightops.modules.residual import FusedResidual
from lightops.modules.sequential import FusedSequential
from lightops.modules.stem import Stem
from lightops.modules.transition import Transition

__all__ = [
    "BNReLUConv2d",
    "Conv1x1BNAct",
    "Decline",
    "DenseBlock",
    "DenseLayer",
    "DepthwisePointwise",
    "FallbackWarning",
    "Fire",
    "FusedChain",
    "FusedModule",
    "FusedResidual",
    "FusedSequential",
    "Head",
    "InvertedResidual",
    "LayerPaths",
    "Linear",
    "MaxPool2d",
    "Run",
    "Stem",
    "Transition",
    "Unit",
]
