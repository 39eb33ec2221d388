"""What consecutive pieces hand to each other in training: a raw tensor, with the norm and activation still to come.

A convolution's batch norm needs the statistics of the whole batch before it can be applied, so a chain is cut at raw
convolution outputs. The next piece applies the pending norm and activation while it reads; only where a chain ends are
they written out. Running statistics wait until the whole forward has succeeded (`Pass`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from lightops.modules._guard import GLOBAL_HOOKS, is_plain
from lightops.modules._reader import ConvParams
from lightops.ops import training
from lightops.ops.training import Prologue
from lightops.reference import activation

Pair = tuple[int, int]

# Channels and pixels from which on, and up to which, stock's convolution may train faster than ours.
_WIDE, _SMALL_MAP = 64, 49


class TrainNorm(NamedTuple):
    """A batch norm as one forward uses it. `batch`: normalises by the batch's own statistics, and updates the running
    ones of `module` if `tracks`.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    eps: float
    module: nn.Module
    batch: bool
    tracks: bool


class _Group(NamedTuple):
    """Norms that are updated alike: running means and variances, and the batch's."""

    factor: float
    count: int
    running_mean: list[Tensor]
    running_var: list[Tensor]
    mean: list[Tensor]
    var: list[Tensor]


class Pass:
    """One training forward: the updates of running statistics in order, kept until it has succeeded; and whether stock
    tensors would be NCHW at this point of it. Buffers of stock modules on the way are put back when it fails.
    """

    def __init__(self, nchw: bool = False) -> None:
        self.nchw = nchw
        self._entries: list[tuple[nn.Module, Tensor, Tensor, int]] = []
        self._kept: list[tuple[Tensor, Tensor]] = []

    def keep(self, module: nn.Module) -> None:
        """Before a stock module runs as part of the forward: its buffers, for `restore`."""
        if module.training and not torch.compiler.is_compiling() and not under_transform():
            self._kept += [(buffer, buffer.detach().clone()) for buffer in module.buffers()]

    def restore(self) -> None:
        """After the forward has failed: what stock norms had counted by then is taken back."""
        with torch.no_grad():
            for buffer, value in self._kept:
                buffer.copy_(value)

    def note(self, norm: TrainNorm, mean: Tensor, var: Tensor, count: int) -> None:
        """`norm` has normalised `count` values a channel of this mean and biased variance."""
        if norm.tracks:
            self._entries.append((norm.module, mean, var, count))

    def commit(self, y: Tensor) -> Tensor:
        """`running = (1 - momentum) * running + momentum * batch` with the unbiased variance, once for every norm and
        use, as `nn.BatchNorm2d` does it. Returns the forward's result y.
        """
        groups: dict[Any, _Group] = {}
        seen: set[nn.Module] = set()
        counters: list[Tensor] = []
        with torch.no_grad():
            for module, mean, var, count in self._entries:
                if module in seen:
                    _update(groups)
                    groups, seen = {}, set()
                seen.add(module)
                factor = _factor(module, counters)
                if module.running_mean is not None:
                    # A traced count may be symbolic, which is no key.
                    key = len(groups) if torch.compiler.is_compiling() else (factor, count, module.running_mean.dtype)
                    lists = groups.setdefault(key, _Group(factor, count, [], [], [], []))[2:]
                    for values, value in zip(lists, (module.running_mean, module.running_var, mean, var), strict=True):
                        values.append(value)
            _update(groups)
            if counters:
                torch._foreach_add_(counters, 1)
        self._entries.clear()
        return _mark_end(y)


def _mark_end(y: Tensor) -> Tensor:
    """Under saved-tensor hooks, y with one more tensor saved for it. torch's checkpoint runs a forward again and leaves
    it at the last tensor that it needs; stock norms are updated by then, and so are ours.
    """
    if torch.compiler.is_compiling() or torch._C._autograd._top_saved_tensors_default_hooks(True) is None:
        return y
    return _End.apply(y) if isinstance(y, Tensor) and y.requires_grad else y


class _End(torch.autograd.Function):
    """The identity, which saves an empty tensor.

    Marked as in place: a view made here could not be written by an in-place operation behind it (DenseNet's last ReLU).
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y.new_empty(0))
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


def _factor(module: nn.Module, counters: list[Tensor]) -> float:
    """The weight of this batch. The counter is moved on by one, or put on the list of those that shall be."""
    counter, momentum = module.num_batches_tracked, module.momentum
    if momentum is not None:
        if counter is not None:
            counters.append(counter)
        return momentum
    return 0.0 if counter is None else 1.0 / float(counter.add_(1))


def _update(groups: dict[Any, _Group]) -> None:
    for factor, count, means, variances, mean, var in groups.values():
        for running, new, weight in ((means, mean, factor), (variances, var, factor * count / (count - 1))):
            if running[0].dtype is new[0].dtype:
                torch._foreach_mul_(running, 1 - factor)
                torch._foreach_add_(running, new, alpha=weight)
            else:  # 16-bit statistics are rounded once
                for old, latest in zip(running, new, strict=True):
                    old.copy_((1 - factor) * old.to(latest.dtype) + weight * latest)


def under_transform() -> bool:
    """Tracing, torch.func transforms and forward-mode differentiation see through stock modules, not through a
    kernel.
    """
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


class Flow:
    """`act(norm(raw))`, not computed yet: norm None is the identity. `mean` and `var` are raw's batch statistics where
    they are known.
    """

    __slots__ = ("act", "forward", "mean", "norm", "raw", "var")

    def __init__(
        self,
        raw: Tensor,
        forward: Pass,
        mean: Tensor | None = None,
        var: Tensor | None = None,
        norm: TrainNorm | None = None,
        act: str = "none",
    ):
        self.raw = raw
        self.forward = forward
        self.mean = mean
        self.var = var
        self.norm = norm
        self.act = act

    def to(self, dtype: torch.dtype) -> Self:
        """As autocast casts the input of a convolution; statistics are those of what was cast."""
        return self if self.raw.dtype is dtype else Flow(self.materialise().to(dtype), self.forward)

    def then(self, norm: TrainNorm | None, act: str) -> Self:
        """With `norm` and `act` pending, behind whatever is."""
        if self.norm is not None or self.act != "none":
            if norm is None and act == "none":
                return self
            return Flow(self.materialise(), self.forward).then(norm, act)
        mean, var = self.mean, self.var
        if norm is not None and norm.batch:
            check_batch(self.raw)
            if mean is None:
                mean, var = training.batch_stats(self.raw)
            self.forward.note(norm, mean, var, _count(self.raw))
        return Flow(self.raw, self.forward, mean, var, norm, act)

    def prologue(self) -> Prologue:
        """What is pending, as the next op takes it."""
        norm = self.norm
        if norm is None:
            return Prologue(act=self.act)
        dtype = torch.float64 if self.raw.dtype == torch.float64 else torch.float32
        mean, var = (self.mean, self.var) if norm.batch else (norm.running_mean, norm.running_var)
        vectors = (None if v is None else v.to(dtype) for v in (mean, var, norm.weight, norm.bias))
        return Prologue(*vectors, norm.eps, self.act, norm.batch)

    def materialise(self, residual: Tensor | None = None) -> Tensor:
        """`act(norm(raw)) + residual`."""
        if self.norm is not None:
            return training.bn_act(self.raw, self.prologue(), residual)
        out = activation(self.raw, self.act)
        return out if residual is None else out + residual

    def dropped(self, dropouts: tuple[nn.Module, ...]) -> Self:
        """Through dropout modules, which draw in the order of the elements in memory: in the layout stock would give
        them.
        """
        x = self.materialise()
        x = x.contiguous() if self.forward.nchw else x
        for dropout in dropouts:
            x = apply_dropout(dropout, x)
        return self.plain(x)

    def plain(self, out: Tensor) -> Self:
        """A flow that continues with `out`."""
        return Flow(out, self.forward)

    def around(self, residual: bool, block: Callable[[Self], Self]) -> Self:
        """Through `block`, its input added to its output where it is a residual one."""
        if not residual:
            return block(self)
        x = self.materialise()
        return self.plain(block(self.plain(x)).materialise(x))

    def max_pool(self, kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool) -> Self:
        """Through a max-pool."""
        return self.plain(training.bn_act_max_pool2d(self.raw, self.prologue(), kernel, stride, padding, ceil_mode))

    def conv(self, conv: ConvParams, *, pool: bool = False, stats: bool = False) -> Self:
        """Through a convolution, whose own norm and activation are pending then. `stats`: statistics of its output are
        wanted even if its own norm does not need them.
        """
        bn: Any = conv.bn
        stats = stats or (bn is not None and bn.batch)
        dtype = self.raw.dtype
        weight, bias = (None if t is None else t.to(dtype) for t in (conv.weight, conv.bias))
        if not pool and _stock_convolves_faster(self.raw, conv):
            raw = F.conv2d(self.materialise(), weight, bias, conv.stride, conv.padding, conv.dilation)
            return self.plain(raw).then(bn, conv.act)
        raw, mean, var = training.bn_act_conv2d(
            self.raw, self.prologue(), weight, bias, stride=conv.stride, padding=conv.padding, dilation=conv.dilation,
            groups=conv.groups, pool=pool, stats=stats,
        )  # fmt: skip
        return Flow(raw, self.forward, *((mean, var) if stats else ())).then(bn, conv.act)


def _stock_convolves_faster(x: Tensor, conv: ConvParams) -> bool:
    """Whether norm, activation and convolution apart train faster than the one op.

    Our products read all weights once an image, and pack them at every step: where maps are small beside the weights
    that is most of the time. Forward and backward on one core with AVX-512, stock over ours, batch 8: 3x3 on 7x7 maps
    0.87 (128 channels), 0.81 (256), 0.71 (512), on 12x12 1.17, 1.10, 1.08; of stride 2 to 14x14 0.92 (64 to 128), 0.92,
    0.91, from 14x14 0.72, 0.70, 0.67; 1x1 of stride 2 0.90, 0.97, 0.83. Not where the weight is contiguous: its
    gradient would be converted (ResNet-18 at 160x160, batch 4: 154 ms a step, 129 with ours).
    """
    eager = x.device.type == "cpu" and x.dtype is torch.float32 and not torch.compiler.is_compiling()
    if not eager or conv.groups != 1 or conv.in_channels < _WIDE:
        return False
    if not conv.weight.is_contiguous(memory_format=torch.channels_last):
        return False
    if max(conv.stride) > 1:
        return True
    height, width = (
        n + 2 * p - d * (k - 1)
        for n, p, d, k in zip(x.shape[2:], conv.padding, conv.dilation, conv.kernel, strict=True)
    )
    few = x.shape[0] * height * width < 2 * max(conv.in_channels, conv.out_channels)
    return max(conv.kernel) > 1 and (few or height * width <= _SMALL_MAP)


def apply_dropout(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)`; an `nn.Dropout` that nothing looks into draws the same numbers faster."""
    if torch.compiler.is_compiling() or type(module) is not nn.Dropout or any(GLOBAL_HOOKS):
        return module(x)
    if module.inplace or not module.training or not is_plain(module):
        return module(x)
    return training.dropout(x, module.p)


def _count(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def check_batch(x: Tensor) -> None:
    """Stock's error, before any statistics are touched."""
    if _count(x) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
