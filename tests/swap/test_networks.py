"""Whole networks, stock against swapped: float64 to the last digits (tier T3), float32 against stock's own error."""

import copy

import pytest
import torch
from torch import nn

import lightops
from lightops.modules import FusedModule
from lightops.testing.compare import check_network

from .nets import make

# Network: the ops that must take part, and how many blocks at least.
NETWORKS = {
    "torchvision:densenet121": ("dense_block stem transition", 8),
    "torchvision:squeezenet1_1": ("conv1x1_bn_act fire head stem", 11),
    "torchvision:mobilenet_v2": ("conv1x1_bn_act depthwise_pointwise inverted_residual stem", 19),
    "torchvision:mobilenet_v3_small": ("conv1x1_bn_act inverted_residual stem", 13),
    "torchvision:mnasnet0_5": ("conv1x1_bn_act depthwise_pointwise inverted_residual stem", 19),
    "torchvision:resnet18": ("bn_relu_conv2d", 11),
    "timm:resnetv2_18": ("bn_relu_conv2d stem", 9),
    "timm:densenet121": ("dense_block stem transition", 8),
    "timm:mobilenetv1_100": ("depthwise_pointwise", 13),
    "timm:mobilenetv2_100": ("depthwise_pointwise inverted_residual", 17),
    "timm:lcnet_050": ("depthwise_pointwise", 11),
    "timm:mobilenetv4_conv_small": ("bn_relu_conv2d conv1x1_bn_act depthwise_pointwise inverted_residual", 14),
    "densenet121": ("dense_block head stem transition", 9),
    "mobilenet_v1": ("depthwise_pointwise head stem", 15),
    "mobilenet_v2": ("conv1x1_bn_act depthwise_pointwise inverted_residual stem", 19),
    "squeezenet1_0:simple": ("conv1x1_bn_act fire head stem", 11),
    "squeezenet1_1:complex": ("conv1x1_bn_act fire head stem", 11),
    "densenet_cifar": ("dense_block head stem transition", 7),
    "preact_resnet": ("bn_relu_conv2d head stem", 50),
}
LONG = {
    "torchvision:densenet161": ("dense_block stem transition", 8),
    "torchvision:densenet169": ("dense_block stem transition", 8),
    "torchvision:densenet201": ("dense_block stem transition", 8),
    "torchvision:squeezenet1_0": ("conv1x1_bn_act fire head stem", 11),
    "torchvision:mobilenet_v3_large": ("conv1x1_bn_act depthwise_pointwise inverted_residual stem", 17),
    "torchvision:mnasnet0_75": ("conv1x1_bn_act depthwise_pointwise inverted_residual stem", 19),
    "torchvision:mnasnet1_0": ("conv1x1_bn_act depthwise_pointwise inverted_residual stem", 19),
    "torchvision:mnasnet1_3": ("conv1x1_bn_act depthwise_pointwise inverted_residual stem", 19),
    "timm:densenet161": ("dense_block stem transition", 8),
    "timm:densenet169": ("dense_block stem transition", 8),
    "timm:densenet201": ("dense_block stem transition", 8),
    "timm:densenetblur121d": ("dense_block stem transition", 8),
    "timm:mobilenetv1_100h": ("depthwise_pointwise", 13),
    "timm:mobilenetv1_125": ("depthwise_pointwise", 13),
    "timm:mobilenetv2_035": ("depthwise_pointwise inverted_residual", 17),
    "timm:mobilenetv2_110d": ("depthwise_pointwise inverted_residual", 22),
    "timm:mobilenetv2_140": ("depthwise_pointwise inverted_residual", 17),
    "timm:mobilenetv3_large_100": ("conv1x1_bn_act depthwise_pointwise inverted_residual", 15),
    "timm:mobilenetv3_small_100": ("conv1x1_bn_act inverted_residual", 10),
    "timm:mobilenetv3_rw": ("conv1x1_bn_act depthwise_pointwise inverted_residual", 15),
    "timm:tf_mobilenetv3_small_minimal_100": ("inverted_residual", 7),
    "timm:efficientnet_lite0": ("depthwise_pointwise inverted_residual", 16),
    "timm:tf_efficientnet_lite0": ("depthwise_pointwise inverted_residual", 12),
    "timm:efficientnet_es": ("inverted_residual", 18),
    "timm:efficientnet_b0": ("conv1x1_bn_act", 16),
    "timm:mnasnet_100": ("depthwise_pointwise inverted_residual", 17),
    "timm:semnasnet_075": ("conv1x1_bn_act depthwise_pointwise inverted_residual", 16),
    "timm:fbnetc_100": ("inverted_residual", 21),
    "timm:spnasnet_100": ("depthwise_pointwise inverted_residual", 21),
    "timm:tinynet_e": ("conv1x1_bn_act", 10),
    "timm:hardcorenas_a": ("conv1x1_bn_act depthwise_pointwise inverted_residual", 12),
    "timm:lcnet_100": ("depthwise_pointwise", 11),
    "timm:mixnet_s": ("conv1x1_bn_act", 7),
    "timm:ghostnet_100": ("conv1x1_bn_act", 30),
    "timm:resnet18d": ("bn_relu_conv2d conv1x1_bn_act stem", 13),
    "torchvision:resnet50": ("bn_relu_conv2d conv1x1_bn_act", 21),
    "torchvision:resnext50_32x4d": ("bn_relu_conv2d conv1x1_bn_act", 21),
    "torchvision:efficientnet_b0": ("conv1x1_bn_act head stem", 19),
    "timm:resnet50": ("bn_relu_conv2d conv1x1_bn_act", 21),
    "timm:resnetv2_50": ("bn_relu_conv2d conv1x1_bn_act stem", 17),
    "timm:resnetv2_50d": ("bn_relu_conv2d conv1x1_bn_act stem", 18),
    "timm:seresnet50": ("bn_relu_conv2d conv1x1_bn_act", 21),
    "timm:ecaresnet26t": ("bn_relu_conv2d conv1x1_bn_act", 10),
    "timm:resnetblur18": ("bn_relu_conv2d", 10),
    "timm:regnety_002": ("conv1x1_bn_act stem", 18),
    "timm:cs3darknet_s": ("bn_relu_conv2d conv1x1_bn_act stem", 28),
    "timm:repvgg_a0": ("bn_relu_conv2d conv1x1_bn_act head stem", 40),
    "timm:rexnet_100": ("conv1x1_bn_act depthwise_pointwise head stem", 30),
    "timm:mobilevit_xxs": ("bn_relu_conv2d conv1x1_bn_act inverted_residual stem", 16),
    "timm:ese_vovnet19b_slim_dw": ("conv1x1_bn_act depthwise_pointwise stem", 19),
    "timm:regnetx_002": ("conv1x1_bn_act stem", 18),
    "torchvision:regnet_y_400mf": ("bn_relu_conv2d conv1x1_bn_act stem", 21),
    "timm:starnet_s1": ("bn_relu_conv2d conv1x1_bn_act stem", 45),
    "timm:hrnet_w18_small": ("bn_relu_conv2d conv1x1_bn_act head", 35),
    "timm:xception41": ("bn_relu_conv2d depthwise_pointwise head stem", 41),
    "torchvision:shufflenet_v2_x1_0": ("conv1x1_bn_act depthwise_pointwise head stem", 34),
    "timm:mobileone_s0": ("conv1x1_bn_act head stem", 78),
    "timm:repvit_m0_9": ("bn_relu_conv2d conv1x1_bn_act stem", 51),
    "timm:efficientvit_m0": ("bn_relu_conv2d conv1x1_bn_act stem", 63),
    "timm:fbnetv3_b": ("conv1x1_bn_act depthwise_pointwise inverted_residual", 27),
    "timm:ghostnetv3_050": ("conv1x1_bn_act depthwise_pointwise", 104),
    "timm:gernet_s": ("bn_relu_conv2d conv1x1_bn_act head stem", 38),
    "timm:edgenext_xx_small": ("stem", 1),
    "torchvision:efficientnet_v2_s": ("bn_relu_conv2d conv1x1_bn_act head stem", 43),
    "torchvision:convnext_tiny": ("head stem", 2),
    "densenet169": ("dense_block head stem transition", 9),
}


def _image(model: nn.Module, resolution: int, n: int = 2) -> torch.Tensor:
    channels = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, channels, resolution, resolution, dtype=torch.float64, generator=generator)


def _assert_everything_ran_fused(model: nn.Module) -> None:
    reasons = {n: m.last_reason for n, m in model.named_modules() if isinstance(m, FusedModule) and m.last_reason}
    assert not reasons


def check_float64(name: str, ops: str, least: int, resolution: int = 64) -> None:
    """Same numbers, keys and layout after the swap, every reported block fused, and stock again after the way back."""
    model = make(name).double()
    x = _image(model, resolution)
    with torch.inference_mode():
        want = model(x)
        assert want.abs().max() > 1e-3, "a network that answers nothing proves nothing"
        types = {n: type(m) for n, m in model.named_modules()}
        keys = list(model.state_dict())
        report = lightops.swap_(model)
        fused = {op for record in report.fused for op in record.op.split("+")}
        assert set(ops.split()) <= fused, report
        assert len(report.fused) >= least, report
        assert list(model.state_dict()) == keys
        for _ in range(2):  # in the second pass producers write into the dense blocks' buffers
            got = model(x)
            check_network(got, want)
            assert got.stride() == want.stride()
        check_network(model(x[:1]), want[:1])
    _assert_everything_ran_fused(model)
    lightops.unswap_(model)
    assert {n: type(m) for n, m in model.named_modules()} == types
    with torch.inference_mode():
        assert torch.equal(model(x), want)


def check_float32(name: str, resolution: int = 64) -> None:
    """The error against float64 is at most twice the larger of stock's own in its two layouts."""
    exact = make(name).double()
    x = _image(exact, resolution, 4)
    stock = make(name)
    swapped = copy.deepcopy(stock)
    lightops.swap_(swapped)
    with torch.inference_mode():
        want = exact(x)
        single = x.float()

        def error(model: nn.Module, image: torch.Tensor) -> float:
            return (model(image).double() - want).abs().max().item()

        nhwc = single.contiguous(memory_format=torch.channels_last)
        own = max(error(stock, single), error(stock, nhwc))
        got = max(error(swapped, single), error(swapped, nhwc))
    _assert_everything_ran_fused(swapped)
    assert got <= 2 * own, f"float32 error {got:.3g}, stock's own {own:.3g}"


def _cases() -> list:
    return [*NETWORKS, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)]


@pytest.mark.parametrize("name", _cases())
def test_float64(name: str) -> None:
    check_float64(name, *(NETWORKS | LONG)[name])


@pytest.mark.parametrize("name", _cases())
def test_float32_error(name: str) -> None:
    check_float32(name)


@pytest.mark.parametrize("resolution", [33, 47, 95])
@pytest.mark.parametrize("name", ["torchvision:densenet121", "torchvision:squeezenet1_1", "torchvision:mobilenet_v2"])
def test_odd_resolutions(name: str, resolution: int) -> None:
    check_float64(name, *NETWORKS[name], resolution)
