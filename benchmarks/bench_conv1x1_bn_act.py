"""conv1x1_bn_act: 1x1 convolution, BatchNorm or bias, activation: MobileNetV2's last, SqueezeNet's classifier."""

from blocks import part
from common import run

PARTS = (
    part("mobilenet_v2", "features.18"),
    part("squeezenet1_1", "classifier", "classifier.1", "classifier.2"),
)

if __name__ == "__main__":
    run("conv1x1_bn_act", PARTS)
