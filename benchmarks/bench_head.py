"""head: (BatchNorm, ReLU,) global average, classifier."""

from blocks import part
from common import run
from torch import nn


def _relu_average_flat() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


PARTS = (
    part("densenet121", "head", "features.norm5", "classifier", classifier=_relu_average_flat),
    part("mobilenet_v1", "head"),
)

if __name__ == "__main__":
    run("head", PARTS)
