"""A call of every differentiable training op with each combination that takes another path through it, for the tests of
autograd, schemas and fakes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightops.ops import training
from lightops.ops.training import Prologue

CHANNELS = 4


class Call(NamedTuple):
    """`run(x, *params)` is differentiable in each of `tensors`, the first of which is x `[N, C, H, W]`."""

    run: Callable[..., Tensor]
    tensors: list[Tensor]


class Draw:
    """Seeded tensors that require gradients."""

    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 0):
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        t = torch.randn(shape, dtype=torch.float64, generator=self.generator)
        return t.to(self.dtype).requires_grad_()

    def vector(self, n: int = CHANNELS) -> Tensor:
        """In the dtype of sums."""
        drawn = self(n).detach()
        return drawn.to(_sums(drawn)).requires_grad_()


def _sums(x: Tensor) -> torch.dtype:
    """The dtype of sums over x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _prologue(x: Tensor, gamma: Tensor | None, beta: Tensor | None, act: str, batch: bool) -> Prologue:
    if batch:
        mean, var = training.batch_stats(x)
    else:
        mean = torch.linspace(-0.5, 0.5, x.shape[1]).to(x.device, _sums(x))
        var = mean.square() + 0.5
    return Prologue(mean, var, gamma, beta, 1e-3, act, batch)


def _prologues(draw: Draw) -> dict[str, tuple[Callable[..., Prologue], list[Tensor]]]:
    """How the prologue is made of x and further tensors."""
    made = {}
    for act in ("none", "relu", "relu6", "hardswish", "silu"):
        made[f"batch {act}"] = (
            lambda x, g, b, act=act: _prologue(x, g, b, act, True),
            [draw.vector(), draw.vector()],
        )
    made["frozen relu"] = (lambda x, g, b: _prologue(x, g, b, "relu", False), [draw.vector(), draw.vector()])
    made["batch, no affine"] = (lambda x: _prologue(x, None, None, "relu", True), [])
    made["frozen, no affine"] = (lambda x: _prologue(x, None, None, "silu", False), [])
    made["batch, gamma alone"] = (lambda x, g: _prologue(x, g, None, "relu", True), [draw.vector()])
    made["relu alone"] = (lambda x: Prologue(act="relu"), [])
    made["nothing"] = (lambda x: Prologue(), [])
    return made


# name: (weight shape, bias, options)
_CONVS = {
    "1x1": ((6, CHANNELS, 1, 1), False, {}),
    "1x1 with bias": ((6, CHANNELS, 1, 1), True, {"stats": False}),
    "1x1 strided": ((5, CHANNELS, 1, 1), False, {"stride": (2, 2)}),
    "1x1 pooled": ((6, CHANNELS, 1, 1), True, {"pool": True}),
    "3x3": ((5, CHANNELS, 3, 3), True, {"padding": (1, 1)}),
    "oblong": ((5, CHANNELS, 3, 2), False, {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    "depthwise": ((CHANNELS, 1, 3, 3), False, {"padding": (1, 1), "groups": CHANNELS}),
    "depthwise strided": ((CHANNELS, 1, 5, 3), True, {"stride": (2, 2), "padding": (2, 1), "groups": CHANNELS}),
}  # fmt: skip


def calls(dtype: torch.dtype = torch.float64) -> dict[str, Callable[[], Call]]:
    """By name; `calls(dtype)[name]()` draws the tensors."""
    made: dict[str, Callable[[], Call]] = {}
    names = list(_prologues(Draw()))
    for name in names:
        made[f"bn_act, {name}"] = lambda name=name: _bn_act(Draw(dtype), name)
        made[f"bn_act_mean, {name}"] = lambda name=name: _with(Draw(dtype), name, training.bn_act_mean)
        made[f"bn_act_max_pool2d, {name}"] = lambda name=name: _with(
            Draw(dtype), name, lambda x, p: training.bn_act_max_pool2d(x, p, (3, 2), (2, 1), (1, 0), True)
        )
    for conv in _CONVS:
        for name in ("batch relu", "frozen relu", "nothing") if conv not in ("1x1", "depthwise") else names:
            made[f"bn_act_conv2d, {conv}, {name}"] = lambda conv=conv, name=name: _conv(Draw(dtype), conv, name)
    for act in ("none", "relu"):
        made[f"stem_train, {act}"] = lambda act=act: _stem(Draw(dtype), act)
    made["fire_train"] = lambda: _fire(Draw(dtype), biased=True)
    made["fire_train without bias"] = lambda: _fire(Draw(dtype), biased=False)
    for bottleneck in (0, 3):
        for kind in ("batch", "frozen", "dropout", "no affine"):
            made[f"dense_block_train, {bottleneck}, {kind}"] = lambda b=bottleneck, kind=kind: _dense(
                Draw(dtype), b, kind
            )
    return made


# Every bn_act of "nothing" is the identity, which nobody calls.
def _with(draw: Draw, name: str, op: Callable[[Tensor, Prologue], Tensor]) -> Call:
    x = draw(2, CHANNELS, 5, 6)
    make, params = _prologues(draw)[name]
    return Call(lambda x, *params: op(x, make(x, *params)), [x, *params])


def _bn_act(draw: Draw, name: str) -> Call:
    x, residual = draw(2, CHANNELS, 5, 6), draw(2, CHANNELS, 5, 6)
    make, params = _prologues(draw)[name]
    return Call(lambda x, r, *params: training.bn_act(x, make(x, *params), r), [x, residual, *params])


def _conv(draw: Draw, conv: str, name: str) -> Call:
    shape, biased, options = _CONVS[conv]
    x, weight = draw(2, CHANNELS, 5, 6), draw(*shape)
    bias = [draw(shape[0])] if biased else []
    make, params = _prologues(draw)[name]

    def run(x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        bias, params = rest[: int(biased)], rest[int(biased) :]
        return training.bn_act_conv2d(x, make(x, *params), weight, *bias, **options)[0]

    return Call(run, [x, weight, *bias, *params])


def _stem(draw: Draw, act: str) -> Call:
    geometry = ((2, 1), (1, 0), act, (3, 2), (2, 1), (1, 0), True)
    return Call(
        lambda x, w, b: training.stem_train(x, w, b, *geometry),
        [draw(2, CHANNELS, 9, 7), draw(5, CHANNELS, 3, 2), draw(5)],
    )


def _fire(draw: Draw, biased: bool) -> Call:
    tensors = [draw(2, CHANNELS, 5, 6), draw(3, CHANNELS, 1, 1), draw(2, 3, 1, 1), draw(3, 3, 3, 3)]
    if not biased:
        return Call(lambda x, ws, w1, w3: training.fire_train(x, ws, None, w1, None, w3, None), tensors)
    biases = [draw(n) for n in (3, 2, 3)]
    return Call(lambda x, ws, w1, w3, bs, b1, b3: training.fire_train(x, ws, bs, w1, b1, w3, b3), [*tensors, *biases])


def _dense(draw: Draw, bottleneck: int, kind: str) -> Call:
    growth, layers = 2, 3
    x, params, frozen = draw(2, CHANNELS, 5, 6), [], []
    for i in range(layers):
        channels = CHANNELS + i * growth
        stages = [(channels, (bottleneck, channels, 1, 1)), (bottleneck, (growth, bottleneck, 3, 3))]
        for c, shape in stages if bottleneck else [(channels, (growth, channels, 3, 3))]:
            params += [draw.vector(c), draw.vector(c), draw(*shape)]
            frozen += [draw.vector(c).detach(), draw.vector(c).detach().square() + 0.5]
    if kind == "frozen":
        frozen[:2] = [None, None]  # one of them is not
    masks = [(draw(2, growth, 5, 6).detach() > 0).to(x.dtype) * 2, None, None] if kind == "dropout" else []
    eps = [1e-3] * (len(params) // 3)
    kept = [i for i in range(len(params)) if kind != "no affine" or i % 3 == 2]

    def run(x: Tensor, *given: Tensor) -> Tensor:
        full: list[Tensor | None] = [None] * len(params)
        for i, p in zip(kept, given, strict=True):
            full[i] = p
        running, dropped = (
            [None if t is None else t.to(x.device, dtype) for t in given]
            for given, dtype in ((frozen if kind == "frozen" else [], _sums(x)), (masks, x.dtype))
        )
        return training.dense_block_train(x, full, eps, running, dropped, growth, bottleneck).buffer

    return Call(run, [x, *(params[i] for i in kept)])
