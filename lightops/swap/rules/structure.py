"""Blocks of unknown class, recognised by their layers and proven by running them.

The layers say which ops could fit; what the forward does with them (functional activations, a residual, a
concatenation) is found by trying the few possibilities against the block's own forward.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from lightops.modules import DenseBlock, Fire, FusedModule, LayerPaths, Transition, Unit
from lightops.modules._piece import Piece
from lightops.modules._reader import activation_name
from lightops.modules.bn_relu_conv2d import BNReLUConv2dPiece
from lightops.modules.conv1x1_bn_act import Conv1x1BNActPiece
from lightops.modules.dense_block import DenseBlockPiece
from lightops.modules.depthwise_pointwise import DepthwisePointwisePiece
from lightops.modules.fire import FirePiece
from lightops.modules.inverted_residual import InvertedResidualPiece
from lightops.modules.stem import StemPiece
from lightops.modules.transition import TransitionPiece
from lightops.swap.match import STEM_CHANNELS, Leaf, is_sequential, leaves, whole_chain
from lightops.swap.prove import Unproven, prove, trains_alike
from lightops.swap.rules._proposal import Proposal, Refusal
from lightops.swap.rules.mobilenet import MODULES

_FUNCTIONAL = ("relu", "relu6", "hardswish", "silu")
# More layers than any op has: an inverted residual has three of conv, norm, act.
_MOST_LAYERS = 12
_SCALARS = (bool, int, float, str, type(None))
_LONE = (Conv1x1BNActPiece, BNReLUConv2dPiece, StemPiece)
_CLASSES: dict[type[Piece], type[FusedModule]] = {
    **MODULES,
    DenseBlockPiece: DenseBlock,
    FirePiece: Fire,
    TransitionPiece: Transition,
}


class _Layers(NamedTuple):
    """The layers of a block in the order they were registered."""

    convs: list[Leaf]
    norms: list[Leaf]
    acts: list[Leaf]
    pools: list[Leaf]

    @classmethod
    def of(cls, chain: list[Leaf]) -> "_Layers":
        pick = lambda letters: [leaf for leaf in chain if leaf.letter in letters]  # noqa: E731
        return cls(pick("PDC"), pick("N"), pick("A"), pick("H"))

    @property
    def word(self) -> str:
        return "".join(leaf.letter for leaf in self.convs)


def propose(module: nn.Module) -> Proposal | Refusal | None:
    """A proposal only where the block's forward was run and agreed; for training too where its training step did."""
    if not _could_be_a_block(module):
        return None
    chain = [leaf for name, child in module._modules.items() for leaf in leaves(child, name)]
    pieces = _dense_block(module)
    if pieces is None:
        if len(chain) > _MOST_LAYERS or not {leaf.letter for leaf in chain} <= set("PDCNAIH"):
            return None
        pieces = _hypotheses(module, chain)
    first = next(pieces, None)
    if first is None:
        return None
    try:
        piece = prove(module, _in_channels(module), itertools.chain([first], pieces))
    except Unproven as unproven:
        # A single convolution with anything around it is no likeness worth a word; nor is a residual bottleneck (1x1,
        # 3x3, 1x1), whose layers could be a Fire's in another order.
        word = _Layers.of(chain).word
        known = isinstance(first, _LONE) or (isinstance(first, FirePiece) and word == "PCP")
        return None if known else Refusal(first.op, f"{type(module).__name__}: {unproven}")
    make = _CLASSES[type(piece)].from_piece
    anyhow = replace(piece, constants=tuple(c for c in piece.constants if c[1] != "training"))
    if trains_alike(module, _in_channels(module), lambda stock: make(stock, anyhow, winograd=0)):
        piece = anyhow
    return Proposal(piece.op, [piece], lambda stock, winograd: make(stock, piece, winograd))


def _could_be_a_block(module: nn.Module) -> bool:
    cls = type(module)
    return (
        bool(module._modules)
        and not cls.__module__.startswith("torch.nn.")
        and cls.forward is not nn.Module.forward
        and cls.__call__ is nn.Module.__call__
        and not is_sequential(module)
        and not any(p is not None for p in (*module._parameters.values(), *module._buffers.values()))
    )


def _in_channels(module: nn.Module) -> int:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
        if isinstance(layer, nn.BatchNorm2d):
            return layer.num_features
    raise Unproven("has neither convolution nor batch norm")


def _hypotheses(module: nn.Module, chain: list[Leaf]) -> Iterator[Piece]:
    """What the layers could be, the plain reading first."""
    layers = _Layers.of(chain)
    watched = {
        "neutral": tuple(leaf.path for leaf in chain if leaf.letter == "I"),
        "acts": tuple((leaf.path, activation_name(leaf.module)) for leaf in layers.acts),
        "constants": _constants(module, ""),
    }
    if any(name is None for _, name in watched["acts"]):
        return
    for piece in _readings(chain, layers):
        yield replace(piece, **watched)


def _readings(chain: list[Leaf], layers: _Layers) -> Iterator[Piece]:
    plain = whole_chain(chain)
    if isinstance(plain, InvertedResidualPiece | DepthwisePointwisePiece | Conv1x1BNActPiece):
        yield from _with_residual(plain)
    elif plain is not None:
        yield plain
    names = list(dict.fromkeys(activation_name(leaf.module) for leaf in layers.acts)) or list(_FUNCTIONAL)
    after = _pair(layers, lambda conv: conv.out_channels)
    if after is not None and not layers.pools:
        yield from _conv_first(layers.word, after, layers.convs, names)
    before = _pair(layers, lambda conv: conv.in_channels) if layers.norms else None
    if before is not None:
        yield from _norm_first(layers, before, names)


def _conv_first(word: str, pairs: list[tuple[str, str | None]], convs: list[Leaf], names: list[str]) -> Iterator[Piece]:
    def unit(i: int, act: str) -> Unit:
        return Unit(pairs[i][0], pairs[i][1], fn=act)

    choices = [*names, "none"]
    if word == "PDP":
        for act in choices:
            yield from _with_residual(InvertedResidualPiece(unit(0, act), unit(1, act), unit(2, "none")))
    elif word == "DP":
        for first, second in itertools.product(choices, choices):
            yield from _with_residual(DepthwisePointwisePiece(unit(0, first), unit(1, second)))
    elif word in ("PPC", "PCP") and "relu" in names:
        squeeze, expand1x1, expand3x3 = (unit(i, "relu") for i in ((0, 1, 2) if word == "PPC" else (0, 2, 1)))
        for bypass in (None, True):
            yield FirePiece(squeeze, expand1x1, expand3x3, bypass)
    elif word == "P":
        for act in choices:
            yield from _with_residual(Conv1x1BNActPiece(unit(0, act)))
    elif word == "C":
        make = StemPiece if convs[0].module.in_channels <= STEM_CHANNELS else BNReLUConv2dPiece
        for act in choices:
            yield make(unit(0, act))


def _norm_first(layers: _Layers, pairs: list[tuple[str, str | None]], names: list[str]) -> Iterator[Piece]:
    paths = [path for conv, norm in pairs for path in (norm, None, conv)]
    if layers.word in ("C", "PC") and not layers.pools:
        yield DenseBlockPiece((LayerPaths("", *paths, fn="relu"),))
        yield DenseBlockPiece((LayerPaths("", *paths),))
    if layers.word == "P":
        pool = layers.pools[0].path if layers.pools else None
        yield TransitionPiece(pairs[0][1], None, pairs[0][0], pool, fn="relu")
        yield TransitionPiece(pairs[0][1], None, pairs[0][0], pool)
    if layers.word in ("P", "C") and not layers.pools:
        for act in (*names, "none"):
            yield BNReLUConv2dPiece(Unit(pairs[0][0]), pairs[0][1], None, act)


def _with_residual(piece: Any) -> Iterator[Piece]:
    yield piece
    yield replace(piece, residual=True)


def _pair(layers: _Layers, channels: Any) -> list[tuple[str, str | None]] | None:
    """Each convolution with its norm: one each in registration order where the channels agree, or none at all."""
    if not layers.norms:
        return [(conv.path, None) for conv in layers.convs]
    if len(layers.norms) != len(layers.convs):
        return None
    pairs = list(zip(layers.convs, layers.norms, strict=True))
    if any(channels(conv.module) != norm.module.num_features for conv, norm in pairs):
        return None
    return [(conv.path, norm.path) for conv, norm in pairs]


def _dense_block(module: nn.Module) -> Iterator[Piece] | None:
    """A block whose children are all dense layers of one class that do not concatenate themselves."""
    prefix, children = "", module._modules
    if len(children) == 1:
        ((name, only),) = children.items()
        if type(only) in (nn.ModuleList, nn.ModuleDict):
            prefix, children = f"{name}.", only._modules
    if not children or len({type(child) for child in children.values()}) != 1:
        return None
    paths, acts, neutral, constants = [], [], [], list(_constants(module, ""))
    for key, child in children.items():
        if child is None or (not _could_be_a_block(child) and not is_sequential(child)):
            return None
        name = f"{prefix}{key}"
        chain = [leaf for part, sub in child._modules.items() for leaf in leaves(sub, f"{name}.{part}")]
        layers = _Layers.of(chain)
        pairs = _pair(layers, lambda conv: conv.in_channels)
        if layers.word not in ("C", "PC") or not layers.norms or pairs is None or len(chain) > _MOST_LAYERS:
            return None
        inner = [path for conv, norm in pairs for path in (norm, None, conv)]
        paths.append(LayerPaths(name, *inner, fn="relu"))
        acts += [(leaf.path, "relu") for leaf in layers.acts]
        neutral += [leaf.path for leaf in chain if leaf.letter == "I"]
        constants += _constants(child, name)
    piece = DenseBlockPiece(tuple(paths), acts=tuple(acts), neutral=tuple(neutral), constants=tuple(constants))
    combined = replace(piece, layers=tuple(layer._replace(fn="none") for layer in paths))
    return iter([piece, combined])


def _constants(module: nn.Module, path: str) -> tuple[tuple[str, str, Any], ...]:
    """The plain attributes that the forward may read, evaluation mode among them."""
    plain = ((k, v) for k, v in module.__dict__.items() if type(v) in _SCALARS and not k.startswith("_"))
    return tuple((path, k, False if k == "training" else v) for k, v in plain)
