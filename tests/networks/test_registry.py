"""The registry, argument errors, and what importing the package brings in."""

import subprocess
import sys

import pytest
import torch

from lightops import networks


@pytest.mark.parametrize("name", networks.names())
def test_every_name_builds_and_maps_images_to_logits(name):
    # On the meta device: shapes without memory or arithmetic.
    with torch.device("meta"):
        model = networks.create(name, num_classes=12, in_channels=2).eval()
        assert model(torch.empty(3, 2, 64, 64)).shape == (3, 12)


def test_unknown_name_suggests():
    with pytest.raises(ValueError, match=r"no network named 'densenet120'; did you mean .*densenet121"):
        networks.create("densenet120")
    with pytest.raises(ValueError, match=r"no network named 'xyzzy'; there are densenet121, "):
        networks.create("xyzzy")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("densenet_cifar", {"depth": 41}, r"densenet_cifar: depth must be 6n \+ 4 with bottleneck=True, got 41"),
        ("densenet_cifar", {"depth": 41, "bottleneck": False}, r"depth must be 3n \+ 4 .* got 41"),
        ("densenet_cifar", {"depth": 4}, r"depth must be an integer >= 10, got 4"),
        ("densenet_cifar", {"growth_rate": 0}, r"growth_rate must be an integer >= 1, got 0"),
        ("densenet_cifar", {"bottleneck": "BC"}, r"bottleneck must be one of False, True, got 'BC'"),
        ("densenet121", {"compression": 1.5}, r"DenseNet: compression must be a number in \(0, 1\], got 1\.5"),
        ("densenet121", {"drop_rate": 1}, r"DenseNet: drop_rate must be a number in \[0, 1\), got 1"),
        ("densenet264", {"growth_rate": 2.0}, r"densenet264: growth_rate must be an integer >= 1, got 2\.0"),
        ("squeezenet", {"bypass": "identity"}, r"bypass must be one of None, 'simple', 'complex', got 'identity'"),
        ("squeezenet", {"version": "2_0"}, r"version must be one of '1_0', '1_1', got '2_0'"),
        ("squeezenet", {"squeeze_ratio": 0.001}, r"fire2 would have squeeze, expand1x1, expand3x3 = \(0, 64, 64\)"),
        ("squeezenet", {"pct_3x3": 1.0}, r"fire2 would have .* = \(16, 0, 128\)"),
        ("squeezenet", {"freq": 0}, r"squeezenet: freq must be an integer >= 1, got 0"),
        ("mobilenet_v1", {"width_mult": 0}, r"mobilenet_v1: width_mult must be a number > 0, got 0"),
        ("mobilenet_v1", {"act": "silu"}, r"mobilenet_v1: act must be one of 'relu', 'relu6', got 'silu'"),
        ("mobilenet_v2", {"width_mult": float("nan")}, r"mobilenet_v2: width_mult must be a number > 0, got nan"),
        ("mobilenet_v2", {"num_classes": True}, r"num_classes must be an integer >= 1, got True"),
        ("preact_resnet", {"depth": 21}, r"must be 6n \+ 2 \(basic\) or 9n \+ 2 \(bottleneck\), n >= 1, got 21"),
        ("preact_resnet", {"depth": 19, "style": "imagenet"}, r"depth must be one of 18, 34, 50, .* got 19"),
        ("preact_resnet18", {"block": "bottleneck"}, r"depth 18 of style 'imagenet' has 'basic' blocks, got"),
        ("preact_resnet", {"activation_order": "mid"}, r"activation_order must be one of 'pre', 'post', got 'mid'"),
    ],
)
def test_bad_arguments_are_named(name, kwargs, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        networks.create(name, **kwargs)


@pytest.mark.parametrize(
    ("depth", "block"), [(20, "basic"), (110, "basic"), (164, "bottleneck"), (1001, "bottleneck"), (29, "bottleneck")]
)
def test_preact_resnet_block_by_depth(depth, block):
    with torch.device("meta"):
        residual = networks.preact_resnet(depth).stages.stage1[0].residual
    assert hasattr(residual, "conv3") == (block == "bottleneck")


def test_count_leaves_the_model_alone():
    model = networks.squeezenet1_1(num_classes=3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    networks.count(model, (3, 64, 64))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, before[name])


def test_import_brings_in_torch_only():
    code = (
        "import sys, torch; before = set(sys.modules); import lightops.networks;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names;"
        "print(sorted(new - {'lightops', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
