"""stem: convolution, BatchNorm or bias, activation, max-pool in one."""

from blocks import part
from common import run

PARTS = (
    part("densenet121", "stem", "features.conv0", "features.norm0", "features.relu0", "features.pool0"),
    part("squeezenet1_1", "stem", "features.0", "features.1", "features.2"),
    part("mobilenet_v1", "features.stem"),
    part("mobilenet_v2", "features.0"),
)

if __name__ == "__main__":
    run("stem", PARTS)
