"""Overhead: blocks of the networks at 32x32 input, where there is next to nothing to compute."""

from blocks import part
from common import run

PARTS = tuple(
    part(network, layer, resolution=32)
    for network, layer in (
        ("densenet121", "features.denseblock4"),
        ("densenet121", "features.transition3"),
        ("squeezenet1_1", "features.3"),
        ("squeezenet1_1", "features.12"),
        ("mobilenet_v1", "features.stem"),
        ("mobilenet_v1", "features.block13"),
        ("mobilenet_v2", "features.17"),
        ("mobilenet_v2", "features.18"),
    )
)

if __name__ == "__main__":
    run("overhead", PARTS)
