"""Swapping the blocks of one model object, in place, and back."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightops.modules import Decline, FusedModule, FusedSequential, Run
from lightops.modules._reader import Reader
from lightops.modules._runner import Piece, choose_backend
from lightops.swap.match import find_runs, is_sequential, leaves
from lightops.swap.report import Declined, Fused, SwapError, SwapReport
from lightops.swap.rules import Refusal, propose

Filter = Callable[[nn.Module, str], bool]


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
    twice changes nothing. The model may be in training or evaluation mode; a fused block runs its stock forward
    whenever a call cannot be fused exactly (training mode, a gradient wanted, hooks inside the block, ...).

    Args:
        model: any module. Blocks are recognised by class (torchvision, timm, lightops.networks) and by structure. The
            root itself cannot be replaced: use `lightops.modules.<Class>.from_stock` for a lone block.
        example: an input of `model`. When given, each block is timed stock against fused on the input it gets from this
            example, and the slower is not used.
        filter_fn: called with each module and its qualified name; False leaves that module as it is (its children are
            still looked at).
        strict: raise `SwapError`, with the model unchanged, if anything recognised is declined or nothing is
        recognised.
        winograd: output tile of 3x3 convolutions of stride 1: 2 (default), 4 (faster, larger rounding error), 0
        (direct).

    Returns:
        The report: what is fused with which backend, what is declined and why.
    """
    if winograd not in (0, 2, 4):
        raise ValueError(f"swap_: got winograd={winograd!r}, wants 0, 2 or 4")
    if not isinstance(model, nn.Module):
        raise TypeError(f"swap_: got {type(model).__name__}, wants a torch.nn.Module")
    search = _Search(filter_fn, winograd)
    search.visit(model, "")
    report = SwapReport(list(search.fused.values()), search.declined)
    if strict and (search.declined or not search.fused):
        raise SwapError(
            f"swap_: nothing to swap\n{report}" if not search.declined else f"swap_: declined blocks\n{report}"
        )
    _replace(model, {id(new._stock): new for new in search.new})
    return report


def unswap_(model: nn.Module) -> nn.Module:
    """Put back every stock module that `swap_` replaced in `model`; returns `model`. The inverse of `swap_`, object for
    object.
    """
    fused = [m for m in model.modules() if isinstance(m, FusedModule)]
    for module in fused:
        module._stock.training = module.training
    _replace(model, {id(module): module._stock for module in fused})
    return model


def explain(model: nn.Module) -> SwapReport:
    """What `swap_` would do to `model`, or, for what is swapped already, what runs and why it last ran stock code.
    Changes nothing.
    """
    search = _Search(None, 2)
    search.visit(model, "")
    report = SwapReport(list(search.fused.values()), search.declined)
    for name, module in model.named_modules():
        if isinstance(module, FusedModule):
            note = f"last call ran the stock forward: {module.last_reason}" if module.last_reason else ""
            report.fused.append(Fused(name, module.op, module.backend or "chosen at the first call", note))
    return report


class _Search:
    """One walk over a model: the fused modules to put in place, and the records."""

    def __init__(self, filter_fn: Filter | None, winograd: int):
        self.filter_fn = filter_fn
        self.winograd = winograd
        self.new: list[FusedModule] = []
        self.fused: dict[str, Fused] = {}
        self.declined: list[Declined] = []
        self._seen: set[int] = set()

    def visit(self, module: nn.Module, name: str) -> bool:
        """Look at `module` and below; True if it is, or will be, a fused module."""
        if id(module) in self._seen:
            return False
        self._seen.add(id(module))
        if isinstance(module, FusedModule):
            self._below_fused(module, name)
            return True
        if isinstance(module, torch.jit.ScriptModule):
            return False
        if self.filter_fn is None or self.filter_fn(module, name):
            found = self._block(module, name)
            if found is not None:
                return found
            if is_sequential(module):
                return self._sequential(module, name)
        self._children(module, name)
        return False

    def _children(self, module: nn.Module, name: str, skip: frozenset[str] = frozenset()) -> int:
        prefix = f"{name}." if name else ""
        items = [(key, child) for key, child in module._modules.items() if child is not None and key not in skip]
        return sum(self.visit(child, prefix + key) for key, child in items)

    def _below_fused(self, module: FusedModule, name: str) -> None:
        """A Sequential that is swapped already may have gained children since."""
        if isinstance(module, FusedSequential):
            taken = frozenset(path for run in module._runs for path in run)
            self._children(module._stock, name, taken)

    def _block(self, module: nn.Module, name: str) -> bool | None:
        """A block that some rule knows: True fused, False declined, None not a block."""
        proposal = propose(module)
        if proposal is None:
            return None
        if isinstance(proposal, Refusal):
            return self._decline(name, proposal.op, proposal.reason)
        if not name:
            how = "the root cannot be replaced in place; wrap it with from_stock of a lightops.modules class"
            return self._decline(name, proposal.op, how)
        try:
            backend = _backend(module, proposal.pieces)
        except Decline as decline:
            return self._decline(name, proposal.op, str(decline))
        return self._accept(proposal.build(module, self.winograd), name, proposal.op, backend)

    def _sequential(self, module: nn.Sequential, name: str) -> bool:
        chain = [leaf for key, child in module._modules.items() for leaf in leaves(child, key)]
        runs: list[tuple[Run, str]] = []
        for run in find_runs(module, chain):
            try:
                runs.append((run, _backend(module, [run.piece])))
            except Decline as decline:
                self._decline(_join(name, run.paths), run.piece.op, str(decline))
        taken = frozenset(path for run, _ in runs for path in run.paths)
        below = self._children(module, name, taken)
        if not name:
            for run, _ in runs:
                self._decline(
                    run.paths[0], run.piece.op, "its Sequential is the root, which cannot be replaced in place"
                )
            return False
        if not runs and below < 2:
            return False
        for run, backend in runs:
            self.fused[_join(name, run.paths)] = Fused(_join(name, run.paths), run.piece.op, backend)
        self.new.append(FusedSequential.from_stock(module, [run for run, _ in runs], winograd=self.winograd))
        return True

    def _accept(self, new: FusedModule, name: str, op: str, backend: str) -> bool:
        self.new.append(new)
        self.fused[name] = Fused(name, op, backend)
        return True

    def _decline(self, name: str, op: str, reason: str) -> bool:
        self.declined.append(Declined(name, op, reason))
        return False


def _join(name: str, paths: tuple[str, ...]) -> str:
    """`features.conv0..pool0`: a run by its first and last child."""
    run = paths[0] if len(paths) == 1 else f"{paths[0]}..{paths[-1]}"
    return f"{name}.{run}" if name else run


def _backend(block: nn.Module, pieces: list[Piece]) -> str:
    """The backend that inference with the block's own dtype and device would use; Decline with the reasons if there is
    none.
    """
    name = ""
    for piece in pieces:
        reader = Reader(block, any_mode=True)
        params = piece.read_all(reader)
        guard = reader.finish()
        channels = piece.in_channels(params) or 1
        x = torch.empty((1, channels, 8, 8), dtype=guard.dtype or torch.float32, device=guard.device or "cpu")
        args, kwargs = piece.arguments(params)
        with torch.no_grad():
            name = choose_backend(piece.op, x, args, kwargs)
    return name


def _replace(model: nn.Module, new: dict[int, nn.Module]) -> None:
    """Put `new[id(old)]` wherever `old` is a child; a block that is there twice is replaced twice by the same
    module.
    """
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if id(child) in new:
                parent._modules[key] = new[id(child)]
