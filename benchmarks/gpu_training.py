"""Training steps on a GPU, bf16 as people train: autocast over float32 parameters, forward, backward and SGD.

Stock channels_last, torch.compile and swapped, time and memory, on the networks that the targets name; and forward and
backward of the blocks of the training micro-benchmarks.
"""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from bench_training_dense_block import PARTS as DENSE
from bench_training_fire import PARTS as FIRE
from blocks import cut
from gpu_blocks import timed
from torch import Tensor, nn

import lightops
from lightops import networks
from lightops.bench.training import LIMITS, Step, distance

NETWORKS = ("densenet121", "mobilenet_v1")
BATCH = 256
BLOCK_BATCH = 64
DTYPE = torch.bfloat16
LIMIT = LIMITS[torch.float32]  # of a small network's gradients in float32


def swapped(model: nn.Module) -> nn.Module:
    lightops.swap_(model)
    return model


# torch.compile comes last: where the time is over it is left out, and the others are there.
CONTESTANTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "lightops": swapped,
    "eager NHWC": lambda model: model,
    "torch.compile": torch.compile,
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return networks.create(name).cuda().to(memory_format=torch.channels_last)


def image(batch: int, side: int = 224) -> Tensor:
    return torch.randn(batch, 3, side, side, device="cuda").to(memory_format=torch.channels_last)


def measure(deadline: float) -> Iterator[dict[str, Any]]:
    """A row per network and contestant, then per block; those that the time does not reach are left out."""
    torch.backends.cudnn.allow_tf32 = False
    for contestant in CONTESTANTS:
        for name in NETWORKS:
            if time.monotonic() > deadline:
                return
            yield network_row(contestant, name)
        yield from block_rows(contestant, deadline)


def network_row(contestant: str, name: str) -> dict[str, Any]:
    """Milliseconds a step, the most memory beside the parameters, the error of the gradients in float32."""
    row: dict[str, Any] = {"network": name, "batch": BATCH, "contestant": contestant, "error": 0.0, "limit": LIMIT}
    try:
        if contestant == "lightops":
            row["error"] = gradient_error(name)
        model, x = network(name), image(BATCH)
        made = CONTESTANTS[contestant](model)
        step = Step(model, x, DTYPE, made)
        row |= weigh(step, x)
    except Exception as error:
        row["failed"] = f"{type(error).__name__}: {error}"[:300]
        row["error"] = float("inf") if contestant == "lightops" else 0.0
    return row


def weigh(step: Callable[[], Any], x: Tensor) -> dict[str, float]:
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ms = timed(lambda _: step(), [x]) / 1000
    peak = (torch.cuda.max_memory_allocated() - before) / 1e6
    return {"ms": ms, "peak_MB": peak, "images_per_s": len(x) / ms * 1e3}


def gradient_error(name: str) -> float:
    """Of the swapped network, over all parameters, against float64."""
    model, x = network(name), image(8, 96)
    exact = Step(copy.deepcopy(model).double(), x.double(), None).gradients()
    return distance(Step(swapped(model), x, None).gradients(), exact)


def block_rows(contestant: str, deadline: float) -> Iterator[dict[str, Any]]:
    for part in (*DENSE, *FIRE):
        if time.monotonic() > deadline:
            return
        block = cut(part, 4)
        row = {"block": block.name, "batch": BLOCK_BATCH, "contestant": contestant, "error": 0.0, "limit": 1.0}
        try:
            x = block.x.repeat(-(-BLOCK_BATCH // 4), 1, 1, 1)[:BLOCK_BATCH].to(
                "cuda", DTYPE, memory_format=torch.channels_last
            )
            holder = nn.Sequential(copy.deepcopy(block.module)).cuda().to(memory_format=torch.channels_last).train()
            if contestant == "lightops":
                row["error"], row["limit"] = block_errors(holder, x[:4])
            run = Pass(CONTESTANTS[contestant](holder), holder, x)
            row |= weigh(run, x)
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"[:300]
            row["error"] = float("inf") if contestant == "lightops" else 0.0
        yield row


class Pass:
    """Forward and backward of a block under autocast, with a fixed random upstream gradient."""

    def __init__(self, call: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor, dtype: torch.dtype = DTYPE):
        self.call, self.module, self.dtype = call, module, dtype
        self.x = x.detach().requires_grad_()
        torch.manual_seed(1)
        self.upstream = torch.randn_like(self.forward())

    def forward(self) -> Tensor:
        with torch.autocast(self.x.device.type, DTYPE, enabled=self.dtype is DTYPE):
            return self.call(self.x)

    def __call__(self) -> None:
        self.forward().backward(self.upstream)
        self.x.grad = None
        self.module.zero_grad(set_to_none=True)

    def gradients(self, upstream: Tensor) -> dict[str, Tensor]:
        out = self.forward()
        out.backward(upstream.to(out.dtype))
        found = {name: p.grad.double().cpu() for name, p in self.module.named_parameters()}
        found["x"] = self.x.grad.double().cpu()
        self.x.grad = None
        self.module.zero_grad(set_to_none=True)
        return found


def block_errors(holder: nn.Module, x: Tensor) -> tuple[float, float]:
    """Of the swapped block's gradients in bf16, and twice that of stock's: a ReLU that falls on the other side of zero
    costs either some percent."""
    exact = copy.deepcopy(holder).double()
    truth = Pass(exact, exact, x.double(), torch.float64)
    want = truth.gradients(truth.upstream)

    def error(block: nn.Module) -> float:
        return distance(Pass(block, block, x).gradients(truth.upstream), want)

    return error(swapped(copy.deepcopy(holder))), 2 * error(copy.deepcopy(holder))
