"""fire_train: forward and backward of the Fire modules of SqueezeNet 1.1."""

from blocks import part
from common import fused
from training import STOCK, run

PARTS = tuple(part("squeezenet1_1", f"features.{i}") for i in (3, 4, 6, 7, 9, 10, 11, 12))

if __name__ == "__main__":
    run("fire_train", PARTS, STOCK | {"lightops": fused})
