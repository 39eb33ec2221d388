"""depthwise_pointwise: MobileNetV1's block, fused against a fused 1x1 behind a depthwise convolution of its own."""

from blocks import part
from common import Call, fused, run, timed
from torch import Tensor, nn

PARTS = tuple(part("mobilenet_v1", f"features.block{i}") for i in (1, 2, 3, 4, 5, 6, 7, 12, 13))


def apart(block: nn.Module, x: Tensor) -> Call:
    """Depthwise convolution, BatchNorm and ReLU as torch has them, then our 1x1: the hidden tensor goes to memory."""
    pointwise = fused(nn.Sequential(block.conv_pw, block.bn2, block.act2))
    return timed(nn.Sequential(block.conv_dw, block.bn1, block.act1, pointwise), x)


if __name__ == "__main__":
    run("depthwise_pointwise", PARTS, {"depthwise apart": apart})
