"""Each network's forward against the paper's formula written out over the state_dict, and its options."""

import pytest
import torch
from torch.nn import functional as F

from lightops import networks
from lightops.networks.squeezenet import Fire

from .nets import image, randomize_


def bn(p, name, x, eps=1e-5):
    scale = p[f"{name}.weight"] / (p[f"{name}.running_var"] + eps).sqrt()
    return (x - p[f"{name}.running_mean"][:, None, None]) * scale[:, None, None] + p[f"{name}.bias"][:, None, None]


def assert_forward(model, x, formula):
    model = randomize_(model).double().eval()
    p = dict(model.state_dict())
    with torch.no_grad():
        got, wanted = model(x), formula(p, x)
    assert wanted.unique().numel() > wanted.numel() // 3
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11 * wanted.abs().max().item())


@pytest.mark.parametrize(("bottleneck", "depth"), [(False, 13), (True, 16)])
def test_densenet_cifar_forward(bottleneck, depth):
    def formula(p, x):
        x = F.conv2d(x, p["features.conv0.weight"], padding=1)
        for block in (1, 2, 3):
            for layer in range(1, 3 if bottleneck else 4):
                name = f"features.denseblock{block}.denselayer{layer}"
                y = F.relu(bn(p, f"{name}.norm1", x))
                y = F.conv2d(y, p[f"{name}.conv1.weight"], padding=0 if bottleneck else 1)
                if bottleneck:
                    y = F.conv2d(F.relu(bn(p, f"{name}.norm2", y)), p[f"{name}.conv2.weight"], padding=1)
                x = torch.cat([x, y], 1)
            if block < 3:
                name = f"features.transition{block}"
                x = F.avg_pool2d(F.conv2d(F.relu(bn(p, f"{name}.norm", x)), p[f"{name}.conv.weight"]), 2)
        x = F.relu(bn(p, "features.norm5", x)).mean((2, 3))
        return F.linear(x, p["classifier.weight"], p["classifier.bias"])

    assert_forward(networks.densenet_cifar(depth, 5, bottleneck), image(2, 3, 12, 12), formula)


def test_densenet_dropout_places():
    """The paper: after every convolution but the first; torchvision: after a layer's last convolution only."""
    convolutions = 2 * 6 + 2
    for everywhere, places in ((True, convolutions), (False, 6)):
        model = networks.DenseNet(
            4, (2, 2, 2), 8, drop_rate=0.25, drop_everywhere=everywhere, num_classes=3, small_input=True
        ).train()
        calls = []
        dropout = F.dropout

        def counted(x, p, training, *args, calls=calls, dropout=dropout):
            calls.append((p, training))
            return dropout(x, p, training, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, "dropout", counted)
            model(torch.randn(2, 3, 16, 16))
        assert calls == [(0.25, True)] * places


@pytest.mark.parametrize(("version", "pools"), [("1_0", (3, 7)), ("1_1", (2, 4))])
@pytest.mark.parametrize("bypass", [None, "simple", "complex"])
def test_squeezenet_forward(bypass, version, pools):
    model = networks.squeezenet(8, 8, 0.25, 2, 0.5, bypass, version=version, num_classes=7)

    def formula(p, x):
        def conv(name, x, **kwargs):
            return F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **kwargs)

        x = F.max_pool2d(F.relu(conv("features.0", x, stride=2)), 3, 2, ceil_mode=True)
        index = 3
        for i in range(8):
            if i in pools:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
                index += 1
            name = f"features.{index}"
            s = F.relu(conv(f"{name}.squeeze", x))
            y = F.relu(torch.cat([conv(f"{name}.expand1x1", s), conv(f"{name}.expand3x3", s, padding=1)], 1))
            if bypass and i % 2:
                y = y + x
            elif bypass == "complex":
                y = y + conv(f"{name}.bypass", x)
            x = y
            index += 1
        return F.relu(conv("classifier.1", x)).mean((2, 3))

    assert_forward(model, image(2, 3, 63, 63), formula)


@pytest.mark.parametrize(("bypass", "identity", "convolution"), [(None, 0, 0), ("simple", 4, 0), ("complex", 4, 4)])
def test_squeezenet_bypass_places(bypass, identity, convolution):
    """arXiv:1602.07360 section 6: identity around fire3, 5, 7, 9; with "complex" convolutions at fire2, 4, 6, 8."""
    with torch.device("meta"):
        fires = [m for m in networks.squeezenet1_0(bypass).modules() if isinstance(m, Fire)]
    kinds = [type(fire.bypass).__name__ for fire in fires]
    assert kinds.count("Identity") == identity == sum(k == "Identity" for k in kinds[1::2])
    assert kinds.count("Conv2d") == convolution == sum(k == "Conv2d" for k in kinds[0::2])


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("shallow", [False, True])
@pytest.mark.parametrize("act", ["relu", "relu6"])
def test_mobilenet_v1_forward(act, shallow, separable):
    strides = [1, 2, 1, 2, 1, 2, *([] if shallow else [1] * 5), 2, 1]
    activate = {"relu": F.relu, "relu6": F.relu6}[act]

    def formula(p, x):
        x = activate(bn(p, "features.stem.bn", F.conv2d(x, p["features.stem.conv.weight"], stride=2, padding=1)))
        for i, stride in enumerate(strides, start=1):
            name = f"features.block{i}"
            if separable:
                w = p[f"{name}.conv_dw.weight"]
                x = activate(bn(p, f"{name}.bn1", F.conv2d(x, w, stride=stride, padding=1, groups=len(w))))
                x = activate(bn(p, f"{name}.bn2", F.conv2d(x, p[f"{name}.conv_pw.weight"])))
            else:
                x = activate(bn(p, f"{name}.bn", F.conv2d(x, p[f"{name}.conv.weight"], stride=stride, padding=1)))
        return F.linear(x.mean((2, 3)), p["head.fc.weight"], p["head.fc.bias"])

    model = networks.mobilenet_v1(0.25, 1.0, shallow, separable, act=act, num_classes=9)
    assert_forward(model, image(2, 3, 65, 63), formula)


@pytest.mark.parametrize(("rho", "pixels"), [(1.0, 224), (6 / 7, 192), (5 / 7, 160), (4 / 7, 128), (0.714, 160)])
def test_mobilenet_v1_resolution_multiplier(rho, pixels):
    with torch.device("meta"):
        assert networks.mobilenet_v1(resolution_mult=rho).input_resolution == pixels


def residual(p, name, x, preact, convolutions, paddings, stride):
    """The residual branch bn-relu-conv ...; ``preact``: whether bn1, relu1 run before the branch."""
    for i in range(1, convolutions + 1):
        if i > 1 or not preact:
            x = F.relu(bn(p, f"{name}.residual.bn{i}", x))
        x = F.conv2d(x, p[f"{name}.residual.conv{i}.weight"], stride=stride if i == 1 else 1, padding=paddings[i - 1])
    return x


@pytest.mark.parametrize(
    ("depth", "options", "units", "paddings"),
    [
        (14, {}, (2, 2, 2), (1, 1)),
        (14, {"shortcut": "projection"}, (2, 2, 2), (1, 1)),
        (20, {"block": "bottleneck"}, (2, 2, 2), (0, 1, 0)),
        (18, {"style": "imagenet"}, (2, 2, 2, 2), (1, 1)),
        (50, {"style": "imagenet"}, (3, 4, 6, 3), (0, 1, 0)),
    ],
    ids=["cifar basic", "cifar projection", "cifar bottleneck", "imagenet 18", "imagenet 50"],
)
def test_preact_resnet_forward(depth, options, units, paddings):
    large = options.get("style") == "imagenet"

    def formula(p, x):
        x = F.conv2d(x, p["stem.conv.weight"], stride=2 if large else 1, padding=3 if large else 1)
        if large:
            x = F.max_pool2d(F.relu(bn(p, "stem.bn", x)), 3, 2, padding=1)
        for stage, count in enumerate(units, start=1):
            for unit in range(count):
                name = f"stages.stage{stage}.{unit}"
                stride = 2 if stage > 1 and unit == 0 else 1
                out = p[f"{name}.residual.conv{len(paddings)}.weight"].shape[0]
                changes = stride == 2 or x.shape[1] != out
                # The first unit after the ImageNet stem finds its input activated already.
                activated = large and stage == 1 and unit == 0
                if changes and not activated:
                    x = F.relu(bn(p, f"{name}.preact.bn1", x))
                if not changes:
                    shortcut = x
                elif f"{name}.shortcut.weight" in p:
                    shortcut = F.conv2d(x, p[f"{name}.shortcut.weight"], stride=stride)
                else:
                    shortcut = torch.zeros(x.shape[0], out, *(-(-n // 2) for n in x.shape[2:]), dtype=x.dtype)
                    shortcut[:, : x.shape[1]] = x[:, :, ::2, ::2]
                x = shortcut + residual(p, name, x, changes or activated, len(paddings), paddings, stride)
        x = F.relu(bn(p, "tail.bn", x)).mean((2, 3))
        return F.linear(x, p["tail.fc.weight"], p["tail.fc.bias"])

    model = networks.preact_resnet(depth, num_classes=6, **options)
    assert_forward(model, image(2, 3, 32, 32) if large else image(2, 3, 9, 9), formula)


def test_preact_identity_path():
    """With the last convolution of every branch zero, a stage of identity units returns its input bit for bit."""
    model = networks.preact_resnet(20).eval()
    stage = model.stages.stage1
    for unit in stage:
        torch.nn.init.zeros_(unit.residual.conv2.weight)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(stage(x), x)


SMALL_INPUT = [
    ("densenet121", {"small_input": True}),
    ("densenet_cifar", {"depth": 22}),
    ("squeezenet1_0", {"small_input": True}),
    ("squeezenet1_1", {"small_input": True}),
    ("mobilenet_v1", {"small_input": True}),
    ("mobilenet_v2", {"small_input": True}),
    ("preact_resnet", {"depth": 20}),
    ("preact_resnet18", {"small_input": True}),
]


@pytest.mark.parametrize(("name", "kwargs"), SMALL_INPUT, ids=[name for name, _ in SMALL_INPUT])
def test_small_grey_images(name, kwargs):
    """28x28 of one channel (Fashion-MNIST): a full-size first map and a last map of at least 2x2."""
    with torch.device("meta"):
        model = networks.create(name, in_channels=1, num_classes=10, **kwargs).eval()
        convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
        extents = []
        for m in convolutions:
            m.register_forward_hook(lambda _m, _args, out: extents.append(min(out.shape[-2:])))
        assert model(torch.empty(2, 1, 28, 28)).shape == (2, 10)
    assert extents[0] == 28
    assert min(extents) >= 2
