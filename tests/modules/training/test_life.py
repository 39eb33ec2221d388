"""What is done to modules that train: checkpointing, copies, functional calls, compilation, hooks, DDP."""

import copy
import io
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import lightops
from tests.swap.nets import FAMILIES, small

from ..blocks import CASES, image
from .steps import NORMED, assert_same, assert_steps_alike, both, norms, pair, step

ROOT = Path(__file__).resolve().parents[3]


class _Checkpointed(nn.Module):
    def __init__(self, block: nn.Module, reentrant: bool):
        super().__init__()
        self.block = block
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_checkpoint(name: str, reentrant: bool) -> None:
    """torch's checkpoint runs the forward twice, and the statistics move twice: as they do around a stock block."""
    stock, fused = (_Checkpointed(m, reentrant) for m in pair(name))
    for i in range(2):
        x = image(name, torch.float64, seed=i)
        assert_same(step(fused, x), step(stock, x))
    assert fused.block.last_reason is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_around_an_in_place_operation(reentrant: bool) -> None:
    """torchvision's DenseNet writes its ReLU over what the fused features return."""
    import torchvision.models

    torch.manual_seed(0)
    stock = torchvision.models.DenseNet(8, (2, 2), 8, num_classes=5).double().train()
    fused = copy.deepcopy(stock)
    lightops.swap_(fused)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, 3, 64, 64, dtype=torch.float64).to(memory_format=layout)
        assert_same(step(_Checkpointed(fused, reentrant), x), step(_Checkpointed(stock, reentrant), x))


def test_stocks_own_checkpointing_moves_statistics_once() -> None:
    """`memory_efficient=True` of torchvision's DenseNet normalises again in backward, counting every batch twice; the
    swapped one saves more memory without that, and its statistics are those of the plain model.
    """
    import torchvision.models

    torch.manual_seed(0)
    plain = torchvision.models.DenseNet(8, (2, 2), 8, num_classes=5).double().train()
    saving = torchvision.models.DenseNet(8, (2, 2), 8, num_classes=5, memory_efficient=True).double().train()
    saving.load_state_dict(plain.state_dict())
    lightops.swap_(saving)
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    assert_same(step(saving, x), step(plain, x))


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: _saved(m)],
    ids=["deepcopy", "pickle", "save"],
)
@pytest.mark.parametrize("name", CASES)
def test_copies_train_on_their_own(name: str, copied) -> None:
    stock, fused = pair(name)
    step(fused, image(name, torch.float64))  # and carry nothing of a step that was
    step(stock, image(name, torch.float64))
    twin, stock_twin = copied(fused), copy.deepcopy(stock)
    before = copy.deepcopy(fused.state_dict())
    assert_steps_alike((stock_twin, twin), name)
    for key, t in fused.state_dict().items():
        assert torch.equal(t, before[key]), key


def _saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("name", CASES)
def test_functional_call(name: str) -> None:
    stock, fused = pair(name)
    x = image(name, torch.float64)
    outcomes = []
    for module in (fused, stock):
        given = {k: (p * 1.5).detach().requires_grad_() for k, p in module.named_parameters()}
        buffers = {k: b.clone() for k, b in module.named_buffers()}
        kept = copy.deepcopy(module.state_dict())
        y = functional_call(module, {**given, **buffers}, (x,))
        grads = torch.autograd.grad(y.square().sum(), list(given.values())) if given else ()
        outcomes.append((y, *grads, *(b for b in buffers.values())))
        for key, t in module.state_dict().items():
            assert torch.equal(t, kept[key]), f"{key} of the module itself was changed"
    for got, want in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-8)
    assert fused.last_reason is None


@pytest.mark.parametrize("kind", ["forward", "pre", "backward"])
@pytest.mark.parametrize("name", NORMED)
def test_hooks_on_a_norm_fire(name: str, kind: str) -> None:
    stock, fused = pair(name)
    step(fused, image(name, torch.float64))
    step(stock, image(name, torch.float64))
    seen: list[str] = []
    for module in (stock, fused):
        norm = norms(module)[name == "residual_preact_shortcut"]  # whose first norm is called as it is
        if kind == "forward":
            norm.register_forward_hook(lambda m, a, y: seen.append("f") or y * 1.5)
        elif kind == "pre":
            norm.register_forward_pre_hook(lambda m, a: seen.append("p") or (a[0] * 1.5,))
        else:
            for m in module.modules():  # stock cannot be written in place under such a hook
                if hasattr(m, "inplace"):
                    m.inplace = False
            norm.register_full_backward_hook(lambda m, gi, go: seen.append("b"))
    assert_steps_alike((stock, fused), name, fused=False, steps=1)
    assert len(seen) == 2
    assert "hook" in fused.last_reason


def test_hooks_on_the_block_fire_and_keep_it_fused() -> None:
    stock, fused = pair("dense_block")
    seen: list[int] = []
    for module in (stock, fused):
        module.register_full_backward_hook(lambda m, gi, go: seen.append(len(go)))
        module.register_forward_hook(lambda m, a, y: y * 2)
    assert_steps_alike((stock, fused), "dense_block", steps=1)
    assert seen == [1, 1]


@pytest.mark.parametrize("name", CASES)
def test_compile_without_a_break(name: str) -> None:
    stock, fused = pair(name)
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(fused, backend=backend, fullgraph=True)
    for i in range(3):
        x = image(name, torch.float64, seed=i)
        got, want = step(compiled, x), step(stock, x)
        assert_same(got._replace(grads=_plain(got.grads), state=_plain(got.state)), want)
    assert backend.frame_count == 1
    ops = {str(node.target) for graph in backend.graphs for node in graph.graph.nodes}
    assert any("lightops_training" in op for op in ops)


def _plain(named: dict) -> dict:
    return {name.removeprefix("_orig_mod."): t for name, t in named.items()}


@pytest.mark.parametrize("name", ["dense_block", "inverted_residual", "transition", "fire"])
def test_compile_over_batch_sizes(name: str) -> None:
    stock, fused = pair(name)
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(fused, backend=backend, dynamic=None)
    for n in (2, 3, 5, 7, 4):
        x = image(name, torch.float64, n=n)
        got, want = step(compiled, x), step(stock, x)
        assert_same(got._replace(grads=_plain(got.grads), state=_plain(got.state)), want)
    assert backend.frame_count <= 2, "one recompilation, to a symbolic batch"


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_compile_of_a_whole_step(family: str) -> None:
    stock = small(family).train().double()
    for m in stock.modules():
        if isinstance(m, nn.Dropout):  # the compiler draws numbers of its own
            m.p = 0.0
    fused = copy.deepcopy(stock)
    lightops.swap_(fused)
    torch._dynamo.reset()
    compiled = torch.compile(fused)
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    got, want = step(compiled, x), step(stock, x)
    assert_same(got._replace(grads=_plain(got.grads), state=_plain(got.state)), want, rtol=1e-7)


def test_compile_with_momentum_none_is_stock() -> None:
    stock, fused = pair("inverted_residual")
    both((stock, fused), lambda m: [setattr(n, "momentum", None) for n in norms(m)])
    torch._dynamo.reset()
    compiled = torch.compile(fused, backend="aot_eager")
    for i in range(2):
        x = image("inverted_residual", torch.float64, seed=i)
        got, want = step(compiled, x), step(stock, x)
        assert_same(got._replace(grads=_plain(got.grads), state=_plain(got.state)), want)


@pytest.fixture(scope="module")
def ranks() -> dict[str, float]:
    """What two processes found: the worst relative difference by family and number of forwards."""
    port = _free_port()
    command = [sys.executable, "-m", "tests.modules.training.ddp_rank", port]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        for rank in range(2)
    ]
    found: dict[str, float] = {}
    for process in processes:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        for name, worst in json.loads(out.splitlines()[-1]).items():
            found[name] = max(worst, found.get(name, 0.0))
    return found


@pytest.mark.parametrize("forwards", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_ddp(family: str, forwards: int, ranks: dict[str, float]) -> None:
    """Two processes on gloo: gradients and buffers of the swapped model are those of the stock model under DDP."""
    assert ranks[f"{family} {forwards}"] < 1e-8


def _free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])
