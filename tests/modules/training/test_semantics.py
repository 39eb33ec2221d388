"""Fused blocks in training are the stock blocks: every way that a batch norm can be set, every mix of gradients."""

import copy
import itertools
import warnings

import pytest
import torch
from torch import Tensor, nn

from lightops.modules import FallbackWarning

from ..blocks import CASES, image
from .steps import NORMED, assert_same, assert_steps_alike, both, norms, pair, step

SETTINGS = {
    "as it is": lambda n: None,
    "momentum None": lambda n: setattr(n, "momentum", None),
    "momentum 0": lambda n: setattr(n, "momentum", 0.0),
    "momentum 1": lambda n: setattr(n, "momentum", 1.0),
    "momentum 0.37": lambda n: setattr(n, "momentum", 0.37),
    "large eps": lambda n: setattr(n, "eps", 0.3),
    "evaluation": lambda n: n.eval(),
    "not tracking": lambda n: setattr(n, "track_running_stats", False),
    "without statistics": lambda n: _drop_statistics(n),
    "without statistics, in evaluation": lambda n: (_drop_statistics(n), n.eval()),
    "without a counter": lambda n: setattr(n, "num_batches_tracked", None),
    "without affine": lambda n: (setattr(n, "weight", None), setattr(n, "bias", None)),
    "frozen affine": lambda n: n.requires_grad_(False),
    "zero gamma": lambda n: n.weight.data.zero_(),
}


def _drop_statistics(norm: nn.BatchNorm2d) -> None:
    norm.running_mean = norm.running_var = norm.num_batches_tracked = None


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_stocks(name: str) -> None:
    assert_steps_alike(pair(name), name, steps=5)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NORMED)
def test_every_setting_of_the_norms(name: str, setting: str) -> None:
    modules = pair(name)
    both(modules, lambda m: [SETTINGS[setting](n) for n in norms(m)])
    assert_steps_alike(modules, name, steps=3)


@pytest.mark.parametrize("name", ["dense_block", "inverted_residual", "transition"])
def test_one_norm_in_evaluation(name: str) -> None:
    modules = pair(name)
    for number in range(len(norms(modules[0]))):
        both(modules, lambda m, number=number: (m.train(), norms(m)[number].eval()))
        assert_steps_alike(modules, name)


@pytest.mark.parametrize("name", NORMED)
def test_settings_are_read_at_every_call(name: str) -> None:
    modules = pair(name)
    for setting in ("as it is", "evaluation", "as it is", "momentum None", "not tracking"):
        both(modules, lambda m, setting=setting: (m.train(), [SETTINGS[setting](n) for n in norms(m)]))
        assert_steps_alike(modules, name, steps=2)
    both(modules, lambda m: m.eval())
    assert_steps_alike(modules, name)


@pytest.mark.parametrize("name", CASES)
def test_evaluation_between_steps(name: str) -> None:
    """Packed weights of an evaluation before the step must not survive it."""
    stock, fused = pair(name)
    for i in range(3):
        x = image(name, torch.float64, seed=i)
        assert_same(step(fused, x), step(stock, x))
        with torch.no_grad():
            for module in (stock, fused):
                for p in module.parameters():
                    p -= 0.01 * p.grad
                module.eval()
            torch.testing.assert_close(fused(x), stock(x), rtol=1e-9, atol=1e-9)
            both((stock, fused), lambda m: m.train())


@pytest.mark.parametrize("shape", [(1, 12, 16), (3, 5, 7), (5, 4, 4), (2, 16, 12)])
@pytest.mark.parametrize("name", CASES)
def test_sizes_change_between_calls(name: str, shape: tuple[int, int, int]) -> None:
    stock, fused = pair(name)
    n, h, w = shape
    for size in ((2, 12, 16), (n, h, w)):
        x = image(name, torch.float64, *size)
        assert_same(step(fused, x), step(stock, x))


@pytest.mark.parametrize("mix", itertools.product((True, False), repeat=3), ids=str)
@pytest.mark.parametrize("name", CASES)
def test_gradients_where_wanted_and_nowhere_else(name: str, mix: tuple[bool, bool, bool]) -> None:
    modules = pair(name)

    def freeze(module: nn.Module) -> None:
        for m in module.modules():
            wanted = mix[1] if isinstance(m, nn.BatchNorm2d) else mix[2]
            for p in m._parameters.values():
                if p is not None:
                    p.requires_grad_(wanted)

    both(modules, freeze)
    for module in modules:
        module.zero_grad(set_to_none=True)
    x = image(name, torch.float64)
    assert_same(step(modules[1], x, x_grad=mix[0]), step(modules[0], x, x_grad=mix[0]))


@pytest.mark.parametrize("name", CASES)
def test_without_gradients_the_statistics_still_move(name: str) -> None:
    stock, fused = pair(name)
    for context in (torch.no_grad, torch.inference_mode):
        x = image(name, torch.float64)
        with context():
            got, want = fused(x), stock(x)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
        assert fused.last_reason is None
        for (key, a), b in zip(fused.state_dict().items(), stock.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", CASES)
def test_two_forwards_before_a_backward(name: str) -> None:
    stock, fused = pair(name)
    inputs = [image(name, torch.float64, seed=i) for i in range(2)]
    outcomes = []
    for module in (stock, fused):
        leaves = [x.clone().requires_grad_() for x in inputs]
        first, second = (module(x) for x in leaves)
        kept = first.detach().clone()
        (2 * second.square().sum() + first.sin().sum()).backward()
        assert torch.equal(first, kept), "a later forward wrote into an earlier result"
        grads = {f"x{i}": x.grad for i, x in enumerate(leaves)} | {k: p.grad for k, p in module.named_parameters()}
        outcomes.append((kept, grads, copy.deepcopy(module.state_dict())))
    assert_same(*(type(step(stock, inputs[0]))(*outcome) for outcome in reversed(outcomes)))


@pytest.mark.parametrize("name", ["dense_block", "inverted_residual", "fire_bypass", "conv1x1_bn_act"])
def test_a_block_used_twice_in_a_row(name: str) -> None:
    class Twice(nn.Module):
        def __init__(self, block: nn.Module):
            super().__init__()
            self.block = block

        def forward(self, x: Tensor) -> Tensor:
            y = self.block(x)
            return self.block(y[:, : x.shape[1]].sin())

    stock, fused = (Twice(m) for m in pair(name))
    for i in range(2):
        x = image(name, torch.float64, seed=i)
        assert_same(step(fused, x), step(stock, x), rtol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_retained_graphs_and_second_backwards(name: str) -> None:
    stock, fused = pair(name)
    grads = []
    for module in (stock, fused):
        x = image(name, torch.float64).requires_grad_()
        y = module(x).square().sum()
        y.backward(retain_graph=True)
        y.backward()
        grads.append([x.grad, *(p.grad for p in module.parameters())])
        with pytest.raises(RuntimeError, match=r"second time|already been freed"):
            y.backward()
    largest = max(g.abs().max().item() for g in grads[0])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11 * largest)


@pytest.mark.parametrize("name", CASES)
def test_a_written_result_is_an_error_or_right(name: str) -> None:
    """The result of a dense block is the buffer that its backward reads."""
    stock, fused = pair(name)
    x = image(name, torch.float64).requires_grad_()
    want = image(name, torch.float64).requires_grad_()
    y = fused(x)
    try:
        y.mul_(2).sum().backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error) or "leaf" in str(error)  # noqa: PT017
        return
    stock(want).mul(2).sum().backward()
    torch.testing.assert_close(x.grad, want.grad, rtol=1e-9, atol=1e-9)


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "slice": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_layouts(name: str, layout: str) -> None:
    """Result and numbers; a step is as stock's whatever the layout of x and of the weights."""
    stock, fused = pair(name)
    x = LAYOUTS[layout](image(name, torch.float64))
    outcomes = []
    for module in (fused, stock):
        leaf = x.detach().requires_grad_()
        module.zero_grad()
        y = module(leaf)
        y.backward(torch.ones_like(y))
        outcomes.append((y.detach(), leaf.grad, [p.grad for p in module.parameters()]))
    (y, dx, grads), (want, want_dx, want_grads) = outcomes
    if layout != "transposed":  # a residual gives stock's sum the strides of x, whatever these are
        assert y.stride() == want.stride()
    torch.testing.assert_close(y, want, rtol=1e-9, atol=1e-11)
    for a, b in zip((dx, *grads), (want_dx, *want_grads), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_channels_last_weights(name: str) -> None:
    stock, fused = (m.to(memory_format=torch.channels_last) for m in pair(name))
    x = image(name, torch.float64).contiguous(memory_format=torch.channels_last)
    assert_same(step(fused, x), step(stock, x))
    for p in fused.parameters():
        assert p.grad.stride() == p.stride()


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch(name: str) -> None:
    stock, fused = pair(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        outcomes = []
        for module in (stock, fused):
            try:
                outcomes.append(step(module, image(name, torch.float64)[:0]))
            except (RuntimeError, ValueError) as error:
                outcomes.append(str(error))
    if isinstance(outcomes[0], str):
        assert outcomes[0] == outcomes[1]
    else:
        assert_same(outcomes[1], outcomes[0])


@pytest.mark.parametrize("name", NORMED)
def test_constant_channels_and_huge_means(name: str) -> None:
    """Statistics by two passes: a variance of zero and a mean of 1e4 are finite and right."""
    stock, fused = pair(name)
    x = image(name, torch.float64)
    x[:, 0] = 3
    x[:, 1] = 1e4 + 1e-3 * x[:, 1]
    # A weight's gradient over the channel of mean 1e4 cancels to 1e-5 of its terms.
    assert_same(step(fused, x), step(stock, x), rtol=1e-6, atol=1e-6)
