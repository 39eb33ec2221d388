"""bn_relu_conv2d: BatchNorm, ReLU, convolution; Winograd off, F(2x2,3x3) and F(4x4,3x3) on the 3x3s."""

from blocks import Part, part
from common import lightops, run

_LAST_LAYERS = ((1, 6), (2, 12), (3, 24), (4, 16))


def _parts(number: int) -> list[Part]:
    """norm, relu and conv of this number in the last layer of each dense block."""
    names = (f"norm{number}", f"relu{number}", f"conv{number}")
    layers = [f"features.denseblock{block}.denselayer{layer}" for block, layer in _LAST_LAYERS]
    return [part("densenet121", f"{layer}.{names[-1]}", *(f"{layer}.{name}" for name in names)) for layer in layers]


PARTS = (*_parts(1), *_parts(2))

if __name__ == "__main__":
    run("bn_relu_conv2d", PARTS, {"lightops, winograd=0": lightops(0), "lightops, winograd=4": lightops(4)})
