"""Recognising chains: a block's children as a string of letters, patterns over it as regular expressions.

| letter | layer |
|---|---|
| P | 1x1 convolution, stride 1 |
| D | depthwise convolution |
| C | any other convolution with one group |
| N | batch norm (with timm's norm-act modules, the activation too) |
| A | an activation |
| I | Identity or dropout: nothing in evaluation |
| M, H, G | max-pool; 2x2 average pool; average pool to 1x1 |
| F, L | Flatten; Linear |
| X | anything else, grouped convolutions and TensorFlow's padding at a stride among it |
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from lightops.modules import Decline, Run, Unit
from lightops.modules._piece import Piece
from lightops.modules._reader import TIMM_CONV_SAME, Reader, qualified_type
from lightops.modules.bn_relu_conv2d import BNReLUConv2dPiece
from lightops.modules.conv1x1_bn_act import Conv1x1BNActPiece
from lightops.modules.depthwise_pointwise import DepthwisePointwisePiece
from lightops.modules.head import HeadPiece
from lightops.modules.inverted_residual import InvertedResidualPiece
from lightops.modules.linear import LinearPiece
from lightops.modules.max_pool2d import MaxPool2dPiece
from lightops.modules.stem import StemPiece
from lightops.modules.transition import TransitionPiece

# Convolutions that read an image rather than a feature map: the stem kernel is made for these.
STEM_CHANNELS = 4

_LETTERS = {
    nn.BatchNorm2d: "N", nn.ReLU: "A", nn.ReLU6: "A", nn.Hardtanh: "A", nn.Hardswish: "A", nn.SiLU: "A",
    nn.Identity: "I", nn.Dropout: "I", nn.Dropout2d: "I", nn.AlphaDropout: "I",
    nn.MaxPool2d: "M", nn.AvgPool2d: "H", nn.AdaptiveAvgPool2d: "G", nn.Flatten: "F", nn.Linear: "L",
}  # fmt: skip
_LETTERS_BY_NAME = {
    "timm.layers.norm_act.BatchNormAct2d": "N",
    "timm.layers.drop.DropPath": "I",
}
# Modules whose forward is their children one after the other.
_TRANSPARENT = {
    "timm.layers.conv_bn_act.ConvNormAct": ("conv", "bn", "aa"),
}


class Leaf(NamedTuple):
    """A layer at `path`; `top` is the child of the chain that contains it."""

    path: str
    letter: str
    module: nn.Module
    top: str


def is_sequential(module: nn.Module) -> bool:
    """A Sequential with Sequential's own forward."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def leaves(module: nn.Module | None, path: str, top: str | None = None) -> Iterator[Leaf]:
    """The layers of `module`, in the order they run; nothing for a child that is None."""
    top = path if top is None else top
    if module is None:
        return
    names = _TRANSPARENT.get(qualified_type(module))
    if names is None and is_sequential(module):
        names = tuple(module._modules)
    if names is None:
        yield Leaf(path, _letter(module), module, top)
        return
    if not module._modules:
        yield Leaf(path, "X", module, top)
    for name in names:
        yield from leaves(module._modules.get(name), f"{path}.{name}", top)


def _letter(module: nn.Module) -> str:
    letter = _LETTERS.get(type(module)) or _LETTERS_BY_NAME.get(qualified_type(module))
    if letter is None and isinstance(module, nn.Conv2d):
        return _conv_letter(module)
    return letter or "X"


def _conv_letter(conv: nn.Conv2d) -> str:
    if qualified_type(conv) == TIMM_CONV_SAME and max(conv.stride) > 1:
        return "X"  # pads by input size; what is around it may still be fused
    if conv.groups > 1:
        return "D" if conv.groups == conv.in_channels == conv.out_channels else "X"
    plain = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding in ((0, 0), "valid", "same")
    return "P" if plain else "C"


class _Match:
    """The named groups of a pattern as paths."""

    def __init__(self, match: re.Match, chain: list[Leaf]):
        self.match = match
        self.chain = chain

    def __getitem__(self, group: str) -> str | None:
        start = self.match.start(group)
        return None if start < 0 else self.chain[start].path

    def unit(self, number: int) -> Unit:
        return Unit(self[f"c{number}"], self[f"n{number}"], self[f"a{number}"])

    def neutral(self) -> tuple[str, ...]:
        span = range(self.match.start(), self.match.end())
        return tuple(self.chain[i].path for i in span if self.chain[i].letter == "I")

    def module(self, group: str) -> nn.Module:
        return self.chain[self.match.start(group)].module


def _unit(number: int, conv: str, act: bool = True) -> str:
    tail = rf"(?:I*(?P<a{number}>A))?" if act else rf"(?P<a{number}>(?!))?"
    return rf"(?P<c{number}>{conv})(?:I*(?P<n{number}>N))?{tail}"


def _inverted_residual(m: _Match) -> Piece:
    return InvertedResidualPiece(m.unit(1), m.unit(2), m.unit(3), neutral=m.neutral())


def _depthwise_pointwise(m: _Match) -> Piece:
    return DepthwisePointwisePiece(m.unit(1), m.unit(2), neutral=m.neutral())


def _transition(m: _Match) -> Piece:
    return TransitionPiece(m["n0"], m["a0"], m["c1"], m["pool"], neutral=m.neutral())


def _pre_conv(m: _Match) -> Piece:
    return BNReLUConv2dPiece(m.unit(1), m["n0"], m["a0"], neutral=m.neutral())


def _head(m: _Match) -> Piece:
    return HeadPiece(m["n0"], m["a0"], m["pool"], m["flat"], m["fc"], neutral=m.neutral())


def _pointwise(m: _Match) -> Piece:
    return Conv1x1BNActPiece(m.unit(1), neutral=m.neutral())


def _conv(m: _Match) -> Piece | None:
    image = m.module("c1").in_channels <= STEM_CHANNELS
    if image:
        return StemPiece(m.unit(1), m["pool"], neutral=m.neutral())
    if m["pool"] is not None or (m["n1"] is None and m["a1"] is None):
        return None
    return BNReLUConv2dPiece(m.unit(1), neutral=m.neutral())


def _max_pool(m: _Match) -> Piece:
    return MaxPool2dPiece(m["pool"])


def _linear(m: _Match) -> Piece:
    return LinearPiece(m["fc"], neutral=m.neutral())


# In order of preference at one position; the first whose end falls between two children of the chain is taken.
_PATTERNS = [
    (re.compile(rf"{_unit(1, 'P')}I*{_unit(2, 'D')}I*{_unit(3, 'P', act=False)}(?!I*A)"), _inverted_residual),
    (re.compile(rf"{_unit(1, 'D')}I*{_unit(2, 'P')}"), _depthwise_pointwise),
    (re.compile(r"(?P<n0>N)(?:I*(?P<a0>A))?I*(?P<c1>P)I*(?P<pool>H)"), _transition),
    (re.compile(r"(?:(?P<n0>N)I*)?(?:(?P<a0>A)I*)?(?P<pool>G)(?:I*(?P<flat>F)(?:I*(?P<fc>L))?)?"), _head),
    (re.compile(rf"(?P<n0>N)(?:I*(?P<a0>A))?I*{_unit(1, '[PC]')}"), _pre_conv),
    (re.compile(r"(?P<n0>N)(?:I*(?P<a0>A))?I*(?P<c1>[PC])(?P<n1>(?!))?(?P<a1>(?!))?"), _pre_conv),
    (re.compile(_unit(1, "P")), _pointwise),
    (re.compile(rf"{_unit(1, 'C')}(?:I*(?P<pool>M))?"), _conv),
    (re.compile(rf"{_unit(1, 'C')}(?P<pool>(?!))?"), _conv),
]  # fmt: skip

# What is worth fusing only beside or behind something fused.
FOLLOWERS = [(re.compile(r"(?P<pool>M)"), _max_pool), (re.compile(r"I*(?P<fc>L)"), _linear)]


def find_runs(block: nn.Module, chain: list[Leaf], patterns: list = _PATTERNS) -> list[Run]:
    """Disjoint runs over a chain of layers, left to right, each made of whole children and readable as it stands."""
    word = "".join(leaf.letter for leaf in chain)
    bounds = {0, len(chain)} | {i for i in range(1, len(chain)) if chain[i].top != chain[i - 1].top}
    runs, i = [], 0
    while i < len(chain):
        end = i + 1
        if i in bounds:
            for piece, stop in _candidates(patterns, word, chain, i):
                if stop in bounds and can_read(block, piece):
                    tops = tuple(dict.fromkeys(leaf.top for leaf in chain[i:stop]))
                    runs.append(Run(tops, piece))
                    end = stop
                    break
        i = end
    return runs


def whole_chain(chain: list[Leaf]) -> Piece | None:
    """The one piece that computes the whole chain, neutral ends included, if there is one."""
    word = "".join(leaf.letter for leaf in chain)
    for pattern, make in _PATTERNS:
        match = re.compile(f"I*(?:{pattern.pattern})I*$").match(word)
        piece = make(_Match(match, chain)) if match else None
        if piece is not None:
            return piece
    return None


def _candidates(patterns: list, word: str, chain: list[Leaf], start: int) -> Iterator[tuple[Piece, int]]:
    for pattern, make in patterns:
        match = pattern.match(word, start)
        piece = make(_Match(match, chain)) if match else None
        if piece is not None:
            yield piece, match.end()


def can_read(block: nn.Module, piece: Piece) -> bool:
    try:
        piece.read_all(Reader(block, any_mode=True))
    except Decline:
        return False
    return True
