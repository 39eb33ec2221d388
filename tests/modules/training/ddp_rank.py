"""One of two processes that train stock and swapped models under DDP: `python -m ... PORT RANK` prints how far they are
apart.
"""

import json
import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import lightops
from tests.swap.nets import FAMILIES, small


def train(model: nn.Module, rank: int, forwards: int) -> dict[str, torch.Tensor]:
    """State and gradients after two steps. Buffers broadcast before a second forward are an error of stock's. With one
    forward a parameter takes no part, and has to be looked for.
    """
    if forwards == 1:
        model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    parallel = DistributedDataParallel(model, broadcast_buffers=forwards == 1, find_unused_parameters=forwards == 1)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=1e-3)
    for i in range(2):
        torch.manual_seed(10 * rank + i)
        x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
        optimizer.zero_grad()
        losses = [parallel(x.roll(n, 0)).square().mean() for n in range(forwards)]
        sum(losses).backward()
        optimizer.step()
    grads = {f"{name}.grad": p.grad for name, p in model.named_parameters() if name != "unused"}
    return {**model.state_dict(), **grads}


def main(port: str, rank: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {}
    for family in FAMILIES:
        for forwards in (1, 2):
            stock, swapped = (small(family).double().train() for _ in range(2))
            lightops.swap_(swapped)
            want, got = (train(model, rank, forwards) for model in (stock, swapped))
            top = max(t.abs().max().item() for name, t in want.items() if name.endswith(".grad"))
            found[f"{family} {forwards}"] = max(
                ((got[name] - t).abs().max() / max(t.abs().max(), 1e-2 * top)).item() for name, t in want.items()
            )
    dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
