"""The walk over a model that finds what to fuse."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from lightops.modules import Decline, DenseBlock, FusedModule, FusedSequential, Linear, Run
from lightops.modules._backend import choose_backend, serving_backends
from lightops.modules._piece import Piece
from lightops.modules._reader import Reader
from lightops.modules.dense_block import DenseBlockPiece
from lightops.modules.linear import LinearPiece
from lightops.swap.match import FOLLOWERS, Leaf, can_read, find_runs, is_sequential, leaves
from lightops.swap.report import Declined, Fused, SwapReport
from lightops.swap.rules import Refusal, propose

Filter = Callable[[nn.Module, str], bool]

# What libraries call the linear layer behind a network's pooled features where it is no part of a Sequential.
_CLASSIFIERS = ("classifier", "fc")


class Search:
    """The fused modules to put in place (`new`, and `root` if the model itself is a block), and the records."""

    def __init__(self, model: nn.Module, filter_fn: Filter | None, winograd: int):
        self.filter_fn = filter_fn
        self.winograd = winograd
        self.new: list[FusedModule] = []
        self.root: FusedModule | None = None
        self.fused: dict[int, list[Fused]] = {}
        self.declined: list[Declined] = []
        self._order = {name: i for i, (name, _) in enumerate(model.named_modules())}
        self._seen: set[int] = set()
        self._visit(model, "", in_sequential=False)

    def report(self) -> SwapReport:
        """Records in model order."""
        fused = [record for records in self.fused.values() for record in records]
        place = lambda record: self._order.get(record.name.partition("..")[0], 0)  # noqa: E731
        return SwapReport(sorted(fused, key=place), sorted(self.declined, key=place))

    def decline(self, name: str, op: str, reason: str) -> None:
        self.declined.append(Declined(name, op, reason))

    def drop(self, new: FusedModule) -> None:
        """Do without a fused module that was found."""
        self.new = [m for m in self.new if m is not new]
        self.root = None if self.root is new else self.root
        del self.fused[id(new)]

    def found(self) -> list[FusedModule]:
        return self.new if self.root is None else [*self.new, self.root]

    def keep_runs(self, new: FusedModule, keep: list[int]) -> None:
        """Do without some of the runs of a fused Sequential, or without another fused module."""
        if not isinstance(new, FusedSequential):
            self.drop(new)
            return
        records = self.fused[id(new)]
        new.keep_runs(keep)
        self.fused[id(new)] = [records[i] for i in keep]

    def _visit(self, module: nn.Module, name: str, *, in_sequential: bool) -> FusedModule | None:
        """Look at `module` and below; what is, or will be, in its place."""
        if id(module) in self._seen:
            return None
        self._seen.add(id(module))
        if isinstance(module, FusedModule):
            self._below_fused(module, name)
            return module
        if isinstance(module, torch.jit.ScriptModule):
            return None
        if self.filter_fn is None or self.filter_fn(module, name):
            proposal = propose(module)
            if isinstance(proposal, Refusal):
                # What looked like one block may be a wrapper around another.
                known = len(self.declined)
                if not self._children(module, name) and len(self.declined) == known:
                    self.decline(name, proposal.op, proposal.reason)
                return None
            if proposal is not None:
                new = self._block(module, name, proposal.op, proposal.pieces, proposal.build)
                if proposal.rest:
                    self._children(module, name, frozenset(module._modules) - frozenset(proposal.rest))
                return new
            if is_sequential(module):
                return self._sequential(module, name, in_sequential)
            if self._is_classifier(module, name, in_sequential):
                return self._block(module, name, LinearPiece.op, [LinearPiece()], _linear)
        self._children(module, name)
        return None

    def _children(self, module: nn.Module, name: str, skip: frozenset[str] = frozenset()) -> dict[str, FusedModule]:
        prefix = f"{name}." if name else ""
        found = {}
        for key, child in module._modules.items():
            if child is not None and key not in skip:
                found[key] = self._visit(child, prefix + key, in_sequential=is_sequential(module))
        return {key: new for key, new in found.items() if new is not None}

    def _below_fused(self, module: FusedModule, name: str) -> None:
        """A Sequential that is swapped already may have gained children since."""
        if isinstance(module, FusedSequential):
            self._children(module._stock, name, frozenset(path for run in module._runs for path in run))

    def _is_classifier(self, module: nn.Module, name: str, in_sequential: bool) -> bool:
        """Whether a layer is the classifier behind something fused, and large enough."""
        last = name.rpartition(".")[2]
        return last in _CLASSIFIERS and not in_sequential and bool(self.new) and can_read(module, LinearPiece())

    def _block(self, module: nn.Module, name: str, op: str, pieces: list[Piece], build: Callable) -> FusedModule | None:
        try:
            backend, note = _backend(module, pieces)
        except Decline as decline:
            self.decline(name, op, str(decline))
            return None
        return self._accept(build(_body(module, name), self.winograd), name, [Fused(name, op, backend, note)])

    def _sequential(self, module: nn.Sequential, name: str, in_sequential: bool) -> FusedModule | None:
        chain = [leaf for key, child in module._modules.items() for leaf in leaves(child, key)]
        found = self._served(module, name, find_runs(module, chain))
        below = self._children(module, name, frozenset(path for run, _ in found for path in run.paths))
        for run, replaced in _merge_dense_layers(module, below):
            first = self.fused[id(replaced[0])][0]
            for layer in replaced:
                self.drop(layer)
            found.append((run, first._replace(name=_label(name, run.paths), op=run.piece.op)))
        fused = {*below, *(path for run, _ in found for path in run.paths)}
        found += self._served(module, name, _followers(module, chain, fused, bool(self.new)))
        # Around one fused child alone there is nothing to keep channels_last, unless a Sequential goes on around it.
        if not found and len(below) < (1 if in_sequential else 2):
            return None
        order = list(module._modules)
        found.sort(key=lambda pair: order.index(pair[0].paths[0]))
        runs, records = [run for run, _ in found], [record for _, record in found]
        return self._accept(
            FusedSequential.from_stock(_body(module, name), runs, winograd=self.winograd), name, records
        )

    def _served(self, module: nn.Module, name: str, runs: list[Run]) -> list[tuple[Run, Fused]]:
        """The runs that a backend serves, with their records."""
        found = []
        for run in runs:
            label = _label(name, run.paths)
            try:
                found.append((run, Fused(label, run.piece.op, *_backend(module, [run.piece]))))
            except Decline as decline:
                self.decline(label, run.piece.op, str(decline))
        return found

    def _accept(self, new: FusedModule, name: str, records: list[Fused]) -> FusedModule:
        if name:
            self.new.append(new)
        else:
            self.root = new
        self.fused[id(new)] = records
        return new


def _body(module: nn.Module, name: str) -> nn.Module:
    """The stock module for a fused one to keep. The root changes class itself, so what is kept is a twin that
    shares everything.
    """
    if name:
        return module
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    return twin


def _label(name: str, paths: tuple[str, ...]) -> str:
    """`features.conv0..pool0`: a run by its first and last child."""
    run = paths[0] if len(paths) == 1 else f"{paths[0]}..{paths[-1]}"
    return f"{name}.{run}" if name else run


def _merge_dense_layers(module: nn.Sequential, below: dict[str, FusedModule]) -> list[tuple[Run, list[FusedModule]]]:
    """Neighbouring children that each append to their input, as one dense block on one buffer."""
    groups: list[list[str]] = [[]]
    for key in module._modules:
        new = below.get(key)
        joins = isinstance(new, DenseBlock) and new._stock is module._modules[key]
        if joins:
            groups[-1].append(key)
        elif groups[-1]:
            groups.append([])
    merged = []
    for keys in groups:
        pieces = [_moved(below[key]._runners[0].piece, key) for key in keys]
        if len(keys) > 1:
            piece = DenseBlockPiece(
                sum((p.layers for p in pieces), ()),
                neutral=sum((p.neutral for p in pieces), ()),
                acts=sum((p.acts for p in pieces), ()),
                constants=sum((p.constants for p in pieces), ()),
            )
            try:
                _backend(module, [piece])
            except Decline:
                continue
            merged.append((Run(tuple(keys), piece), [below[key] for key in keys]))
    return merged


def _followers(module: nn.Sequential, chain: list[Leaf], fused: set[str], behind_fused: bool) -> list[Run]:
    """Max-pools next to a fused child, and linear layers behind anything fused."""
    order = [key for key, child in module._modules.items() if child is not None]
    runs = []
    for run in find_runs(module, chain, FOLLOWERS):
        first, last = order.index(run.paths[0]), order.index(run.paths[-1])
        if isinstance(run.piece, LinearPiece):
            wanted = (behind_fused or fused & set(order[:first])) and _two_dimensional(chain, run.paths[0])
        else:
            wanted = fused & {*order[max(first - 1, 0) : first], *order[last + 1 : last + 2]}
        if wanted and not fused & set(run.paths):
            runs.append(run)
    return runs


def _two_dimensional(chain: list[Leaf], top: str) -> bool:
    """Whether nothing before the child `top`, back to a Flatten, may make its input a map or a sequence."""
    before = list(itertools.takewhile(lambda leaf: leaf.top != top, chain))
    since = itertools.takewhile(lambda leaf: leaf.letter != "F", reversed(before))
    return all(leaf.letter != "X" or type(leaf.module).__module__ == nn.ReLU.__module__ for leaf in since)


def _linear(stock: nn.Module, winograd: int) -> FusedModule:
    return Linear.from_stock(stock, winograd=winograd)


def _moved(piece: DenseBlockPiece, key: str) -> DenseBlockPiece:
    """The piece as it reads from the parent of its block."""
    put = lambda path: path and f"{key}.{path}"  # noqa: E731
    layers = []
    for layer in piece.layers:
        names = {field: put(getattr(layer, field)) for field in ("norm1", "act1", "conv1", "norm2", "act2", "conv2")}
        layers.append(layer._replace(layer=put(layer.layer) or key, **names))
    return replace(
        piece,
        layers=tuple(layers),
        neutral=tuple(put(path) for path in piece.neutral),
        acts=tuple((put(path), act) for path, act in piece.acts),
        constants=tuple((put(path) or key, name, value) for path, name, value in piece.constants),
    )


def _backend(block: nn.Module, pieces: list[Piece]) -> tuple[str, str]:
    """The backend that inference with the block's own dtype and device would use, and by what rule where several could;
    Decline if there is none."""
    name = note = ""
    home = next((p.device for p in block.parameters()), "cpu")  # of a piece without parameters
    for piece in pieces:
        reader = Reader(block, any_mode=True)
        params = piece.read_all(reader)
        if reason := piece.slower(params):
            raise Decline(reason)
        guard = reader.finish()
        channels = piece.in_channels(params) or 1
        x = torch.empty((1, channels, 8, 8), dtype=guard.dtype or torch.float32, device=guard.device or home)
        args, kwargs = piece.arguments(params)
        with torch.no_grad():
            name = choose_backend(piece.op, x, args, kwargs)
        others = [other for other in serving_backends(piece.op, x, args, kwargs) if other != name]
        if others:
            note = f"{name} before {', '.join(others)} by rule; swap_(model, example) measures"
    return name, note
