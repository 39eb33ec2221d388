"""fire: SqueezeNet's block; Winograd off, F(2x2,3x3) and F(4x4,3x3)."""

from blocks import part
from common import lightops, run

PARTS = tuple(part("squeezenet1_1", f"features.{i}") for i in (3, 4, 6, 7, 9, 10, 11, 12))

if __name__ == "__main__":
    run("fire", PARTS, {"lightops, winograd=0": lightops(0), "lightops, winograd=4": lightops(4)})
