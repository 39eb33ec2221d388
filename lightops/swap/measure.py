"""Stock against fused, block by block, on the inputs that an example gives each block."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightops.modules import FusedModule, FusedSequential
from lightops.modules._runner import Runner
from lightops.swap.search import Search

# The minimum of interleaved rounds, at least 5 and about 50 ms of them: a shared machine is slow in bursts.
_LEAST_ROUNDS, _MOST_ROUNDS, _SECONDS = 5, 40, 0.05


class _Part(NamedTuple):
    """One record of a fused module: the stock module whose input shows what it gets, and both ways to compute it."""

    seen_at: nn.Module
    stock: Callable[[Tensor], Any]
    fused: Callable[[Tensor], Any]
    ready: Callable[[Tensor], object]


def drop_slower(model: nn.Module, example: Tensor, search: Search) -> None:
    """Time what `search` found against its stock children; leave out the slower, note both times.

    Raises TypeError for an example that is not a tensor.
    """
    if not isinstance(example, Tensor):
        raise TypeError(
            f"swap_: argument 'example' got {type(example).__name__}, wants a torch.Tensor that model takes"
        )
    parts = {new: _parts(new) for new in search.found()}
    with _evaluation(model), torch.no_grad():
        inputs = _inputs(model, example, [part.seen_at for found in parts.values() for part in found])
        for new, found in parts.items():
            _judge(new, found, inputs, search)


def _judge(new: FusedModule, parts: list[_Part], inputs: dict[int, Tensor], search: Search) -> None:
    records = search.fused[id(new)]
    keep = list(range(len(parts)))
    for i, part in enumerate(parts):
        x = inputs.get(id(part.seen_at))
        if x is None or not part.ready(x):
            continue
        # Between fused blocks tensors are channels_last; stock gets the layout it has today.
        nhwc = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        stock, fused = _times(partial(part.stock, x), partial(part.fused, nhwc), x.device)
        records[i] = records[i]._replace(note=f"{fused * 1e3:.3g} ms, stock {stock * 1e3:.3g} ms")
        if fused > stock:
            keep.remove(i)
            search.decline(records[i].name, records[i].op, f"slower on this machine: {records[i].note}")
    if len(keep) < len(parts):
        search.keep_runs(new, keep)


def _parts(new: FusedModule) -> list[_Part]:
    stock = new._stock
    if not isinstance(new, FusedSequential):
        return [_Part(stock, stock.forward, new, lambda x: new(x) is not None and new.last_reason is None)]
    return [
        _Part(_at(stock, paths[0]), _sequence(stock, paths), partial(_run, runner, stock), partial(runner.ready, stock))
        for paths, runner in zip(new._runs, new._runners, strict=True)
    ]


def _run(runner: Runner, stock: nn.Module, x: Tensor) -> Tensor:
    return runner.run(x, runner.ready(stock, x))


def _sequence(stock: nn.Module, paths: tuple[str, ...]) -> Callable[[Tensor], Any]:
    modules = [_at(stock, path) for path in paths]

    def run(x: Tensor) -> Any:
        for module in modules:
            x = module(x)
        return x

    return run


def _at(stock: nn.Module, path: str) -> nn.Module:
    for key in path.split("."):
        stock = stock._modules[key]
    return stock


def _inputs(model: nn.Module, example: Tensor, modules: list[nn.Module]) -> dict[int, Tensor]:
    """The first argument of each module's first call in a forward of the stock model."""
    # A root that is a block is found as its twin, which nobody calls.
    seen = {id(module): example for module in modules if module.__dict__.get("_modules") is model._modules}

    def look(module: nn.Module, args: tuple) -> None:
        if args and isinstance(args[0], Tensor):
            # A copy: an in-place activation would write over it.
            seen.setdefault(id(module), args[0].clone())

    handles = [module.register_forward_pre_hook(look) for module in {id(m): m for m in modules}.values()]
    try:
        model(example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _times(stock: Callable[[], Any], fused: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    best = [float("inf"), float("inf")]
    seconds = _on_gpu if device.type == "cuda" else _on_cpu
    began = time.perf_counter()
    for round_ in range(_MOST_ROUNDS):
        if round_ >= _LEAST_ROUNDS and time.perf_counter() - began > _SECONDS:
            break
        for i, run in enumerate((stock, fused)):
            best[i] = min(best[i], seconds(run))
    return best[0], best[1]


def _on_cpu(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _on_gpu(run: Callable[[], Any]) -> float:
    """One of several calls back to back: the host's time to launch counts only where it is the longer."""
    calls = 8
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / calls


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and every module's own flag again afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
