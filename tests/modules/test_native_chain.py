"""Steps of a program as one native call: the same results, every operator visible to who asks, nothing left behind."""

import gc

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lightops
from lightops import networks
from lightops.modules import _native_chain
from lightops.modules._native_chain import NativeChain, Recorded, record
from lightops.ops.conv1x1_bn_act import pack_conv1x1_bn_act, run_conv1x1_bn_act

pytestmark = pytest.mark.skipif(bool(lightops._ext.cpu_reason()), reason="no CPU kernels")


def image(*shape: int) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


def pointwise(channels: int = 8, residual: Tensor | None = None, adds_input: bool = False):
    packed = pack_conv1x1_bn_act(torch.randn(channels, channels, 1, 1), None, None, "relu", torch.float32)
    return lambda x: run_conv1x1_bn_act(x, packed, x if adds_input else residual)


def chain_of(steps: list, x: Tensor) -> tuple[list, list[int]]:
    numbers, strides = [], []
    for step in steps:
        strides.append(x.stride())
        x, number = record(step, x)
        numbers.append(number)
    return Recorded(steps, numbers, strides).joined(0, len(steps)), numbers


@torch.inference_mode()
def test_one_call_gives_what_the_steps_give() -> None:
    steps = [pointwise(), pointwise(adds_input=True), pointwise()]
    joined, numbers = chain_of(steps, image(1, 8, 5, 7))
    assert all(numbers)
    (chain,) = joined
    assert isinstance(chain, NativeChain)
    for x in (image(1, 8, 5, 7), image(3, 8, 5, 7), torch.randn(2, 8, 5, 7)):  # the last has other strides
        want = x
        for step in steps:
            want = step(want)
        got = chain(x)
        assert torch.equal(got, want)
        assert got.stride() == want.stride()


@torch.inference_mode()
def test_what_is_not_one_operator_on_x_is_not_recorded() -> None:
    x = image(1, 8, 5, 7)
    twice = pointwise()
    for step in (
        lambda x: twice(twice(x)),
        lambda x: twice(x) + 1,
        lambda x: twice(x)[:, :4],
        lambda x: twice(x + 1),
        pointwise(residual=image(1, 8, 5, 7)),
        torch.relu,
    ):
        y, number = record(step, x)
        assert number == 0
        assert torch.equal(y, step(x))


@torch.inference_mode()
def test_a_recording_ends_with_an_error() -> None:
    def fails(x: Tensor) -> Tensor:
        raise KeyError("step")

    x = image(1, 8, 5, 7)
    with pytest.raises(KeyError):
        record(fails, x)
    with pytest.raises(RuntimeError, match="conv1x1_bn_act"):
        record(pointwise(9), x)
    assert record(pointwise(), x)[1]


@torch.no_grad()
def test_a_dispatch_mode_sees_every_operator() -> None:
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    model, x = networks.mobilenet_v2(num_classes=10).eval(), image(1, 3, 64, 64)
    lightops.swap_(model)
    for _ in range(3):
        want = model(x)
    seen: list[str] = []
    with Names():
        assert torch.equal(model(x), want)
    assert seen.count("lightops::inverted_residual") == 16
    assert not any("chain" in name for name in seen)


@torch.inference_mode()
def test_a_chain_goes_with_its_owner() -> None:
    joined, _ = chain_of([pointwise(), pointwise()], image(1, 8, 5, 7))
    number = joined[0]._number
    assert _native_chain._run(image(1, 8, 5, 7), number).shape == (1, 8, 5, 7)
    del joined
    gc.collect()
    with pytest.raises(RuntimeError, match="there is no chain"):
        _native_chain._run(image(1, 8, 5, 7), number)
