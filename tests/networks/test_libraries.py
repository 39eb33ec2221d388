"""Our networks against torchvision's and timm's: names, seeds, outputs, gradients."""

import pytest
import torch

from lightops import networks
from lightops._torchvision import import_torchvision

from .nets import assert_same_output, image, randomize_, shapes

torchvision = import_torchvision()
timm = pytest.importorskip("timm", reason="timm is a test extra")

TORCHVISION = [
    ("densenet121", {}),
    ("densenet169", {}),
    ("densenet201", {}),
    ("densenet161", {}),
    ("squeezenet1_0", {}),
    ("squeezenet1_1", {}),
    ("mobilenet_v2", {}),
    ("mobilenet_v2", {"width_mult": 0.35}),
    ("mobilenet_v2", {"width_mult": 1.4, "round_nearest": 4}),
]
SMALL = [("densenet121", {}), ("squeezenet1_1", {}), ("mobilenet_v2", {})]
IDS = [name + "".join(f"-{value}" for value in kwargs.values()) for name, kwargs in TORCHVISION]


def theirs(name: str, **kwargs: object) -> torch.nn.Module:
    return getattr(torchvision.models, name)(**kwargs)


@pytest.mark.parametrize(("name", "kwargs"), TORCHVISION, ids=IDS)
def test_names_and_shapes_are_torchvisions(name, kwargs):
    with torch.device("meta"):
        assert shapes(networks.create(name, **kwargs)) == shapes(theirs(name, **kwargs))


@pytest.mark.parametrize(("name", "kwargs"), TORCHVISION, ids=IDS)
def test_checkpoint_loads_and_outputs_equal(name, kwargs):
    reference = randomize_(theirs(name, num_classes=10, **kwargs))
    with torch.device("meta"):
        model = networks.create(name, num_classes=10, **kwargs)
    model.load_state_dict(reference.state_dict(), strict=True, assign=True)
    assert_same_output(model, reference, image(2, 3, 64, 64))


@pytest.mark.parametrize(("name", "kwargs"), SMALL, ids=[name for name, _ in SMALL])
def test_one_seed_gives_the_same_weights(name, kwargs):
    torch.manual_seed(7)
    model = networks.create(name, **kwargs)
    torch.manual_seed(7)
    for ours, wanted in zip(model.state_dict().values(), theirs(name, **kwargs).state_dict().values(), strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize(("name", "kwargs"), SMALL, ids=[name for name, _ in SMALL])
def test_training_step_equals_torchvisions(name, kwargs):
    """Gradients of input and parameters, and every buffer, after one step in train mode with a random upstream."""
    dropout = {} if name.startswith("densenet") else {"dropout": 0.0}
    reference = randomize_(theirs(name, num_classes=10, **dropout, **kwargs)).double().train()
    model = networks.create(name, num_classes=10, **dropout, **kwargs).double().train()
    model.load_state_dict(reference.state_dict())
    upstream = image(2, 10, seed=3)
    pixels = 64 if name.startswith("densenet") else 48
    gradients = []
    for net in (model, reference):
        x = image(2, 3, pixels, pixels).requires_grad_()
        net(x).backward(upstream)
        gradients.append([x.grad, *(p.grad for p in net.parameters()), *net.buffers()])
    for got, wanted in zip(*gradients, strict=True):
        # 1e-9: batch statistics of 2x2x2 values amplify the last bit of the sums (reliability bound of fp64 steps).
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("depth", [18, 34])
def test_post_activation_resnet_equals_torchvisions(depth):
    """Basic blocks only: torchvision's bottlenecks ("v1.5") have the stride on the 3x3, the papers on the 1x1."""
    reference = randomize_(theirs(f"resnet{depth}", num_classes=10))
    model = networks.preact_resnet(depth, style="imagenet", activation_order="post", num_classes=10)

    def rename(key: str) -> str:
        if not key.startswith("layer"):
            return key.replace("conv1", "stem.conv").replace("bn1", "stem.bn").replace("fc.", "tail.fc.")
        stage, unit, rest = key.removeprefix("layer").split(".", 2)
        rest = rest.replace("downsample.0", "shortcut.conv").replace("downsample.1", "shortcut.bn")
        return f"stages.stage{stage}.{unit}." + (rest if rest.startswith("shortcut") else f"residual.{rest}")

    model.load_state_dict({rename(key): tensor for key, tensor in reference.state_dict().items()}, strict=True)
    assert_same_output(model, reference, image(2, 3, 64, 64))


@pytest.mark.parametrize("depth", [50, 101])
def test_pre_activation_resnet_has_timms_parameter_count(depth):
    with torch.device("meta"):
        ours = networks.preact_resnet(depth, style="imagenet")
        reference = timm.create_model(f"resnetv2_{depth}")
    assert networks.count_parameters(ours) == networks.count_parameters(reference)


@pytest.mark.parametrize("size", [(64, 64), (75, 61)], ids=str)
@pytest.mark.parametrize("same", [False, True], ids=["symmetric", "same"])
def test_timm_mobilenet_v1(same, size):
    """ "same" is TensorFlow's asymmetric padding, which depends on odd and even sizes at every stride-2 layer."""
    options = {"pad_type": "same", "bn_eps": 1e-3} if same else {}
    reference = randomize_(timm.create_model("mobilenetv1_100", num_classes=10, **options))
    options = {"same_padding": True, "bn_eps": 1e-3} if same else {}
    model = networks.mobilenet_v1(act="relu6", num_classes=10, **options)
    model.load_state_dict(networks.convert_timm_mobilenet_v1(reference.state_dict()), strict=True)
    assert_same_output(model, reference, image(2, 3, *size))


@pytest.mark.parametrize("key", ["conv_head.weight", "blocks.5.0.conv_dw.weight", "blocks.0.1.bn1.bias"])
def test_timm_conversion_names_the_unknown_key(key):
    with pytest.raises(KeyError, match=key.replace(".", r"\.")):
        networks.convert_timm_mobilenet_v1({key: torch.zeros(1)})
