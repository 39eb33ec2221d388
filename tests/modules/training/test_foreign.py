"""What training meets beyond its own code: values that are not finite, tensors from inference mode, a loss scaler,
torch's transforms, other threads, workers of a DataLoader, tensors that somebody else writes.
"""

import copy
import threading
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import lightops
from lightops.modules import FallbackWarning, FusedModule
from tests.swap.nets import FAMILIES, small

from ..blocks import CASES, image
from .steps import Outcome, pair, step

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("frozen", [False, True], ids=["batch statistics", "frozen"])
@pytest.mark.parametrize("name", CASES)
def test_a_pixel_that_is_not_finite(name: str, frozen: bool, dtype: torch.dtype, value: float) -> None:
    """It reaches the results and statistics that it reaches in stock, and no gradient that is lost in stock looks
    healthy: a loss scaler has to see it.
    """
    stock, fused = pair(name, dtype)
    for m in (stock, fused):
        m.train(not frozen)
    x = image(name, dtype)
    x[0, 1, 3, 4] = value
    want, got = step(stock, x), step(fused, x)
    assert fused.last_reason is None
    if (not frozen and name != "max_pool2d") or value != value:  # an activation or maximum may swallow an Inf
        assert not want.output.isfinite().all()
    assert torch.equal(got.output.isnan(), want.output.isnan())
    assert torch.equal(got.output.isinf(), want.output.isinf())
    for key, t in want.state.items():
        assert torch.equal(got.state[key].isnan(), t.isnan()), key
    for key, g in want.grads.items():
        if g is not None and not g.isfinite().all():
            assert not got.grads[key].isfinite().all(), key


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", CASES)
def test_tensors_from_inference_mode(name: str, training: bool) -> None:
    """They count no versions, so autograd may not keep them: stock's error."""
    with torch.inference_mode():
        x = image(name, torch.float64)
    errors = []
    for module in pair(name):
        module.train(training)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FallbackWarning)
                module(x)
            errors.append(None)
        except RuntimeError as error:
            errors.append(str(error))
    assert errors[0] == errors[1]
    if any(True for _ in pair(name)[0].parameters()):
        assert "Inference tensors cannot be saved for backward" in errors[0]


@pytest.mark.parametrize("name", [name for name in CASES if name != "max_pool2d"])
def test_the_loss_scaler_skips_a_step_of_infinite_gradients(name: str) -> None:
    for module in pair(name, torch.float32):
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        before = copy.deepcopy(dict(module.named_parameters()))
        for factor, scale in ((INF, 2.0), (1.0, 4.0)):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                y = module(image(name).bfloat16())
            scaler.scale(y.float().square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == scale
            moved = any(not torch.equal(p, before[key]) for key, p in module.named_parameters())
            assert moved == (factor == 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", CASES)
def test_autocast_gives_stocks_dtype(name: str, training: bool, dtype: torch.dtype) -> None:
    """Of a float32 input too, which some blocks add to a sum of 16 bits; stock chooses which dtype comes out."""
    stock, fused = (m.train(training) for m in pair(name, torch.float32))
    for x in (image(name), image(name).to(dtype)):
        with warnings.catch_warnings(), torch.autocast("cpu", dtype), torch.set_grad_enabled(training):
            warnings.simplefilter("ignore", FallbackWarning)
            want, got = stock(x), fused(x)
        assert got.dtype is want.dtype
        size = want.abs().max().item()
        torch.testing.assert_close(got, want, rtol=0, atol=16 * torch.finfo(dtype).eps * size)


TRANSFORMS = {
    "grad": lambda m, x: torch.func.grad(lambda x: m(x).sin().sum())(x),
    "vjp": lambda m, x: torch.func.vjp(m, x)[1](torch.ones_like(m(x)))[0],
    "jvp": lambda m, x: torch.func.jvp(m, (x,), (x.cos(),))[1],
    "vmap": lambda m, x: torch.func.vmap(m, randomness="same")(torch.stack((x, 2 * x))),
    "second derivative": lambda m, x: torch.func.grad(
        lambda x: torch.func.grad(lambda x: m(x).sin().sum())(x).square().sum()
    )(x),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", CASES)
def test_transforms_are_stocks(name: str, transform: str, training: bool) -> None:
    """torch.func sees through the stock modules: the same derivatives, or the same refusal (vmap over statistics)."""
    x, answers = image(name, torch.float64), []
    for module in pair(name):
        module.train(training)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                answers.append(TRANSFORMS[transform](module, x))
            except (RuntimeError, ValueError) as error:
                answers.append(str(error))
    if isinstance(answers[0], str):
        assert answers[0] == answers[1]
    else:
        torch.testing.assert_close(answers[1], answers[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_four_threads_train_four_modules(name: str) -> None:
    """Nothing is shared between them: each does what it does alone, bit for bit."""

    def steps(module: nn.Module, x: Tensor) -> Outcome:
        return [step(module, x) for _ in range(10)][-1]

    inputs = [image(name, torch.float64, seed=i) for i in range(4)]
    want = [steps(pair(name)[1], x) for x in inputs]
    modules, got = [pair(name)[1] for _ in inputs], {}
    threads = [
        threading.Thread(target=lambda i=i: got.update({i: steps(modules[i], inputs[i])})) for i in range(len(inputs))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, outcome in enumerate(want):
        assert torch.equal(got[i].output, outcome.output)
        for key, g in outcome.grads.items():
            assert g is None or torch.equal(got[i].grads[key], g), key
        for key, t in outcome.state.items():
            assert torch.equal(got[i].state[key], t), key


class _Features(Dataset):
    """Samples that a swapped network has looked at, in the worker process."""

    def __init__(self, model: nn.Module, images: Tensor):
        self.model = model
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        with torch.no_grad():
            return self.model(self.images[i : i + 1])[0]


def test_workers_of_a_data_loader() -> None:
    """Forked after the kernels have run here on two threads (a worker itself has one)."""
    model, images = small("densenet"), torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    lightops.swap_(model)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.no_grad():
            want = model(images)
    finally:
        torch.set_num_threads(threads)
    loader = DataLoader(_Features(model, images), 2, num_workers=2, multiprocessing_context="fork", timeout=60)
    torch.testing.assert_close(torch.cat(list(loader)), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_an_input_written_before_backward(name: str, layout: torch.memory_format) -> None:
    """Autograd's error, or the gradients of what was there (where the block kept a copy)."""
    _, fused = pair(name)
    gradients = []
    for written in (False, True):
        leaf = image(name, torch.float64).contiguous(memory_format=layout).requires_grad_()
        fused.zero_grad()
        x = leaf * 1
        y = fused(x)
        if written:
            with torch.no_grad():
                x.mul_(1.5)
        try:
            y.sin().sum().backward()
        except RuntimeError as error:
            assert written
            assert "modified by an inplace operation" in str(error)  # noqa: PT017
            return
        gradients.append([leaf.grad, *(p.grad for p in fused.parameters())])
    for got, want in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_features_written_before_backward(family: str, layout: torch.memory_format) -> None:
    """A hook keeps what a block returned, which may be part of a buffer that backward reads, and edits it: autograd's
    error, or right gradients; never wrong ones.
    """
    model = small(family).double().train().to(memory_format=layout)
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    lightops.swap_(model)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64).contiguous(memory_format=layout)
    state = copy.deepcopy(model.state_dict())
    y = model(x)
    grad = torch.randn_like(y)
    y.backward(grad)
    want = {key: p.grad for key, p in model.named_parameters()}
    largest = max(g.abs().max().item() for g in want.values())
    # What is last returns the network's own result.
    names = [n for n, m in model.named_modules() if isinstance(m, FusedModule) and n.startswith("features")]
    assert len(names) > 1
    for name in names:
        model.load_state_dict(state)
        model.zero_grad()
        kept: list[Tensor] = []
        handle = model.get_submodule(name).register_forward_hook(lambda _, __, y, kept=kept: kept.append(y))
        y = model(x)
        handle.remove()
        with torch.no_grad():
            kept[0].mul_(1.5)
        try:
            y.backward(grad)
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)  # noqa: PT017
            continue
        for key, p in model.named_parameters():
            torch.testing.assert_close(p.grad, want[key], rtol=1e-9, atol=1e-11 * largest, msg=f"{name}: {key}")


@pytest.mark.parametrize("name", ["bn_relu_conv2d", "dense_block", "head", "transition"])
def test_float16_near_its_largest_value(name: str) -> None:
    """Statistics are summed in float32: the variance is 4,000 times what float16 holds."""
    stock, fused = pair(name, torch.float16)
    for module in (stock, fused):
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.float()
    exact = copy.deepcopy(stock).double()
    x = image(name, torch.float64)
    x = (x * (6.2e4 / x.abs().max())).half()
    with torch.no_grad():
        want, got = exact(x.double()), fused(x)
    assert fused.last_reason is None
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-2 * want.abs().max().item())
    for key, t in exact.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[key].double(), t.double(), rtol=1e-2, atol=1e-2, msg=key)


def test_float16_sums_beyond_its_largest_value() -> None:
    """Six times 60,000 and back again is zero; twice 60,000 is Inf."""
    x = torch.full((2, 12, 4, 4), 6e4, dtype=torch.float16)
    weight = torch.tensor([[1.0] * 6 + [-1.0] * 6, [1.0, 1.0] + [0.0] * 10]).half()[..., None, None]
    y = lightops.ops.conv1x1_bn_act(x, weight, act="none", backend="cpu")
    assert (y[:, 0] == 0).all()
    assert y[:, 1].isposinf().all()
