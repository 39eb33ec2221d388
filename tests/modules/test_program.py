"""The straight-line program of a chain: same numbers as the walk, and nothing that changes goes unnoticed."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import lightops
from lightops import networks
from lightops.bench.memory import allocation
from lightops.modules import FallbackWarning, FusedSequential


def small_net() -> nn.Module:
    """SqueezeNet-like and MobileNet-like pieces in one Sequential, with pools between them."""
    torch.manual_seed(0)  # and weights that keep the signal alive: a change in an early block has to show at the end
    net = networks.mobilenet_v1(width_mult=0.25, num_classes=10).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net


@pytest.fixture
def pair():
    stock = small_net()
    fused = copy.deepcopy(stock)
    lightops.swap_(fused)
    return stock, fused


def program_of(net: nn.Module):
    features = net.features
    assert isinstance(features, FusedSequential)
    return next(iter(features._programs.values()), None)


@torch.no_grad()
def test_program_is_learned_and_used(pair):
    stock, fused = pair
    x = torch.randn(2, 3, 32, 32)
    first = fused(x)
    assert program_of(fused) is not None, "no program after a walk in which every step was fused"
    assert torch.equal(fused(x), first)
    torch.testing.assert_close(first, stock(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 7])
@pytest.mark.parametrize("channels_last", [False, True])
def test_chunks_give_what_the_whole_batch_gives(pair, batch, channels_last):
    _, fused = pair
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(batch, 3, 32, 32).contiguous(memory_format=layout)
    whole = fused.features(x)
    program = program_of(fused)
    program._chunk_images = 1
    program._chunk(len(program._leaves) - 2)
    chunked = fused.features(x)
    assert torch.equal(chunked, whole)
    assert chunked.stride() == whole.stride()


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.features[3].get_submodule("conv_pw").weight.mul_(2.0),
        lambda net: net.features[3].get_submodule("conv_pw").weight.data.mul_(2.0),
        lambda net: setattr(net.features[2].get_submodule("bn1"), "eps", 0.5),
        lambda net: net.features[1].get_submodule("bn2").running_var.add_(1.0),
    ],
    ids=["in place", "through data", "eps", "running variance"],
)
def test_a_change_is_noticed(pair, change):
    stock, fused = pair
    x = torch.randn(2, 3, 32, 32)
    for _ in range(3):
        before = fused.features(x)
    change(stock)
    change(fused)
    after = fused.features(x)
    assert not torch.allclose(before, after, rtol=1e-3)
    torch.testing.assert_close(after, stock.features(x), rtol=1e-4, atol=1e-5)


def test_training_and_gradients_leave_the_program(pair):
    stock, fused = (net.double() for net in pair)  # float32 loses its digits in norms over four values
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(3):
            fused(x)
    fused.train()
    stock.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        fused(x).sum().backward()
    assert fused.features.last_reason is None
    stock(x).sum().backward()
    for (name, a), b in zip(fused.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(fused.named_buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@torch.no_grad()
def test_a_hook_on_a_child_sees_the_whole_batch(pair):
    _, fused = pair
    x = torch.randn(5, 3, 32, 32)
    for _ in range(3):
        want = fused(x)
    seen = []
    fused.features[4].register_forward_hook(lambda module, args, out: seen.append(len(out)))
    assert torch.equal(fused(x), want)
    assert seen == [5]


@pytest.mark.parametrize(("name", "share"), [("densenet121", 0.5), ("squeezenet1_1", 0.7), ("mobilenet_v2", 0.7)])
@torch.no_grad()
def test_activations_alive_at_once(name, share):
    net = networks.create(name).eval().to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    stock = allocation(lambda: net(x)).peak
    lightops.swap_(net)
    net(x)
    assert allocation(lambda: net(x)).peak <= share * stock


@torch.no_grad()
def test_copies_start_without_a_program(pair):
    _, fused = pair
    x = torch.randn(1, 3, 32, 32)
    fused(x)
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert not twin.features._programs
        assert torch.equal(twin(x), fused(x))


@torch.no_grad()
def test_a_norm_without_running_statistics_sees_the_whole_batch():
    """Its numbers depend on the batch, so a chain with one is never run in chunks."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(12, track_running_stats=False)
    stock = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), norm, nn.Conv2d(12, 8, 1), nn.ReLU()).eval()
    fused = nn.Sequential(*copy.deepcopy(stock))
    lightops.swap_(fused)
    assert isinstance(fused, FusedSequential)
    x = torch.randn(8, 3, 32, 32)
    for _ in range(3):
        torch.testing.assert_close(fused(x), stock(x), rtol=1e-3, atol=1e-3)
    assert not fused._programs
