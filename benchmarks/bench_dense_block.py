"""dense_block: the four blocks of DenseNet-121; Winograd off, F(2x2,3x3) and F(4x4,3x3)."""

from blocks import part
from common import lightops, run

PARTS = tuple(part("densenet121", f"features.denseblock{i}") for i in (1, 2, 3, 4))

if __name__ == "__main__":
    run("dense_block", PARTS, {"lightops, winograd=0": lightops(0), "lightops, winograd=4": lightops(4)})
