"""The training ops of a dense block and of Fire at the networks' shapes, for traffic counts; sizes as in shapes.py."""

from __future__ import annotations

import torch
from harness import DTYPE_CODES, nhwc_fields, norm_fields, pointer, weight_fields
from shapes import Traffic, measure

Shapes = dict[str, torch.Tensor]


def nhwc(c: int, hw: int, dtype: torch.dtype, images: int) -> torch.Tensor:
    return torch.randn(images, hw, hw, c).to(dtype).permute(0, 3, 1, 2)


class DenseLayer:
    """A block of one bottleneck layer, its input in place and its statistics known: what a layer costs in a block."""

    def __init__(self, c: int, hw: int, images: int, dtype: torch.dtype = torch.float16, growth: int = 32):
        width = 4 * growth
        self.c, self.growth, self.width, self.dtype = c, growth, width, dtype
        self.buffer, self.middle = nhwc(c + growth, hw, dtype, images), nhwc(width, hw, dtype, images)
        self.stats = {
            "mean": torch.randn(c + growth),
            "var": torch.rand(c + growth) + 0.5,
            "mean2": torch.randn(width),
            "var2": torch.rand(width) + 0.5,
        }
        self.vectors = {name: torch.rand(size) for name, size in (("g1", c), ("b1", c), ("g2", width), ("b2", width))}
        self.weights = {
            "w1": torch.randn(width, c, 1, 1).to(dtype),
            "w2": torch.randn(growth, width, 3, 3).to(dtype),
        }

    def fields(self) -> list[int]:
        c, v, stats = self.c, self.vectors, self.stats
        return [
            *nhwc_fields(self.buffer[:, :c]),
            *nhwc_fields(self.buffer),
            *(c, self.growth, self.width, 1, 1),
            *map(pointer, (self.middle, *stats.values())),
            *norm_fields(stats["mean"], stats["var"], v["g1"], v["b1"], 1e-5, True),
            *norm_fields(stats["mean2"], stats["var2"], v["g2"], v["b2"], 1e-5, True),
            *weight_fields(self.weights["w1"]),
            *weight_fields(self.weights["w2"]),
            *nhwc_fields(None),
        ]


def dense_forward(emulator, c: int, hw: int, gpu, images: int) -> Traffic:
    s = DenseLayer(c, hw, images)
    fields = [DTYPE_CODES[s.dtype], *s.fields()]
    outputs = {"buffer": s.buffer, "middle": s.middle}
    return measure(emulator, "dense_block_train", fields, {}, outputs | s.stats, s.weights | s.vectors, gpu)


def dense_backward(emulator, c: int, hw: int, gpu, images: int) -> Traffic:
    s = DenseLayer(c, hw, images)
    dbuffer, dx = nhwc(c + s.growth, hw, s.dtype, images), nhwc(c, hw, s.dtype, images)
    scratch = {"gradient": nhwc(c + s.growth, hw, s.dtype, images), "dmiddle": nhwc(s.width, hw, s.dtype, images)}
    grads = {name: torch.empty_like(t) for name, t in (s.vectors | s.weights).items()}
    order = ("g1", "b1", "w1", "g2", "b2", "w2")
    fields = [DTYPE_CODES[s.dtype], *s.fields(), *nhwc_fields(dbuffer), *nhwc_fields(dx)]
    fields += [*map(pointer, scratch.values()), *(pointer(grads[name]) for name in order)]
    inputs = {"dbuffer": dbuffer, "buffer": s.buffer, "middle": s.middle}
    weights = s.weights | s.vectors | s.stats
    outputs = {"dx": dx} | scratch | {f"d{name}": t for name, t in grads.items()}
    return measure(emulator, "dense_block_train_backward", fields, inputs, outputs, weights, gpu)


class Fire:
    def __init__(self, c: int, squeeze: int, expand: int, hw: int, images: int, dtype: torch.dtype = torch.float16):
        self.dtype, self.squeeze, self.expand = dtype, squeeze, expand
        self.x, self.out = nhwc(c, hw, dtype, images), nhwc(2 * expand, hw, dtype, images)
        shapes = {"ws": (squeeze, c, 1, 1), "w1": (expand, squeeze, 1, 1), "w3": (expand, squeeze, 3, 3)}
        self.weights = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
        self.biases = {name: torch.randn(size) for name, size in (("bs", squeeze), ("b1", expand), ("b3", expand))}

    def weight_fields(self) -> list[int]:
        return [field for w in self.weights.values() for field in weight_fields(w)]


def fire_forward(emulator, c: int, squeeze: int, expand: int, hw: int, gpu, images: int) -> Traffic:
    s = Fire(c, squeeze, expand, hw, images)
    fields = [DTYPE_CODES[s.dtype], *nhwc_fields(s.x), *nhwc_fields(s.out), squeeze, expand, *s.weight_fields()]
    fields += map(pointer, s.biases.values())
    return measure(emulator, "fire_train", fields, {"x": s.x}, {"out": s.out}, s.weights | s.biases, gpu)


def fire_backward(emulator, c: int, squeeze: int, expand: int, hw: int, gpu, images: int) -> Traffic:
    s = Fire(c, squeeze, expand, hw, images)
    dout, dx = torch.randn_like(s.out), torch.empty_like(s.x)
    scratch = {name: nhwc(squeeze, hw, s.dtype, images) for name in ("squeeze", "dsqueeze")}
    grads = {}
    for (name, w), bias in zip(s.weights.items(), s.biases, strict=True):
        grads |= {f"d{name}": torch.empty_like(w), f"d{bias}": torch.empty(w.shape[0], dtype=s.dtype)}
    fields = [DTYPE_CODES[s.dtype], *nhwc_fields(dout), *nhwc_fields(s.x), *nhwc_fields(s.out), squeeze, expand]
    fields += [*s.weight_fields(), pointer(s.biases["bs"]), *map(pointer, scratch.values()), *nhwc_fields(dx)]
    fields += map(pointer, grads.values())
    inputs = {"dout": dout, "x": s.x, "out": s.out}
    outputs = {"dx": dx} | scratch | grads
    return measure(emulator, "fire_train_backward", fields, inputs, outputs, s.weights | s.biases, gpu)
