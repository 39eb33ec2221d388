"""depthwise_pointwise: MobileNetV1's block, fused against a fused 1x1 behind a depthwise convolution of its own."""

import torch
from blocks import part
from common import Call, run
from torch import Tensor, nn

from lightops import ops
from lightops.reference import BatchNormParams

PARTS = tuple(part("mobilenet_v1", f"features.block{i}") for i in (1, 2, 3, 4, 5, 6, 7, 12, 13))


def _params(bn: nn.BatchNorm2d) -> BatchNormParams:
    return BatchNormParams(bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.eps)


def unfused(block: nn.Module, x: Tensor) -> Call:
    """Depthwise convolution, BatchNorm and ReLU as torch has them, then our 1x1: the hidden tensor goes to memory."""
    weight, bn = block.conv_pw.weight, _params(block.bn2)

    def call() -> Tensor:
        with torch.inference_mode():
            hidden = block.act1(block.bn1(block.conv_dw(x)))
            return ops.conv1x1_bn_act(hidden, weight, bn=bn, act="relu")

    return call


if __name__ == "__main__":
    run("depthwise_pointwise", PARTS, {"depthwise apart": unfused})
