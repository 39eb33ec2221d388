"""One small stock block per fused module, with weights and statistics that hide nothing."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightops import networks
from lightops._torchvision import import_torchvision
from lightops.modules import (
    BNReLUConv2d,
    Conv1x1BNAct,
    DenseBlock,
    DepthwisePointwise,
    Fire,
    FusedChain,
    FusedModule,
    FusedSequential,
    Head,
    InvertedResidual,
    MaxPool2d,
    Run,
    Stem,
    Transition,
    Unit,
)
from lightops.modules.conv1x1_bn_act import Conv1x1BNActPiece
from lightops.modules.stem import StemPiece
from lightops.networks.densenet import DenseBlock as StockDenseBlock
from lightops.networks.densenet import Transition as StockTransition
from lightops.networks.squeezenet import Fire as StockFire
from lightops.swap.rules import residual

import_torchvision()

from timm.layers import BatchNormAct2d, create_conv2d  # noqa: E402
from timm.models.resnetv2 import DownsampleConv, PreActBottleneck  # noqa: E402
from torchvision.models.mobilenetv2 import InvertedResidual as StockInvertedResidual  # noqa: E402
from torchvision.models.mobilenetv3 import InvertedResidual as StockInvertedResidualV3  # noqa: E402
from torchvision.models.mobilenetv3 import InvertedResidualConfig  # noqa: E402
from torchvision.models.resnet import BasicBlock, Bottleneck  # noqa: E402
from torchvision.ops.misc import Conv2dNormActivation  # noqa: E402


class Case(NamedTuple):
    stock: Callable[[], nn.Module]
    fuse: Callable[[nn.Module], FusedModule]
    channels: int


def _pre_activation() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 20, 3, padding=1))


def _head() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 7))


def _squeeze_excite_block() -> nn.Module:
    config = InvertedResidualConfig(16, 3, 32, 16, True, "HS", 1, 1, 1.0)
    return StockInvertedResidualV3(config, nn.BatchNorm2d)


def _fuse_squeeze_excite(stock: nn.Module) -> FusedModule:
    expand = Run(
        ("block.0.0", "block.0.1", "block.0.2"), Conv1x1BNActPiece(Unit("block.0.0", "block.0.1", "block.0.2"))
    )
    project = Run(("block.3.0", "block.3.1"), Conv1x1BNActPiece(Unit("block.3.0", "block.3.1")))
    between = ("block.1.0", "block.1.1", "block.1.2", "block.2")
    paths = (*expand.paths, *between, *project.paths)
    return FusedChain.from_stock(stock, paths, [expand, project], residual="use_res_connect")


def _image_chain() -> nn.Sequential:
    return nn.Sequential(
        Conv2dNormActivation(3, 8, 3, 2), nn.MaxPool2d(2), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.Hardswish()
    )


def _fuse_image_chain(stock: nn.Module) -> FusedModule:
    stem = Run(("0",), StemPiece(Unit("0.0", "0.1", "0.2")))
    return FusedSequential.from_stock(stock, [stem, Run(("2", "3", "4"), Conv1x1BNActPiece(Unit("2", "3", "4")))])


def _separable() -> nn.Module:
    return networks.mobilenet.DepthwiseSeparable(12, 20, 2, "relu6", 1e-3, False)


def _shortened() -> nn.Module:
    shortcut = nn.Sequential(nn.Conv2d(12, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    return Bottleneck(12, 4, 2, shortcut)


def _pre_activated(out_channels: int, stride: int, shortcut: type[nn.Module] | None) -> nn.Module:
    layers = {"conv_layer": create_conv2d, "norm_layer": BatchNormAct2d, "proj_layer": shortcut}
    return PreActBottleneck(12, out_channels, stride=stride, **layers)


def _fuse_residual(stock: nn.Module) -> FusedModule:
    return residual.propose(stock).build(stock, 2)


CASES = {
    "bn_relu_conv2d": Case(_pre_activation, lambda m: BNReLUConv2d.from_stock(m, "0", "1", "2"), 12),
    "conv1x1_bn_act": Case(
        lambda: Conv2dNormActivation(12, 20, 1, activation_layer=nn.ReLU6), Conv1x1BNAct.from_stock, 12
    ),
    "dense_block": Case(lambda: StockDenseBlock(3, 12, 8, 2), DenseBlock.from_stock, 12),
    "depthwise_pointwise": Case(
        _separable,
        lambda m: DepthwisePointwise.from_stock(m, Unit("conv_dw", "bn1", "act1"), Unit("conv_pw", "bn2", "act2")),
        12,
    ),
    "fire": Case(lambda: StockFire(16, 4, 8, 8), Fire.from_stock, 16),
    "fire_bypass": Case(
        lambda: StockFire(16, 4, 8, 8, nn.Identity()), lambda m: Fire.from_stock(m, bypass="bypass"), 16
    ),
    "fire_complex": Case(
        lambda: StockFire(12, 4, 8, 8, nn.Conv2d(12, 16, 1)), lambda m: Fire.from_stock(m, bypass="bypass"), 12
    ),
    "head": Case(_head, lambda m: Head.from_stock(m, "0", "1", "2", "3", "4"), 12),
    "inverted_residual": Case(lambda: StockInvertedResidual(12, 12, 1, 4), InvertedResidual.from_stock, 12),
    "max_pool2d": Case(lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), MaxPool2d.from_stock, 12),
    "stem": Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 12, 7, 2, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        ),
        lambda m: Stem.from_stock(m, pool="3"),
        3,
    ),
    "transition": Case(lambda: StockTransition(12, 6), Transition.from_stock, 12),
    "residual": Case(lambda: BasicBlock(12, 12), _fuse_residual, 12),
    "residual_shortcut": Case(_shortened, _fuse_residual, 12),
    "residual_preact": Case(lambda: _pre_activated(12, 1, None), _fuse_residual, 12),
    "residual_preact_shortcut": Case(lambda: _pre_activated(16, 2, DownsampleConv), _fuse_residual, 12),
    "chain": Case(_squeeze_excite_block, _fuse_squeeze_excite, 16),
    "sequential": Case(_image_chain, _fuse_image_chain, 3),
}


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, FusedModule]:
    """A stock block in evaluation, and its fused twin over a copy of it."""
    case = CASES[name]
    stock, twin = (untrivial(case.stock()).eval().to(dtype) for _ in range(2))
    return stock, case.fuse(twin)


def untrivial(block: nn.Module) -> nn.Module:
    """Seeded parameters and statistics, some gammas negative, variances over two decades."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in block.modules():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is None or not tensor.is_floating_point():
                    continue
                noise = torch.randn(tensor.shape, generator=generator)
                if name == "running_var":
                    tensor.copy_(10 ** noise.clamp(-1, 1))
                elif tensor.dim() > 1:
                    tensor.copy_(noise / tensor[0].numel() ** 0.5)
                else:
                    tensor.copy_(noise)
    return block


def image(name: str, dtype: torch.dtype = torch.float32, n: int = 2, h: int = 12, w: int = 16, seed: int = 1) -> Tensor:
    shape = (n, CASES[name].channels, h, w)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_fused(module: FusedModule) -> None:
    """The last call ran fused, not stock."""
    assert module.last_reason is None
    assert module.backend == "cpu"


def close(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    """Within a small multiple of the unit roundoff of `dtype`, of the largest value: blocks are one to six layers
    deep.
    """
    unit = torch.finfo(dtype).eps / 2
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    scale = want.abs().max().item()
    torch.testing.assert_close(got, want, rtol=0, atol=64 * unit * scale)
