"""inverted_residual: MobileNetV2's block, expand, depthwise and project with the hidden tensor kept in cache."""

from blocks import part
from common import run

PARTS = tuple(part("mobilenet_v2", f"features.{i}") for i in (1, 2, 3, 4, 5, 7, 8, 11, 12, 14, 15, 17))

if __name__ == "__main__":
    run("inverted_residual", PARTS)
