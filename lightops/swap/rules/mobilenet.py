"""Depthwise-separable and inverted-residual blocks: modules that apply their children in order and may add their
input.
"""

from dataclasses import replace
from typing import NamedTuple

from torch import nn

from lightops.modules import (
    BNReLUConv2d,
    Conv1x1BNAct,
    Decline,
    DepthwisePointwise,
    FusedChain,
    FusedModule,
    InvertedResidual,
    Run,
    Stem,
)
from lightops.modules._piece import Piece
from lightops.modules._reader import Reader, Residual, qualified_type
from lightops.modules.bn_relu_conv2d import BNReLUConv2dPiece
from lightops.modules.conv1x1_bn_act import Conv1x1BNActPiece
from lightops.modules.depthwise_pointwise import DepthwisePointwisePiece
from lightops.modules.inverted_residual import InvertedResidualPiece
from lightops.modules.stem import StemPiece
from lightops.swap.match import Leaf, find_runs, leaves, whole_chain
from lightops.swap.rules._proposal import Proposal, Refusal

_TIMM = "timm.models._efficientnet_blocks"

# Class: (children in the order the forward applies them, attribute that says whether the input is added).
# A child that a block does not have is None or missing.
CHAINS: dict[str, tuple[tuple[str, ...], Residual]] = {
    "torchvision.models.mobilenetv2.InvertedResidual": (("conv",), "use_res_connect"),
    "torchvision.models.mobilenetv3.InvertedResidual": (("block",), "use_res_connect"),
    "torchvision.models.efficientnet.MBConv": (("block", "stochastic_depth"), "use_res_connect"),
    "torchvision.models.efficientnet.FusedMBConv": (("block", "stochastic_depth"), "use_res_connect"),
    "torchvision.models.mnasnet._InvertedResidual": (("layers",), "apply_residual"),
    "lightops.networks.mobilenet.DepthwiseSeparable": (
        ("pad", "conv_dw", "bn1", "act1", "conv_pw", "bn2", "act2"),
        False,
    ),
    "lightops.networks.mobilenet.InvertedResidual": (("conv",), "use_res_connect"),
    f"{_TIMM}.DepthwiseSeparableConv": (
        ("conv_s2d", "bn_s2d", "conv_dw", "bn1", "aa", "se", "conv_pw", "bn2", "drop_path"),
        "has_skip",
    ),
    f"{_TIMM}.InvertedResidual": (
        ("conv_s2d", "bn_s2d", "conv_pw", "bn1", "conv_dw", "bn2", "aa", "se", "conv_pwl", "bn3", "drop_path"),
        "has_skip",
    ),
    f"{_TIMM}.UniversalInvertedResidual": (
        ("dw_start", "pw_exp", "dw_mid", "se", "pw_proj", "dw_end", "layer_scale", "drop_path"),
        "has_skip",
    ),
    f"{_TIMM}.ConvBnAct": (("conv", "bn1", "aa", "drop_path"), "has_skip"),
    f"{_TIMM}.EdgeResidual": (("conv_exp", "bn1", "aa", "se", "conv_pwl", "bn2", "drop_path"), "has_skip"),
    "timm.layers.conv_bn_act.ConvNormAct": (("conv", "bn", "aa"), False),
}
# Children that the forward applies only where it adds its input.
_ONLY_WHERE_ADDED = ("stochastic_depth",)

MODULES: dict[type[Piece], type[FusedModule]] = {
    InvertedResidualPiece: InvertedResidual,
    DepthwisePointwisePiece: DepthwisePointwise,
    Conv1x1BNActPiece: Conv1x1BNAct,
    BNReLUConv2dPiece: BNReLUConv2d,
    StemPiece: Stem,
}


def propose(module: nn.Module) -> Proposal | Refusal | None:
    known = CHAINS.get(qualified_type(module))
    if known is None:
        return None
    names, residual = known
    if not (isinstance(residual, str) and getattr(module, residual, True)):
        names = tuple(name for name in names if name not in _ONLY_WHERE_ADDED)
    return propose_chain(module, names, residual)


def propose_chain(module: nn.Module, names: tuple[str, ...], residual: Residual) -> Proposal | Refusal | None:
    """One op for the whole chain where there is one, else a FusedChain over the runs that have one."""
    chain = [leaf for name in names for leaf in leaves(module._modules.get(name), name)]
    piece = whole_chain(chain)
    if isinstance(piece, InvertedResidualPiece | DepthwisePointwisePiece | Conv1x1BNActPiece):
        piece = replace(piece, residual=residual)
    elif residual is not False:
        piece = None
    if piece is not None:
        try:
            piece.read_all(Reader(module, any_mode=True))
        except Decline as decline:
            return Refusal(piece.op, str(decline))
        make = MODULES[type(piece)].from_piece
        return Proposal(piece.op, [piece], lambda stock, winograd: make(stock, piece, winograd))
    chain, paths, neutral, runs = chain_runs(module, names)
    if not runs:
        # A lone depthwise convolution with its norm is a part of a block rather than one.
        return None if residual is False else Refusal("chain", why_not(module, chain))

    def build(stock: nn.Module, winograd: int) -> FusedModule:
        return FusedChain.from_stock(stock, paths, runs, residual=residual, neutral=neutral, winograd=winograd)

    return Proposal("+".join(dict.fromkeys(run.piece.op for run in runs)), [run.piece for run in runs], build)


class ChainRuns(NamedTuple):
    """A block's layers; the paths of those that compute something and of those that do not; the runs that fuse."""

    chain: list[Leaf]
    paths: tuple[str, ...]
    neutral: tuple[str, ...]
    runs: list[Run]


def chain_runs(module: nn.Module, names: tuple[str, ...]) -> ChainRuns:
    """The runs over the children `names`, applied in this order."""
    chain = [leaf for name in names for leaf in leaves(module._modules.get(name), name)]
    # Every layer is a step of its own, so that a run may end anywhere.
    steps = [leaf._replace(top=leaf.path) for leaf in chain if leaf.letter != "I"]
    neutral = tuple(leaf.path for leaf in chain if leaf.letter == "I")
    return ChainRuns(chain, tuple(leaf.path for leaf in steps), neutral, find_runs(module, steps))


def why_not(module: nn.Module, chain: list[Leaf]) -> str:
    """What keeps a chain's layers from making a run, layer by layer."""
    found = [why for leaf in chain if (why := _obstacle(module, leaf)) is not None]
    return "; ".join(found) or "no run of its layers has a fused form"


def _obstacle(module: nn.Module, leaf: Leaf) -> str | None:
    layer, reader = leaf.module, Reader(module, any_mode=True)
    try:
        if isinstance(layer, nn.Conv2d):
            reader.conv(leaf.path)
        elif leaf.letter == "N":
            reader.norm(leaf.path)
    except Decline as decline:
        return str(decline)
    if leaf.letter == "D":
        return f"{leaf.path} is a depthwise convolution, which is fused only with a 1x1 right behind it"
    if leaf.letter != "X":
        return None
    if isinstance(layer, nn.Conv2d):
        size = "x".join(map(str, layer.kernel_size))
        return f"{leaf.path} is a grouped {size} convolution ({layer.groups} groups), which has no fused form"
    return f"{leaf.path} is {type(layer).__name__}, which has no fused form"
