"""Children that somebody has changed after the swap, in evaluation and in training: what a block computes, refuses and
leaves alone is what its stock twin does. Paddings, strides and groups of every kind, vectors of the wrong size, biases
that come and go, old and new reparametrisations, other norms, hooks on any child.
"""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from .blocks import CASES, image, make
from .training.steps import Outcome, step

Edit = Callable[[nn.Module], None]


def _convs(block: nn.Module) -> list[nn.Conv2d]:
    return [m for m in block.modules() if isinstance(m, nn.Conv2d)]


def _norms(block: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def _all_convs(**attributes: object) -> Edit:
    return lambda block: [setattr(c, name, value) for c in _convs(block) for name, value in attributes.items()]


def _last_conv(**attributes: object) -> Edit:
    return lambda block: [setattr(c, name, value) for c in _convs(block)[-1:] for name, value in attributes.items()]


def _last_norm(**attributes: object) -> Edit:
    return lambda block: [setattr(n, name, value) for n in _norms(block)[-1:] for name, value in attributes.items()]


def _biases(block: nn.Module) -> None:
    for c in _convs(block):
        c.bias = nn.Parameter(_noise(c.out_channels))


def _padding_mode(mode: str) -> Edit:
    def edit(block: nn.Module) -> None:
        for c in _convs(block):
            if c.padding != (0, 0):
                c.padding_mode = mode

    return edit


def _padding_same(block: nn.Module) -> None:
    for c in _convs(block):
        if c.stride == (1, 1):
            c.padding = "same"


def _kernel(rows: int, columns: int) -> Edit:
    def edit(block: nn.Module) -> None:
        for c in _convs(block)[-1:]:
            c.weight = nn.Parameter(_noise(*c.weight.shape[:2], rows, columns))
            c.kernel_size = (rows, columns)

    return edit


def _every_weight(change: Callable[[Tensor], Tensor]) -> Edit:
    def edit(block: nn.Module) -> None:
        for c in _convs(block):
            c.weight = nn.Parameter(change(c.weight.detach()))

    return edit


def _reparametrised(apply: Callable[[nn.Module], object]) -> Edit:
    def edit(block: nn.Module) -> None:
        torch.manual_seed(0)
        for c in _convs(block):
            apply(c)

    return edit


class _Exp(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.exp()


def _parametrised_gamma(block: nn.Module) -> None:
    for n in _norms(block)[-1:]:
        parametrize.register_parametrization(n, "weight", _Exp())


class _Doubling(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _frozen(n: nn.BatchNorm2d) -> nn.Module:
    from torchvision.ops import FrozenBatchNorm2d  # blocks.py has made torchvision importable

    made = FrozenBatchNorm2d(n.num_features, n.eps).double()
    made.load_state_dict(n.state_dict())
    return made


def _other(kind: type | tuple[type, ...], make: Callable[[nn.Module], nn.Module]) -> Edit:
    def edit(block: nn.Module) -> None:
        for parent in list(block.modules()):
            for key, child in list(parent._modules.items()):
                if isinstance(child, kind):
                    parent._modules[key] = make(child).train(child.training)

    return edit


def _infinite_gamma(block: nn.Module) -> None:
    with torch.no_grad():
        for n in _norms(block)[-1:]:
            n.weight[0] = float("inf")


def _spoiled_statistics(block: nn.Module) -> None:
    for n in _norms(block)[-1:]:
        n.running_mean[0] = float("nan")
        n.running_var[1] = -1.0
        n.running_mean[2] = float("inf")
        n.running_var[3] = float("inf")


EDITS: dict[str, Edit] = {
    "biases": _biases,
    "no biases": _all_convs(bias=None),
    "running mean of another size": lambda b: _last_norm(running_mean=torch.zeros(3).double())(b),
    "running variance of another size": lambda b: _last_norm(running_var=torch.ones(3).double())(b),
    "gamma of another size": lambda b: _last_norm(weight=nn.Parameter(torch.ones(3).double()))(b),
    "beta of another size": lambda b: _last_norm(bias=nn.Parameter(torch.ones(3).double()))(b),
    "running mean missing": _last_norm(running_mean=None),
    "running variance missing": _last_norm(running_var=None),
    "gamma alone": _last_norm(bias=None),
    "beta alone": _last_norm(weight=None),
    "negative eps": _last_norm(eps=-1e-3),
    "momentum above one": _last_norm(momentum=1.7),
    "padding same": _padding_same,
    "padding valid": _all_convs(padding="valid"),
    "oblong padding": _all_convs(padding=(2, 1)),
    "reflect": _padding_mode("reflect"),
    "replicate": _padding_mode("replicate"),
    "circular": _padding_mode("circular"),
    "dilation": _all_convs(dilation=(2, 2)),
    "another stride": lambda b: [setattr(c, "stride", (2, 2)) for c in _convs(b)[:1]],
    "stride 0": _last_conv(stride=(0, 0)),
    "dilation 0": _last_conv(dilation=(0, 0)),
    "negative padding": _last_conv(padding=(-1, -1)),
    "groups 0": _last_conv(groups=0),
    "groups 2": _last_conv(groups=2),
    "even kernel": _kernel(2, 4),
    "kernel larger than the map": _kernel(33, 33),
    "transposed weights": _every_weight(lambda w: w.transpose(0, 1).contiguous().transpose(0, 1)),
    "expanded weights": _every_weight(lambda w: w[:, :, :1, :1].expand_as(w)),
    "sliced weights": _every_weight(lambda w: torch.cat([w, w], 1)[:, : w.shape[1]]),
    "old weight norm": _reparametrised(weight_norm),
    "old spectral norm": _reparametrised(spectral_norm),
    "spectral norm": _reparametrised(parametrizations.spectral_norm),
    "weight norm": _reparametrised(parametrizations.weight_norm),
    "pruning": _reparametrised(lambda c: prune.l1_unstructured(c, "weight", 0.5)),
    "parametrised gamma": _parametrised_gamma,
    "leaky": _other((nn.ReLU, nn.ReLU6, nn.Hardswish), lambda _: nn.LeakyReLU()),
    "group norm": _other(nn.BatchNorm2d, lambda n: nn.GroupNorm(1, n.num_features).double()),
    "frozen batch norm": _other(nn.BatchNorm2d, _frozen),
    "subclass of batch norm": lambda b: [setattr(n, "__class__", _Doubling) for n in _norms(b)],
    "float32 norms": lambda b: [n.float() for n in _norms(b)],
    "infinite gamma": _infinite_gamma,
    "spoiled statistics": _spoiled_statistics,
}
# The kernels' own words, where the geometry is legal and only this map does not fit.
OWN_WORDS = {
    "kernel larger than the map": ("Kernel size: (33 x 33)", "the kernel covers 33 rows but the padded input has "),
    "padding valid": ("must match the size of tensor", "residual"),
}
# With a scale of Inf every gradient is lost; which element is NaN and which Inf is nobody's.
FORWARD_ONLY = ("infinite gamma",)


def _run(module: nn.Module, x: Tensor) -> Outcome | Exception:
    try:
        if module.training:
            return step(module, x)
        with torch.no_grad():
            return Outcome(module(x), {}, copy.deepcopy(module.state_dict()))
    except Exception as error:
        return error


def _close(got: Tensor | None, want: Tensor | None, what: str, size: float = 1.0) -> None:
    assert (got is None) == (want is None), what
    if want is not None:
        torch.testing.assert_close(
            got, want, rtol=1e-8, atol=1e-9 * size, equal_nan=True, msg=lambda text: f"{what}: {text}"
        )


@pytest.mark.parametrize("used", [False, True], ids=["before the first call", "after a call"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", CASES)
def test_an_edited_block_is_stock(name: str, edit: str, training: bool, used: bool) -> None:
    stock, fused = (m.train(training) for m in make(name, torch.float64))
    x = image(name, torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if used:
            for m in (stock, fused):
                _run(m, x)
        with torch.no_grad():
            for m in (stock, fused):
                EDITS[edit](m)
        for _ in range(2):
            before = copy.deepcopy(fused.state_dict())
            want, got = _run(stock, x), _run(fused, x)
            if isinstance(want, Exception):
                assert type(got) is type(want), (want, got)
                theirs, ours = OWN_WORDS.get(edit, ("", ""))
                assert str(got) == str(want) or (theirs and theirs in str(want) and ours in str(got))
                for key, t in fused.state_dict().items():
                    assert torch.equal(t, before[key]), key
                stock.load_state_dict(before)
                continue
            assert not isinstance(got, Exception), got
            _close(got.output, want.output, "output")
            for key, t in want.state.items():
                _close(got.state[key], t, key)
            largest = max([1.0, *(g.abs().max().item() for g in want.grads.values() if g is not None)])
            for key, g in want.grads.items():
                if edit not in FORWARD_ONLY:
                    _close(got.grads[key], g, f"gradient {key}", largest)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", CASES)
def test_a_hook_on_any_child_is_called(name: str, training: bool) -> None:
    """Convolutions, norms, activations, pools and the containers between; put there when the block is at work."""
    stock, fused = (m.train(training) for m in make(name, torch.float64))
    x = image(name, torch.float64)
    paths = [path for path, m in stock.named_modules() if path]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            seen: list[str] = []
            handles = [
                m.get_submodule(path).register_forward_hook(
                    lambda _, __, y, seen=seen, path=path: (
                        seen.append(path) or (y * 1.5 if isinstance(y, Tensor) else y)
                    )
                )
                for m in (stock, fused)
            ]
            want, got = _run(stock, x), _run(fused, x)
            _close(got.output, want.output, path)
            assert len(seen) % 2 == 0
            assert len(seen) >= 2, f"the hook on {path} was not called"
            for handle in handles:
                handle.remove()
