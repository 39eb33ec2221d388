"""The networks on a GPU in fp16: stock channels_last, torch.compile, swapped; call by call and as a CUDA graph."""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_blocks import Call, graphed, timed
from torch import Tensor, nn

import lightops
from lightops import networks

NETWORKS = ("densenet121", "squeezenet1_1", "mobilenet_v1", "mobilenet_v2")
BATCHES = (256, 1)
# Against fp64, in units of the largest logit: twice what stock reaches in fp16.
LIMIT = 2e-3


def network(name: str) -> nn.Module:
    """With running statistics that normalise: the trained weights are not at hand on every machine with a GPU."""
    torch.manual_seed(0)
    model = networks.create(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.cuda()


def swapped(model: nn.Module) -> nn.Module:
    lightops.swap_(model)
    return model


# torch.compile comes last: where the time is over it is left out, and the others are there.
CONTESTANTS: dict[str, Callable[[nn.Module], Call]] = {
    "lightops": swapped,
    "eager NHWC": lambda model: model,
    "torch.compile": torch.compile,
}


@torch.no_grad()
def measure(deadline: float) -> Iterator[dict[str, Any]]:
    """A row per network, batch and contestant; those that the time does not reach are left out."""
    torch.backends.cudnn.allow_tf32 = False
    for contestant, make in CONTESTANTS.items():
        for name in NETWORKS:
            model = network(name)
            x = torch.randn(max(BATCHES), 3, 224, 224, device="cuda")
            want = copy.deepcopy(model).double()(x[:4].double())
            half = model.half().to(memory_format=torch.channels_last)
            for batch in BATCHES:
                if time.monotonic() > deadline:
                    return
                yield row(contestant, name, make(copy.deepcopy(half)), x[:batch], want[:batch])


def row(contestant: str, name: str, call: Call, x: Tensor, want: Tensor) -> dict[str, Any]:
    """Milliseconds a call and a graph replay, the error of the first images, the most memory a call took."""
    result: dict[str, Any] = {"network": name, "batch": len(x), "contestant": contestant, "error": 0.0, "limit": LIMIT}
    try:
        x = x.half().contiguous(memory_format=torch.channels_last)
        for _ in range(3):
            out = call(x)
        torch.cuda.synchronize()
        error = ((out[:4].double() - want).abs().max() / want.abs().max()).item()
        result["error"] = error if contestant == "lightops" else 0.0
        result["relative_error"] = error
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result["ms"] = timed(call, [x]) / 1000
        result["peak_MB"] = (torch.cuda.max_memory_allocated() - before) / 1e6
        graph = graphed(call, [x])
        result["graph_ms"] = None if graph is None else graph / 1000
    except Exception as error:
        result["failed"] = f"{type(error).__name__}: {error}"[:300]
        result["error"] = float("inf") if contestant == "lightops" else 0.0
    return result
