"""Dense blocks of torchvision, timm and lightops.networks. Their transitions, stems and tails are Sequential runs."""

from torch import nn

from lightops.modules import DenseBlock, LayerPaths
from lightops.modules._reader import qualified_type
from lightops.modules.dense_block import DenseBlockPiece
from lightops.swap.rules._proposal import Proposal, Refusal

_TORCHVISION = ("norm1", "relu1", "conv1", "norm2", "relu2", "conv2")
_TIMM = ("norm1", None, "conv1", "norm2", None, "conv2")

# Block class: (layer class, names below a layer, its dropout rates).
_BLOCKS = {
    "torchvision.models.densenet._DenseBlock": (
        "torchvision.models.densenet._DenseLayer",
        _TORCHVISION,
        ("drop_rate",),
    ),
    "timm.models.densenet.DenseBlock": ("timm.models.densenet.DenseLayer", _TIMM, ("drop_rate",)),
    "lightops.networks.densenet.DenseBlock": (
        "lightops.networks.densenet.DenseLayer",
        _TORCHVISION,
        ("drop_rate", "inner_drop_rate"),
    ),
}


def propose(module: nn.Module) -> Proposal | Refusal | None:
    known = _BLOCKS.get(qualified_type(module))
    if known is None:
        return None
    layer_type, names, rates = known
    paths = []
    for name, layer in module._modules.items():
        if layer is None or qualified_type(layer) != layer_type:
            return Refusal("dense_block", f"{name} is {type(layer).__name__}, not {layer_type.rpartition('.')[2]}")
        present = names if "conv2" in layer._modules else names[:3]
        paths.append(LayerPaths.named(name, *present, rates=rates))
    piece = DenseBlockPiece(tuple(paths))
    return Proposal(
        "dense_block", [piece], lambda stock, winograd: DenseBlock.from_stock(stock, piece.layers, winograd=winograd)
    )
