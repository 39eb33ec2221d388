"""Swapping the blocks of one model object, in place, and back."""

from torch import Tensor, nn

from lightops import _env
from lightops.modules import FusedModule
from lightops.swap.measure import drop_slower
from lightops.swap.report import Declined, Fused, SwapError, SwapReport
from lightops.swap.search import Filter, Search


def swap_(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    filter_fn: Filter | None = None,
    strict: bool = False,
    winograd: int = 2,
) -> SwapReport:
    """Replace the blocks of `model` that have a fused form, in place.

    Parameters, their names, `state_dict` and numbers stay the same; `unswap_` puts the very same modules back. Swapping
    twice changes nothing. The model may be in training or evaluation mode: a fused block runs its stock forward
    whenever a call cannot be fused exactly (training mode, a gradient wanted, a hook inside the block, ...).

    Args:
        model: any module. Blocks are recognised by class (torchvision, timm, lightops.networks) and by structure; one
        of
            unknown class is swapped only after its forward was run on a random input, on a copy, and agreed. A model
            that is itself a block keeps its identity: the object changes its class until `unswap_`.
        example: an input of `model`. When given, each block is timed on the input it gets from this example, stock and
            by every backend that serves it, and the fastest is kept; blocks of one shape are timed once. On a GPU with
            Triton this compiles and tunes the Triton kernels, which takes minutes for a large network the first time.
            Without it the backend is the first that serves, in the order cuda, triton, cpu.
        filter_fn: called with each module and its qualified name; False leaves that module as it is (its children are
            still looked at).
        strict: raise `SwapError`, with the model unchanged, if anything recognised is declined or nothing is
        recognised.
        winograd: output tile of 3x3 convolutions of stride 1: 2 (default), 4 (faster, larger rounding error), 0
        (direct).

    Returns:
        The report: what is fused with which backend, what is declined and why.

    Raises:
        TypeError: `model` is not a module. ValueError: unknown `winograd`. SwapError: see `strict`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"swap_: argument 'model' got {type(model).__name__}, wants a torch.nn.Module")
    if winograd not in (0, 2, 4):
        raise ValueError(f"swap_: argument 'winograd' got {winograd!r}, wants 0, 2 or 4")
    if _env.disabled():
        return _end(SwapReport(declined=[Declined("", "", "LIGHTOPS_DISABLE is set")]), strict)
    search = Search(model, filter_fn, winograd)
    if example is not None:
        drop_slower(model, example, search)
    report = _end(search.report(), strict)
    _replace(model, {id(new._stock): new for new in search.new})
    if search.root is not None:
        _become(model, search.root)
    return report


def unswap_(model: nn.Module) -> nn.Module:
    """Put back every stock module that `swap_` replaced in `model`; returns `model`."""
    fused = [m for m in model.modules() if isinstance(m, FusedModule)]
    for module in fused:
        module._release()
    _replace(model, {id(module): module._stock for module in fused})
    if isinstance(model, FusedModule):
        _become(model, model._stock)
    return model


def explain(model: nn.Module) -> SwapReport:
    """What `swap_` would do to `model`; for what is swapped already, what it runs and why it last ran stock code.

    Changes nothing.
    """
    report = Search(model, None, 2).report()
    for name, module in model.named_modules():
        if isinstance(module, FusedModule):
            backend = module.backend or "chosen at the first call"
            report.fused.append(Fused(name, module.op, backend, _note(module)))
    return report


def _note(module: FusedModule) -> str:
    """Why the last call ran stock code, and the times by which backends were chosen, run by run."""
    notes = [f"last call ran stock code: {module.last_reason}"] if module.last_reason else []
    runs = module.__dict__.get("_runs", ((),))
    chosen = [(paths, runner.choice) for paths, runner in zip(runs, module._runners, strict=False) if runner.choice]
    for paths, choice in chosen:
        where = f"{'..'.join(dict.fromkeys((paths[0], paths[-1])))}: " if paths and len(chosen) > 1 else ""
        notes.append(where + choice.note)
    return "; ".join(dict.fromkeys(notes))


def _end(report: SwapReport, strict: bool) -> SwapReport:
    if strict and (report.declined or not report.fused):
        what = "blocks were declined" if report.declined else "nothing was recognised"
        raise SwapError(f"swap_: {what}, the model is unchanged\n{report}")
    return report


def _replace(model: nn.Module, new: dict[int, nn.Module]) -> None:
    """Put `new[id(old)]` wherever `old` is a child; a block that is there twice is replaced twice by the same
    module.
    """
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if id(child) in new:
                parent._modules[key] = new[id(child)]


def _become(model: nn.Module, other: nn.Module) -> None:
    """Make `model` what `other` is: only the caller holds the root, so it changes class instead of being replaced."""
    object.__setattr__(model, "__class__", type(other))
    object.__setattr__(model, "__dict__", other.__dict__)
