"""The walk of a block that applies its children one after the other, some runs of which are computed as one op."""

from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from lightops.modules._base import FusedModule
from lightops.modules._flow import Flow, Pass, apply_dropout
from lightops.modules._guard import is_hooked, is_plain
from lightops.modules._piece import Piece
from lightops.modules._program import Leaf, leaf_of, leaves_of, make_program
from lightops.modules._reader import DROPOUTS, Decline, qualified_type
from lightops.modules._runner import NothingToTrain, Runner, State
from lightops.modules.dense_block import DenseBlock, DenseBlockPiece
from lightops.ops._native import suggests_channels_last, to_nchw

# These compute the same whichever layout they are given, and keep it.
_LAYOUT_NEUTRAL = (
    nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.BatchNorm2d, nn.Conv2d, nn.Dropout, nn.Dropout2d, nn.Hardswish, nn.Identity,
    nn.MaxPool2d, nn.ReLU, nn.ReLU6, nn.SiLU,
)  # fmt: skip
_LAYOUT_NEUTRAL_NAMES = frozenset(
    {
        "lightops.networks.mobilenet.SamePad",
        "timm.layers.norm_act.BatchNormAct2d",
        "timm.layers.squeeze_excite.EffectiveSEModule",
        "timm.layers.squeeze_excite.SEModule",
        "timm.models._efficientnet_blocks.SqueezeExcite",
        "torchvision.ops.misc.SqueezeExcitation",
        "torchvision.ops.stochastic_depth.StochasticDepth",
    }
)


_MOST_PROGRAMS = 4  # input shapes remembered
_IMAGE_CHANNELS = 4  # up to so many channels a tensor is a picture


class Run(NamedTuple):
    """Consecutive children, by path, that one piece computes."""

    paths: tuple[str, ...]
    piece: Piece


class _Step(NamedTuple):
    """A fused run (`runner`) over `children`, or one child that is called as it is."""

    children: tuple[nn.Module, ...]
    runner: Runner | None
    neutral: bool


class _Plan(NamedTuple):
    """Steps over the children as they were found at `links`; `channels_last` if a convolution weight is, which makes
    stock's result so."""

    links: list[tuple[nn.Module, str, nn.Module]]
    steps: list[_Step]
    channels_last: bool


class Chain(FusedModule):
    """The walk over fused runs and stock children.

    Between fused steps tensors stay channels_last; the layout of what is returned is what stock would return. The
    producer before a dense block writes into the block's buffer (`_room`). A run that cannot be fused in a call is its
    stock children in that call.
    """

    def __init__(self, stock: nn.Module, runs: list[Run], winograd: int = 2):
        super().__init__(stock, [Runner(run.piece, winograd) for run in runs])
        self.__dict__.update(_runs=tuple(run.paths for run in runs), _plan=None, _programs={})

    def keep_runs(self, keep: list[int]) -> None:
        """Fuse only the runs with these numbers; the others' children are called one by one."""
        self.__dict__.update(
            _runs=tuple(self._runs[i] for i in keep), _runners=[self._runners[i] for i in keep], _plan=None
        )

    @property
    def op(self) -> str:
        return "+".join(dict.fromkeys(runner.piece.op for runner in self._runners)) or "layout"

    @property
    def backend(self) -> str | None:
        return "+".join(dict.fromkeys(runner.backend for runner in self._runners if runner.backend)) or None

    def _paths(self) -> list[str]:
        """The children that make up the forward, in order."""
        raise NotImplementedError

    def _current_plan(self) -> _Plan:
        plan = self._plan
        if plan is None or not self._holds(plan):
            plan = self._make_plan()
            self.__dict__.update(_plan=plan, _programs={})
        return plan

    def _holds(self, plan: _Plan) -> bool:
        return all(parent._modules.get(key) is module for parent, key, module in plan.links)

    def _make_plan(self) -> _Plan:
        """The steps over the children as they are now; a run whose children are no longer there in order is left
        out.
        """
        starts = {paths[0]: (paths, runner) for paths, runner in zip(self._runs, self._runners, strict=True)}
        paths = self._paths()
        links = [_link(self._stock, path) for path in paths]
        children = [module for _, _, module in links]
        steps, i = [], 0
        while i < len(paths):
            run, runner = starts.get(paths[i], ((), None))
            if runner is None or tuple(paths[i : i + len(run)]) != run:
                run, runner = (paths[i],), None
            child = children[i]
            neutral = (
                isinstance(child, (FusedModule, *_LAYOUT_NEUTRAL)) or qualified_type(child) in _LAYOUT_NEUTRAL_NAMES
            )
            steps.append(_Step(tuple(children[i : i + len(run)]), runner, neutral))
            i += len(run)
        weights = (p for p in self.parameters() if p.dim() == 4)
        return _Plan(links, steps, any(suggests_channels_last(p) for p in weights))

    def _walk(self, plan: _Plan, x: Tensor) -> Any:
        # A convolution returns channels_last if its input or its weight is; what follows keeps it.
        nchw = x.dim() == 4 and not (plan.channels_last or suggests_channels_last(x))
        if self._trains(x):
            return self._train_walk(plan, x, nchw)
        x, aside = self._begin(x)
        return self._finish(self._inference_walk(plan, x, nchw), aside)

    def _inference_walk(self, plan: _Plan, x: Tensor, nchw: bool) -> Any:
        program = self._programs.get(x.shape[1:])
        if program is not None and program.ready(x):
            x = program.run(x)
            return to_nchw(x) if nchw and not x.is_contiguous() else x
        given, stock, steps, fused = x, self._stock, plan.steps, True
        for i, step in enumerate(steps):
            runner = step.runner
            if runner is not None:
                state = runner.ready(stock, x)
                if state is not None:
                    x = _produce(runner, state, x, steps, i)
                    continue
                self._warn(runner.reason)
                fused = False
            for child in step.children:
                if nchw and runner is None and _runs_fused(child, x):
                    x = _channels_last(x)
                producer = _producer(child, x) if runner is None else None
                if producer is not None:
                    x = _produce(*producer, x, steps, i)
                elif step.neutral and not child.training:
                    x = child(x)
                else:
                    x = child(x.contiguous() if nchw and type(x) is Tensor else x)
                    nchw = type(x) is Tensor and x.dim() == 4 and not suggests_channels_last(x)
                    fused = False
        if fused:
            self._learn(plan, given)
        if nchw and type(x) is Tensor and not x.is_contiguous():
            return to_nchw(x)
        return x

    def _train_walk(self, plan: _Plan, x: Tensor, nchw: bool) -> Any:
        forward = Pass(nchw)
        try:
            x, aside = self._begin(x, forward)
            y = self._train_steps(plan.steps, Flow(x, forward)).materialise()
            y = to_nchw(y) if forward.nchw and type(y) is Tensor and y.dim() == 4 else y
            y = self._finish(y, aside, forward)
        except Exception:
            forward.restore()
            raise
        try:
            return forward.commit(y)
        except RuntimeError:  # a running statistic of another size; torch's checkpoint leaves here by another error
            forward.restore()
            raise

    def _begin(self, x: Tensor, forward: Pass | None = None) -> tuple[Tensor, Tensor]:
        """What the first step is given for the block's input x, and what is laid aside for `_finish`; `forward` is the
        pass in training."""
        del forward
        return x, x

    def _finish(self, y: Any, aside: Tensor, forward: Pass | None = None) -> Any:
        """What the block does with its last step's result y."""
        del aside, forward
        return y

    def _train_flow(self, flow: Flow) -> Flow:
        return self._train_steps(self._current_plan().steps, flow)

    def _train_steps(self, steps: list[_Step], flow: Flow) -> Flow:
        """Flows go from piece to piece, those of fused children included; what has no training form gets a tensor."""
        for step in steps:
            child = step.children[0]
            try:
                if step.runner is not None:
                    flow = self._train_run(step.runner, flow)
                    continue
                if isinstance(child, FusedModule) and is_plain(child):
                    flow = child._train_flow(flow)
                    continue
            except Decline as decline:
                if step.runner is not None and not torch.compiler.is_compiling():
                    self._warn(str(decline))
            for child in step.children:
                flow = _through_stock(child, flow, step.neutral)
        return flow

    def _train_run(self, runner: Runner, flow: Flow) -> Flow:
        try:
            return runner.train(self._stock, flow)
        except NothingToTrain:
            # Frozen layers in front of those that learn.
            x = flow.materialise()
            if torch.compiler.is_compiling():
                return flow.plain(runner.trace(self._stock, x))
            state = runner.ready(self._stock, x)
            if state is None:
                raise Decline(runner.reason) from None
            return flow.plain(runner.run_channels_last(x, state))

    _flat: ClassVar[bool] = False  # the forward is the steps and nothing else

    def _leaves(self, plan: _Plan) -> tuple[list[Leaf], list[tuple[nn.Module, str, nn.Module]], list[nn.Module]] | None:
        """All steps, those of chains among the children included; the links and chains they hang on. None where a child
        has to be called as a whole.
        """
        leaves, links, chains = [], list(plan.links), [self]
        for step in plan.steps:
            child = step.children[0]
            if step.runner is not None:
                leaves.append(leaf_of(step.runner))
            elif isinstance(child, Chain):
                inner = child._leaves(child._current_plan()) if child._flat and is_plain(child) else None
                if inner is None:
                    return None
                leaves += inner[0]
                links += inner[1]
                chains += inner[2]
            elif step.neutral and (own := leaves_of(child)) is not None:
                leaves += own
            else:
                return None
        return leaves, links, chains

    def _learn(self, plan: _Plan, x: Tensor) -> None:
        """Keep a program for inputs like x, on which every step has just run fused."""
        found = self._leaves(plan) if self._flat else None
        program = make_program(*found, x) if found is not None and len(found[0]) > 1 else None
        if program is not None:
            if len(self._programs) >= _MOST_PROGRAMS:
                self._programs.clear()
            self._programs[x.shape[1:]] = program

    def _trace_walk(self, x: Any) -> Any:
        if isinstance(x, Tensor) and x.dim() == 4 and self._trains(x):
            plan = self._make_plan()
            return self._train_walk(plan, x, not (plan.channels_last or suggests_channels_last(x)))
        x, aside = self._begin(x)
        return self._finish(self._trace_inference_walk(x), aside)

    def _trace_inference_walk(self, x: Any) -> Any:
        stock = self._stock
        nchw = isinstance(x, Tensor) and x.dim() == 4 and not suggests_channels_last(x)
        for step in self._make_plan().steps:
            if step.runner is not None:
                try:
                    x = step.runner.trace(stock, x)
                    continue
                except Decline:
                    pass
            for child in step.children:
                x = child(x)
        return x.contiguous() if nchw and isinstance(x, Tensor) and x.dim() == 4 else x

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.__dict__.update(_plan=None, _programs={})
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_plan": None, "_programs": {}}

    def _replicate_for_data_parallel(self) -> Self:
        replica = super()._replicate_for_data_parallel()
        replica.__dict__.update(_plan=None, _programs={})
        return replica


def _through_stock(child: nn.Module, flow: Flow, neutral: bool) -> Flow:
    """A stock child, in the layout it would be given: dropout draws by layout, and an unknown module may look at it."""
    x, forward = flow.materialise(), flow.forward
    forward.keep(child)
    draws = isinstance(child, FusedModule) or type(child) in DROPOUTS
    given = forward.nchw and type(x) is Tensor and (draws or not neutral)
    y = apply_dropout(child, x.contiguous() if given else x)
    if given:
        forward.nchw = type(y) is Tensor and y.dim() == 4 and not suggests_channels_last(y)
    return flow.plain(y)


def walkable(x: Any) -> bool:
    """Whether fused runs can take part at all; anything else goes through the stock forward."""
    return type(x) is Tensor and x.dim() in (2, 4) and x.layout is torch.strided and not x.is_nested


def _runs_fused(child: nn.Module, x: Any) -> bool:
    """Whether a child begins with a piece that takes x; stock code gets the layout it would have."""
    if not (isinstance(child, FusedModule) and child._runners and type(x) is Tensor and x.dim() == 4):
        return False
    return not suggests_channels_last(x) and child._runners[0].ready(child._stock, x) is not None


def _channels_last(x: Any) -> Any:
    """x as the fused children of a chain hand it on: given as it is, each would convert it, and its result back. A
    picture is left to the stem, which reads both."""
    wide = type(x) is Tensor and x.dim() == 4 and x.shape[1] > _IMAGE_CHANNELS
    return x.contiguous(memory_format=torch.channels_last) if wide else x


def _link(block: nn.Module, path: str) -> tuple[nn.Module, str, nn.Module]:
    above, _, key = path.rpartition(".")
    parent = block.get_submodule(above)
    return parent, key, parent._modules[key]


def _produce(runner: Runner, state: State, x: Tensor, steps: list[_Step], i: int) -> Tensor:
    """Run a ready piece: into the buffer of the dense block that is the next step, where there is one."""
    if runner.can_run_into and i + 1 < len(steps):
        consumer = _consumer(steps[i + 1])
        if consumer is not None and consumer.dtype is state.dtype:
            return runner.run_into_room(x, state, consumer.packed.out_channels)
    return runner.run_channels_last(x, state)


def _consumer(step: _Step) -> State | None:
    """The state of a dense block that took part before, so that its width is known, and that no hook looks into."""
    runner = step.runner
    if runner is None:
        child = step.children[0]
        if not isinstance(child, DenseBlock) or is_hooked(child):
            return None
        runner = child._runners[0]
    state = runner.state
    known = isinstance(runner.piece, DenseBlockPiece) and state is not None and state.backend != "reference"
    return state if known else None


def _producer(child: nn.Module, x: Any) -> tuple[Runner, State] | None:
    """The one piece of a Sequential child that can write into a buffer, when the child may be bypassed for it."""
    if not isinstance(child, Chain) or len(child._runners) != 1 or is_hooked(child) or "forward" in child.__dict__:
        return None
    runner = child._runners[0]
    if not runner.can_run_into or len(child._current_plan().steps) != 1:
        return None
    state = runner.ready(child._stock, x)
    return None if state is None else (runner, state)
