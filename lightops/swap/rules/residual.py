"""Residual blocks with a shortcut: post-activation, `act(steps(x) + shortcut(x))`, as ResNet's and what is built like
them; pre-activation, `steps(norm(x)) + shortcut(norm(x))`, `steps(norm(x)) + x` where the shape stays.
"""

from typing import NamedTuple

from torch import nn

from lightops.modules import FusedModule, FusedResidual
from lightops.modules._reader import qualified_type
from lightops.swap.rules._proposal import Proposal, Refusal
from lightops.swap.rules.mobilenet import chain_runs, why_not


class _Block(NamedTuple):
    """The children in the order the forward applies them, the shortcut's child, and the activation's after the sum.
    `first` normalises what steps and shortcut are given; without a shortcut it is the first step.
    """

    steps: tuple[str, ...]
    shortcut: str
    act: str | None = None
    first: str | None = None


_BLOCKS = {
    "torchvision.models.resnet.BasicBlock": _Block(("conv1", "bn1", "relu", "conv2", "bn2"), "downsample", "relu"),
    "torchvision.models.resnet.Bottleneck": _Block(
        ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3"), "downsample", "relu"
    ),
    "torchvision.models.regnet.ResBottleneckBlock": _Block(("f",), "proj", "activation"),
    "timm.models.resnet.BasicBlock": _Block(
        ("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2", "se", "drop_path"), "downsample", "act2"
    ),
    "timm.models.resnet.Bottleneck": _Block(
        ("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa", "conv3", "bn3", "se", "drop_path"),
        "downsample",
        "act3",
    ),
    "timm.models.regnet.Bottleneck": _Block(("conv1", "conv2", "se", "conv3", "drop_path"), "downsample", "act3"),
    "timm.models.resnetv2.PreActBasic": _Block(("conv1", "norm2", "conv2", "drop_path"), "downsample", first="norm1"),
    "timm.models.resnetv2.PreActBottleneck": _Block(
        ("conv1", "norm2", "conv2", "norm3", "conv3", "drop_path"), "downsample", first="norm1"
    ),
}
# Without a shortcut's child these add nothing.
_NO_CHILD_NO_SUM = frozenset({"timm.models.regnet.Bottleneck"})


def propose(module: nn.Module) -> Proposal | Refusal | None:
    name = qualified_type(module)
    known = _BLOCKS.get(name)
    if known is None or (name in _NO_CHILD_NO_SUM and module._modules.get(known.shortcut) is None):
        return None
    if known.first is not None and module._modules.get(known.shortcut) is None:
        known = known._replace(steps=(known.first, *known.steps), first=None)
    chain, paths, neutral, runs = chain_runs(module, known.steps)
    if not runs:
        return Refusal("residual", why_not(module, chain))

    def build(stock: nn.Module, winograd: int) -> FusedModule:
        return FusedResidual.from_stock(
            stock, paths, runs, shortcut=known.shortcut, act=known.act, first=known.first, neutral=neutral,
            winograd=winograd,
        )  # fmt: skip

    op = "+".join(dict.fromkeys(run.piece.op for run in runs))
    return Proposal(op, [run.piece for run in runs], build, rest=(known.shortcut,))
