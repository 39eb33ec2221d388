"""Stock against every backend that serves, block by block, on the inputs that an example gives each block."""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightops.modules import FusedModule, FusedSequential
from lightops.modules._backend import serving_backends
from lightops.modules._runner import Choice, Runner, State
from lightops.modules._walk import Chain
from lightops.ops._triton import tuning
from lightops.swap.search import Search

# The minimum of interleaved rounds, at least 5 and about 50 ms of them: a shared machine is slow in bursts.
_LEAST_ROUNDS, _MOST_ROUNDS, _SECONDS = 5, 40, 0.05
STOCK = "stock"


class _Part(NamedTuple):
    """One record of a fused module: the stock modules it stands for, the first of which shows the input, and both ways
    to compute it."""

    modules: list[nn.Module]
    stock: Callable[[Tensor], Any]
    fused: Callable[[Tensor], Any]
    ready: Callable[[Tensor], object]
    runners: list[Runner]

    def shape(self, x: Tensor) -> Hashable:
        """What the times depend on: blocks that agree in it are timed once."""
        pieces = tuple((r.piece.op, getattr(r.piece, "residual", None)) for r in self.runners)
        return pieces, tuple(map(repr, self.modules)), tuple(x.shape), x.stride(), x.dtype, x.device


class Times(NamedTuple):
    """Seconds of a call by backend, `STOCK` among them, and what a backend that cannot run the block said. `seen_at` is
    the block that was timed."""

    seconds: dict[str, float]
    failed: dict[str, str]
    seen_at: str

    @property
    def backend(self) -> str:
        """The fastest of the fused ones; stock where none ran."""
        fused = {name: s for name, s in self.seconds.items() if name != STOCK}
        return min(fused, key=lambda name: fused[name], default=STOCK)

    @property
    def slower(self) -> bool:
        return self.seconds[self.backend] > self.seconds[STOCK] or self.backend == STOCK

    def note(self, name: str) -> str:
        """The times, the fastest fused one first, stock's last, for the block called `name`."""
        fused = sorted((s, backend) for backend, s in self.seconds.items() if backend != STOCK)
        parts = [f"{backend} {s * 1e3:.3g} ms" for s, backend in [*fused, (self.seconds[STOCK], STOCK)]]
        parts += [f"{backend} failed: {why}" for backend, why in self.failed.items()]
        return ", ".join(parts) + ("" if name == self.seen_at else f" (timed at {self.seen_at})")


def drop_slower(model: nn.Module, example: Tensor, search: Search) -> None:
    """Time what `search` found, by every backend that serves it, against its stock children; keep the fastest backend,
    leave out what is slower than stock, note all times. Blocks of one shape are timed once.

    Raises TypeError for an example that is not a tensor.
    """
    if not isinstance(example, Tensor):
        raise TypeError(
            f"swap_: argument 'example' got {type(example).__name__}, wants a torch.Tensor that model takes"
        )
    parts = {new: _parts(new) for new in search.found()}
    timed: dict[Hashable, Times] = {}
    with _evaluation(model), torch.no_grad():
        inputs = _inputs(model, example, [part.modules[0] for found in parts.values() for part in found])
        inside = {id(m) for new in parts if isinstance(new, Chain) for m in new._stock.modules() if m is not new._stock}
        for new, found in parts.items():
            lone = len(found) == 1 and id(new._stock) not in inside
            _judge(new, found, inputs, search, timed, lone)


def _judge(
    new: FusedModule, parts: list[_Part], inputs: dict[int, Tensor], search: Search, timed: dict[Hashable, Times],
    lone: bool,
) -> None:  # fmt: skip
    records = search.fused[id(new)]
    keep = list(range(len(parts)))
    for i, part in enumerate(parts):
        x, name = inputs.get(id(part.modules[0])), records[i].name
        if x is None or not _could_run(part, x):
            continue
        shape = part.shape(x), lone
        if shape not in timed:
            timed[shape] = _measure(part, x, name, lone)
        times = timed[shape]
        note = times.note(name)
        if times.slower:
            keep.remove(i)
            why = "no backend could run it" if times.backend == STOCK else "slower on this machine"
            search.decline(name, records[i].op, f"{why}: {note}")
            continue
        for runner in part.runners:
            runner.choose(Choice(times.backend, note))
        records[i] = records[i]._replace(backend=times.backend, note=note, seconds=tuple(times.seconds.items()))
    if len(keep) < len(parts):
        search.keep_runs(new, keep)


def _could_run(part: _Part, x: Tensor) -> bool:
    """False where x needs stock code. A backend that fails on x does not settle it: another may not."""
    try:
        return bool(part.ready(x))
    except Exception:
        return any(runner.state is not None for runner in part.runners)


def _measure(part: _Part, x: Tensor, name: str, lone: bool) -> Times:
    # Between fused blocks tensors are channels_last; stock gets the layout it has today, and so does a lone block,
    # which converts what it is given and what it returns.
    given = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 and not lone else x
    runs: dict[str, Callable[[], Any]] = {}
    failed: dict[str, str] = {}
    for backend, states in _candidates(part, x, failed).items():
        run = partial(_with_states, part, states, given)
        try:
            with tuning() if backend == "triton" else nullcontext():
                run()  # compiles
        except Exception as error:  # a kernel may refuse what its backend serves in general
            failed[backend] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        else:
            runs[backend] = run
    runs[STOCK] = partial(part.stock, x)
    return Times(_times(runs, x.device), failed, name)


def _candidates(part: _Part, x: Tensor, failed: dict[str, str]) -> dict[str, list[State | None]]:
    """The states of the runners for each backend that serves one of them at least."""
    names: dict[str, None] = {}
    for runner in part.runners:
        if runner.state is not None:
            args, kwargs = runner.piece.arguments(runner.state.params)
            names.update(dict.fromkeys(serving_backends(runner.piece.op, x, args, kwargs)))
    found = {}
    for backend in names:
        for runner in part.runners:
            runner.choose(Choice(backend))
        try:
            ready = part.ready(x)
        except Exception as error:
            failed[backend] = f"{type(error).__name__}: {error}"
            continue
        states = [runner.state for runner in part.runners]
        if ready and any(state is not None and state.backend == backend for state in states):
            found[backend] = states
    return found


def _with_states(part: _Part, states: list[State | None], x: Tensor) -> Any:
    for runner, state in zip(part.runners, states, strict=True):
        runner.state = state
    return part.fused(x)


def _parts(new: FusedModule) -> list[_Part]:
    stock = new._stock
    if not isinstance(new, FusedSequential):
        ready = lambda x: new(x) is not None and new.last_reason is None  # noqa: E731
        return [_Part([stock], stock.forward, new, ready, new._runners)]
    parts = []
    for paths, runner in zip(new._runs, new._runners, strict=True):
        modules = [_at(stock, path) for path in paths]
        run, ready = partial(_run, runner, stock), partial(runner.ready, stock)
        parts.append(_Part(modules, partial(_sequence, modules), run, ready, [runner]))
    return parts


def _run(runner: Runner, stock: nn.Module, x: Tensor) -> Tensor:
    return runner.run(x, runner.ready(stock, x))


def _sequence(modules: list[nn.Module], x: Tensor) -> Any:
    for module in modules:
        x = module(x)
    return x


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


def _times(runs: dict[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """The least seconds of a call of each, in turns."""
    best = dict.fromkeys(runs, float("inf"))
    seconds = _on_gpu if device.type == "cuda" else _on_cpu
    began = time.perf_counter()
    for round_ in range(_MOST_ROUNDS):
        if round_ >= _LEAST_ROUNDS and time.perf_counter() - began > _SECONDS:
            break
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
    return best


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
