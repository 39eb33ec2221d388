"""Training steps: who takes them, whether their gradients are right, and what they keep for the backward pass.

A step is forward, cross entropy, backward and SGD with momentum on the subject's pictures, in training mode. 16-bit
dtypes are autocast over float32 parameters, as people train.
"""

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightops._torchvision import import_torchvision
from lightops.bench.contestants import COMPILE, EAGER_NCHW, EAGER_NHWC, LIGHTOPS, Contestant, Task, Unavailable, swap
from lightops.bench.memory import allocation, saved_for_backward
from lightops.bench.report import Row
from lightops.bench.subjects import Subject
from lightops.networks.densenet import DenseBlock

# So small that the weights of all contestants stay what they were verified with, large enough to be computed.
LR, MOMENTUM = 1e-6, 0.9
# float64 decides whether the formulas are right: a gradient's distance over its length, in the 2-norm, and the least
# length as a share of all gradients together (a bias before a BatchNorm has a gradient of zero and rounding alone).
EXACT, EXACT_FLOOR, EXACT_PICTURES = 1e-7, 1e-3, 2
# The whole gradient's distance over its length, for every contestant (lightops may have twice stock's). In float32 a
# ReLU that falls on the other side of zero sends another gradient, and a deep network amplifies it: stock channels_last
# is up to 2% from float64 and from stock contiguous; a part halved, negated or missing is far above. In 16 bits stock's
# own distance passes 1 on small maps: there only what is out of scale or not a number shows, and float64 decides.
LIMITS = {torch.float64: 1e-7, torch.float32: 0.1, torch.bfloat16: 4.0, torch.float16: 4.0}
_AUTOCAST = (torch.bfloat16, torch.float16)

Gradients = dict[str, Tensor]


class Step:
    """One training step of `model` on `x`; called, it takes one and returns the loss."""

    def __init__(self, model: nn.Module, x: Tensor, autocast: torch.dtype | None, run: Callable | None = None) -> None:
        self.model, self.x, self.autocast = model.train(), x, autocast
        self.run = run or model
        self.optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM)

    def __call__(self) -> Tensor:
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        # At the end, so that no gradient outlives the step and counts as the next one's memory.
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def loss(self) -> Tensor:
        """Cross entropy against made-up labels; the graph hangs on it."""
        with torch.autocast(self.x.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            answer = self.run(self.x)
        labels = torch.arange(len(answer), device=answer.device) * 37 % answer.shape[1]
        return F.cross_entropy(answer.to(torch.float64 if answer.dtype == torch.float64 else torch.float32), labels)

    def gradients(self) -> Gradients:
        """Every parameter's gradient in float64, without dropout, whose masks depend on the layout."""
        with _without_dropout(self.model):
            self.loss().backward()
        found = {
            name: p.grad.detach().cpu().double() for name, p in self.model.named_parameters() if p.grad is not None
        }
        self.optimizer.zero_grad(set_to_none=True)
        return found

    def buffers(self) -> Gradients:
        """Running statistics and the like, in float64."""
        return {name: buffer.detach().cpu().double() for name, buffer in self.model.named_buffers()}


@contextmanager
def _without_dropout(model: nn.Module) -> Any:
    drops = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    rates = [m.p for m in drops]
    for module in drops:
        module.p = 0.0
    try:
        yield
    finally:
        for module, rate in zip(drops, rates, strict=True):
            module.p = rate


def _placed(task: Task, layout: torch.memory_format) -> tuple[nn.Module, Tensor, torch.dtype | None]:
    autocast = task.dtype if task.dtype in _AUTOCAST else None
    dtype = torch.float32 if autocast else task.dtype
    model = task.subject.copy().to(device=task.device, dtype=dtype, memory_format=layout)
    return model, task.x.to(device=task.device, dtype=dtype, memory_format=layout), autocast


def build_nchw(task: Task) -> Step:
    """The network as it is, contiguous."""
    return Step(*_placed(task, torch.contiguous_format))


def build_nhwc(task: Task) -> Step:
    """The network as it is, channels_last."""
    return Step(*_placed(task, torch.channels_last))


def make_memory_efficient(model: nn.Module) -> nn.Module:
    """Turns `memory_efficient` on wherever the model has it; raises `Unavailable` where nothing does."""
    use_torchvision_blocks(model)
    switched = [m for m in model.modules() if hasattr(m, "memory_efficient")]
    if not switched:
        raise Unavailable("only DenseNet has a memory_efficient form")
    for module in switched:
        module.memory_efficient = True
    return model


def build_memory_efficient(task: Task) -> Step:
    """DenseNet's `memory_efficient=True`, channels_last: concatenation, BatchNorm and 1x1 run again going backward."""
    model, x, autocast = _placed(task, torch.channels_last)
    return Step(make_memory_efficient(model).to(dtype=x.dtype, memory_format=torch.channels_last), x, autocast)


def use_torchvision_blocks(model: nn.Module) -> None:
    """Puts torchvision's dense blocks, which have the switch, with the same weights where ours are."""
    for parent in list(model.modules()):
        for name, block in list(parent.named_children()):
            if not isinstance(block, DenseBlock):
                continue
            first = next(iter(block.values()))
            if not first.bottleneck:
                raise Unavailable("torchvision has no dense layer without bottleneck")
            import_torchvision()
            from torchvision.models.densenet import _DenseBlock

            growth = first.conv2.out_channels
            size = first.conv1.out_channels // growth
            same = _DenseBlock(len(block), first.conv1.in_channels, size, growth, first.drop_rate)
            same.load_state_dict(block.state_dict())
            setattr(parent, name, same)


def build_checkpoint(task: Task) -> Step:
    """torch.utils.checkpoint around each block of the network's main Sequential, channels_last.

    Single layers are left alone: their input may be changed in place by the layer after them.
    """
    model, x, autocast = _placed(task, torch.channels_last)
    sequences = [m for m in model.modules() if isinstance(m, nn.Sequential)]
    main = max(sequences, key=lambda m: sum(p.numel() for p in m.parameters()), default=())
    blocks = [part for part in main if any(part.children())]
    if not blocks:
        raise Unavailable("the network's main nn.Sequential has no blocks to put checkpoints around")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return Step(model, x, autocast)


def build_compile(task: Task) -> Step:
    """`torch.compile` of the channels_last network; forward and backward are both compiled."""
    model, x, autocast = _placed(task, torch.channels_last)
    return Step(model, x, autocast, torch.compile(model))


def build_lightops(task: Task) -> Step:
    """The channels_last network after `lightops.swap_`."""
    model, x, autocast = _placed(task, torch.channels_last)
    swap(model, task.winograd)
    return Step(model, x, autocast)


CONTESTANTS = (
    Contestant(EAGER_NCHW.name, "stock", build_nchw),
    Contestant(EAGER_NHWC.name, "stock", build_nhwc),
    Contestant("memory_efficient", "stock", build_memory_efficient),
    Contestant("checkpointing", "stock", build_checkpoint),
    Contestant(COMPILE.name, "stock", build_compile),
    Contestant(LIGHTOPS.name, "lightops", build_lightops),
)


def truth(subject: Subject, batch: int) -> Gradients:
    """The stock network's gradients for `batch` pictures in float64, on the CPU."""
    return _exact_step(subject, batch).gradients()


def judge(step: Step, contestant: Contestant, task: Task, exact: Gradients, stock: list[float], row: Row) -> None:
    """Fills the row's error and, where the gradients are wrong, its status."""
    row.error = distance(step.gradients(), exact)
    row.error_limit = max(LIMITS[task.dtype], 2 * max(stock, default=0.0))
    if not row.error <= row.error_limit:
        row.status = "wrong"
        row.reason = f"WRONG: gradient {row.error:.1e} from float64's, above {row.error_limit:.1e}, not timed"
    elif contestant.family == "lightops" and (fault := _float64_fault(task)):
        row.status, row.reason = "wrong", f"WRONG in float64: {fault}, not timed"


def weigh(step: Step, row: Row) -> None:
    """Fills the row's bytes saved for the backward pass and its peak."""
    kept = [*step.model.parameters(), *step.model.buffers()]
    row.saved_mb = saved_for_backward(step.loss, kept) / 1e6
    row.peak_mb = allocation(step).peak / 1e6


def distance(found: Gradients, exact: Gradients) -> float:
    """|found - exact| / |exact| of all gradients together; infinite when one is missing or not a number."""
    if found.keys() != exact.keys():
        return float("inf")
    apart = sum((found[name] - exact[name]).square().sum().item() for name in exact) ** 0.5
    return apart / _length(exact) if apart == apart else float("inf")


def _length(gradients: Gradients) -> float:
    return sum(g.square().sum().item() for g in gradients.values()) ** 0.5 or 1.0


def _exact_step(subject: Subject, pictures: int) -> Step:
    layout = torch.channels_last
    model = subject.copy().double().to(memory_format=layout)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # Statistics calibrated on these very pictures would stay what they are whatever the momentum.
            module.reset_running_stats()
    return Step(model, subject.batch(pictures).double().contiguous(memory_format=layout), None)


def _float64_fault(task: Task) -> str:
    """What is wrong with the swapped network's gradients and statistics after a float64 step; "" when nothing is."""
    stock = _exact_step(task.subject, min(EXACT_PICTURES, len(task.x)))
    swapped = _exact_step(task.subject, min(EXACT_PICTURES, len(task.x)))
    swap(swapped.model, task.winograd)
    for kind in ("gradients", "buffers"):
        exact, found = getattr(stock, kind)(), getattr(swapped, kind)()
        if exact.keys() != found.keys():
            return f"{kind} of {sorted(exact.keys() ^ found.keys())[0]} on one side alone"
        least = EXACT_FLOOR * _length(exact)
        for name, value in exact.items():
            error = (found[name] - value).norm().item() / max(value.norm().item(), least)
            if not error <= EXACT:
                return f"{kind} of {name} {error:.1e} from stock's, above {EXACT:.0e}"
    return ""
