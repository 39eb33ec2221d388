"""Shapes by network layer (224x224 input), and sweeps over tails.

Tests, micro-benchmarks and emulators all take their shapes from here.
"""

from collections.abc import Iterator
from itertools import product

from lightops.testing.calls import Case

_SAME = {"kernel": (3, 3), "padding": (1, 1)}


def _densenet121() -> Iterator[Case]:
    """Growth 32, bottleneck 128, blocks of 6, 12, 24, 16 layers (arXiv 1608.06993, table 1)."""
    net = "densenet121"
    yield Case("stem", f"{net}.stem", (1, 3, 224, 224), {
        "out": 64, "kernel": (7, 7), "stride": (2, 2), "padding": (3, 3), "pool": (3, 2, 1, False),
    })  # fmt: skip
    channels = 64
    for i, (layers, size) in enumerate(((6, 56), (12, 28), (24, 14), (16, 7)), start=1):
        x = (1, channels, size, size)
        yield Case("dense_block", f"{net}.denseblock{i}", x, {"layers": layers, "growth": 32, "bottleneck": 128})
        last = channels + 32 * (layers - 1)
        for which, width in (("denselayer1", channels), (f"denselayer{layers}", last)):
            yield Case("bn_relu_conv2d", f"{net}.denseblock{i}.{which}.conv1", (1, width, size, size), {
                "out": 128, "out_bn": True, "out_act": "relu",
            })  # fmt: skip
        yield Case("bn_relu_conv2d", f"{net}.denseblock{i}.conv2", (1, 128, size, size), {"out": 32, **_SAME})
        channels += 32 * layers
        if i < 4:
            yield Case("transition", f"{net}.transition{i}", (1, channels, size, size), {"out": channels // 2})
            channels //= 2
    yield Case("head", f"{net}.head", (1, channels, 7, 7), {"bn": True, "act": "relu", "out": 1000})


def _squeezenet1_1() -> Iterator[Case]:
    """torchvision's SqueezeNet 1.1, features.3 to features.12 (arXiv 1602.07360, with the authors' later widths)."""
    net = "squeezenet1_1"
    yield Case("stem", f"{net}.stem", (1, 3, 224, 224), {
        "out": 64, "kernel": (3, 3), "stride": (2, 2), "padding": (0, 0),
        "bias": True, "bn": False, "pool": (3, 2, 0, True),
    })  # fmt: skip
    table = (
        (3, 64, 16, 64, 55), (4, 128, 16, 64, 55), (6, 128, 32, 128, 27), (7, 256, 32, 128, 27),
        (9, 256, 48, 192, 13), (10, 384, 48, 192, 13), (11, 384, 64, 256, 13), (12, 512, 64, 256, 13),
    )  # fmt: skip
    for index, channels, size in ((5, 128, 55), (8, 256, 27)):
        yield Case("max_pool2d", f"{net}.features.{index}", (1, channels, size, size), {"ceil_mode": True})
    for index, channels, squeeze, expand, size in table:
        options = {"squeeze": squeeze, "expand1": expand, "expand3": expand}
        yield Case("fire", f"{net}.features.{index}", (1, channels, size, size), options)
    yield Case(
        "conv1x1_bn_act", f"{net}.classifier", (1, 512, 13, 13), {"out": 1000, "bias": True, "bn": False, "act": "relu"}
    )
    yield Case("head", f"{net}.head", (1, 1000, 13, 13), {})


def _mobilenet_v1() -> Iterator[Case]:
    """Width 1.0 (arXiv 1704.04861, table 1)."""
    net = "mobilenet_v1"
    yield Case("stem", f"{net}.stem", (1, 3, 224, 224), {"out": 32})
    table = (
        (32, 64, 1, 112), (64, 128, 2, 112), (128, 128, 1, 56), (128, 256, 2, 56), (256, 256, 1, 28),
        (256, 512, 2, 28), (512, 512, 1, 14), (512, 1024, 2, 14), (1024, 1024, 1, 7),
    )  # fmt: skip
    for channels, out, stride, size in table:
        name = f"{net}.{channels}to{out}@{size}s{stride}"
        yield Case("depthwise_pointwise", name, (1, channels, size, size), {"out": out, "stride": (stride, stride)})
    yield Case("head", f"{net}.head", (1, 1024, 7, 7), {"out": 1000})


def _mobilenet_v2() -> Iterator[Case]:
    """Width 1.0 (arXiv 1801.04381, table 2)."""
    net = "mobilenet_v2"
    yield Case("stem", f"{net}.stem", (1, 3, 224, 224), {"out": 32, "act": "relu6"})
    yield Case(
        "depthwise_pointwise", f"{net}.features.1", (1, 32, 112, 112), {"out": 16, "dw_act": "relu6", "pw_act": "none"}
    )
    channels, size, seen = 16, 112, set()
    for out, repeats, first_stride in ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)):
        for i in range(repeats):
            stride = first_stride if i == 0 else 1
            key = (channels, out, stride, size)
            if key not in seen:
                seen.add(key)
                yield Case("inverted_residual", f"{net}.{channels}to{out}@{size}s{stride}", (1, channels, size, size), {
                    "hidden": 6 * channels, "out": out, "stride": (stride, stride),
                    "residual": stride == 1 and channels == out,
                })  # fmt: skip
            channels, size = out, size // stride
    yield Case("conv1x1_bn_act", f"{net}.features.18", (1, 320, 7, 7), {"out": 1280})
    yield Case("head", f"{net}.head", (1, 1280, 7, 7), {"out": 1000})


_NETWORKS = {
    "densenet121": _densenet121,
    "squeezenet1_1": _squeezenet1_1,
    "mobilenet_v1": _mobilenet_v1,
    "mobilenet_v2": _mobilenet_v2,
}
NETWORKS = tuple(_NETWORKS)


def network_cases(network: str | None = None, op: str | None = None) -> list[Case]:
    """Every distinct block shape of a network (all four without a name), batch 1, optionally of one op only."""
    names = NETWORKS if network is None else (network,)
    return [case for name in names for case in _NETWORKS[name]() if op in (None, case.op)]


# Twice the widest register tile (32 output channels) plus one: below, at and above every vector width and panel.
TAIL_CHANNELS = range(1, 66)
TAIL_MAPS = range(1, 18)


def channel_tails(op: str) -> Iterator[Case]:
    """Each width from 1 to 65 on the input side and on every output side, on a small odd map."""
    for c in TAIL_CHANNELS:
        yield Case(op, f"in{c}", (1, c, 4, 4), sized(op, out=7, inner=9))
        yield Case(op, f"out{c}", (1, 5, 4, 4), sized(op, out=c, inner=9))
        if op in ("fire", "dense_block", "inverted_residual"):
            yield Case(op, f"inner{c}", (1, 6, 4, 4), sized(op, out=7, inner=c))


def map_tails(op: str) -> Iterator[Case]:
    """Every map from 1x1 to 17x17 that the op accepts."""
    for h in TAIL_MAPS:
        for w in TAIL_MAPS:
            if op == "transition" and min(h, w) < 2:
                continue
            if op == "head" and (h & (h - 1) or w & (w - 1)):
                continue  # an average over a count that is no power of two rounds
            yield Case(op, f"{h}x{w}", (1, 5, h, w), sized(op, out=6, inner=4))


def window_tails(op: str) -> Iterator[Case]:
    """Kernels 1, 3, 5, 7 by stride, padding below the kernel and, where the op has it, dilation, over odd and even
    maps."""
    dilations = (1, 2) if op in ("bn_relu_conv2d", "depthwise_pointwise") else (1,)
    for k, stride in product((1, 3, 5, 7), (1, 2)):
        paddings = range(k // 2 + 1 if op == "max_pool2d" else k)
        for padding, dilation, (h, w) in product(paddings, dilations, ((8, 9), (13, 7))):
            if dilation * (k - 1) + 1 > min(h, w) + 2 * padding:
                continue
            window = {"kernel": (k, k), "stride": (stride, stride), "padding": (padding, padding)}
            if len(dilations) > 1:
                window["dilation"] = (dilation, dilation)
            name = f"k{k}s{stride}p{padding}d{dilation}-{h}x{w}"
            yield Case(op, name, (2, 5, h, w), {**sized(op, out=6, inner=7), **window})


WINDOW_OPS = ("bn_relu_conv2d", "depthwise_pointwise", "inverted_residual", "max_pool2d", "stem")


def sized(op: str, *, out: int, inner: int) -> dict:
    """Options of a small case with the given output and inner widths."""
    return {
        "bn_relu_conv2d": {"out": out, **_SAME},
        "conv1x1_bn_act": {"out": out, "bias": True},
        "dense_block": {"layers": 1, "growth": out, "bottleneck": inner},
        "depthwise_pointwise": {"out": out},
        "fire": {"squeeze": inner, "expand1": out, "expand3": out + 1},
        "head": {"bn": True, "act": "relu", "out": out},
        "inverted_residual": {"hidden": inner, "out": out},
        "max_pool2d": {"stride": (1, 1), "padding": (1, 1)},
        "stem": {"out": out, "stride": (1, 1)},
        "transition": {"out": out},
    }[op]
