"""A fused piece of a network at work: read the stock children, check that nothing changed, pack once, run."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from lightops import _env
from lightops.modules._backend import backend_when_traced, choose_backend, packed_alike
from lightops.modules._flow import Flow, under_transform
from lightops.modules._guard import Guard
from lightops.modules._piece import Piece
from lightops.modules._reader import Decline, Reader
from lightops.modules._room import make_room
from lightops.modules._train_reader import TrainReader
from lightops.ops.training import TRAINING_DTYPES, training_reason

_LOW_PRECISION = (torch.float16, torch.bfloat16)
_AUTOCAST_CASTS = (torch.float32, *_LOW_PRECISION)


class State(NamedTuple):
    """What a piece was found to be, and packed as, for inputs of one dtype. Never changed: threads share it."""

    guard: Guard
    params: Any
    channels: int | None
    dtype: torch.dtype
    # The dtype of x that needs no autocast to be computed in `dtype`; None where only autocast makes it so.
    plain_dtype: torch.dtype | None
    backend: str
    packed: Any


class Choice(NamedTuple):
    """A backend that was found to be the fastest, taken wherever it serves; `note` holds the times."""

    backend: str
    note: str = ""


class Runner:
    """One piece with its packed weights. `reason` says why the last call ran stock code, None when it ran fused."""

    __slots__ = ("_before", "choice", "piece", "reason", "state", "winograd")

    def __init__(self, piece: Piece, winograd: int = 2, choice: Choice | None = None):
        self.piece = piece
        self.winograd = winograd
        self.choice = choice
        self.state: State | None = None
        self.reason: str | None = None
        self._before: State | None = None

    def __getstate__(self) -> tuple[Piece, int, Choice | None]:
        return self.piece, self.winograd, self.choice

    def __setstate__(self, state: tuple[Piece, int, Choice | None]) -> None:
        self.__init__(*state)

    def fresh(self) -> Self:
        """Another runner of the same piece, with nothing packed."""
        return type(self)(self.piece, self.winograd, self.choice)

    @property
    def backend(self) -> str | None:
        state = self.state
        return None if state is None else state.backend

    @property
    def can_run_into(self) -> bool:
        """Whether the piece can write into a dense block's buffer."""
        return hasattr(self.piece, "run_into") and self.backend not in (None, "reference")

    def forget(self) -> None:
        """Drop everything derived from the parameters."""
        self.state = self.reason = self._before = None

    def choose(self, choice: Choice | None) -> None:
        """From the next call on take the backend of `choice`. What is packed stays where both read it alike."""
        self.choice = choice
        if self.state is not None:
            self._before, self.state = self.state, None

    def ready(self, block: nn.Module, x: Any) -> State | None:
        """What to run x with; packs where something changed. None, with the reason kept, where x needs stock code."""
        state = self.state
        if (
            state is not None
            and type(x) is Tensor
            and x.dtype is state.plain_dtype
            and x.dim() == self.piece.dims
            and x.layout is torch.strided
            and x.device == (state.guard.device or x.device)
            and not x.is_nested
            and not under_transform()
            and not torch._C._is_any_autocast_enabled()
            and state.guard.holds()
            and not (torch.is_grad_enabled() and (x.requires_grad or state.guard.requires_grad()))
            and _fits(x, state.channels)
        ):
            self.reason = None
            return state
        try:
            state = self._prepare(block, x)
        except Decline as decline:
            self.reason = str(decline)
            return None
        self.reason = None
        return state

    def run(self, x: Tensor, state: State) -> Tensor:
        """The fused computation with what `ready(x)` returned."""
        if x.dtype is not state.dtype:
            x = x.to(state.dtype)
        if state.backend == "reference":
            return self.piece.reference(x, state.params)
        return self.piece.run(x, state.packed, state.backend)

    def run_into_room(self, x: Tensor, state: State, channels: int) -> Tensor:
        """`run`, into the prefix of a dense block's buffer of `channels` channels."""
        if x.dtype is not state.dtype:
            x = x.to(state.dtype)
        prefix = make_room(x, self.piece.out_shape(x, state.packed), channels)
        return self.piece.run_into(x, state.packed, prefix, state.backend)

    def run_channels_last(self, x: Tensor, state: State) -> Tensor:
        """`run`, with a channels_last result whatever the layout of x."""
        if state.backend == "reference" or not hasattr(self.piece, "run_channels_last"):
            return self.run(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x, state)
        x = x if x.dtype is state.dtype else x.to(state.dtype)
        return self.piece.run_channels_last(x, state.packed, state.backend)

    def trace(self, block: nn.Module, x: Tensor) -> Tensor:
        """The fused computation with reading and packing in the graph, for torch.compile and torch.export."""
        _check_dims(self.piece, x)
        reader = Reader(block)
        params = self.piece.read_all(reader)
        guard = reader.finish()
        if torch.is_grad_enabled() and (x.requires_grad or any(t.requires_grad for t in reader.weights + reader.norms)):
            raise Decline("gradients required")
        dtype = _compute_dtype(self.piece, x, guard, params)
        chosen = None if self.choice is None else self.choice.backend
        backend = backend_when_traced(self.piece.op, x.device.type, dtype, chosen)
        if backend is None:
            raise Decline("no backend for a compiled graph")
        if backend == "reference":
            return self.piece.reference(x.to(dtype), params)
        return self.piece.run(x.to(dtype), self.piece.pack(params, dtype, self.winograd), backend)

    def train(self, block: nn.Module, flow: Flow) -> Flow:
        """The training forward, from norms and modes as they are now. Decline where it has no exact fused form, with
        the reason kept.
        """
        try:
            flow = self._train(block, flow)
        except NothingToTrain:
            raise
        except Decline as decline:
            self.reason = str(decline)
            raise
        self.reason = None
        return flow

    def _train(self, block: nn.Module, flow: Flow) -> Flow:
        piece, x = self.piece, flow.raw
        if torch.compiler.is_compiling():
            _check_dims(piece, x)
        else:
            _check_input(piece, x)
        reader = TrainReader(block)
        params = piece.read_all(reader)
        guard = reader.finish()
        if reader.dropouts and not piece.drops:
            raise Decline("dropout in training mode")
        if not (reader.batch or _wants_grad(flow.raw, reader)):
            raise NothingToTrain
        _check_training_backend(x)
        if not torch.compiler.is_compiling() and x.is_inference() and _wants_grad(x, reader):
            raise Decline("gradients through a tensor from inference mode, which stock refuses to save")
        if guard.device is not None and x.device != guard.device:
            raise Decline(f"input is on {x.device}, parameters on {guard.device}")
        channels = piece.in_channels(params)
        if not _fits(x, channels):
            raise Decline(f"input shape {list(x.shape)}: empty, or not {channels} channels")
        return piece.train(params, flow.to(_compute_dtype(piece, x, guard, params)), self.winograd)

    def _prepare(self, block: nn.Module, x: Any) -> State:
        _check_input(self.piece, x)
        state = self.state
        if state is not None and state.guard.holds():
            guard, params, channels = state.guard, state.params, state.channels
        else:
            state = None
            reader = Reader(block)
            params = self.piece.read_all(reader)
            guard, channels = reader.finish(), self.piece.in_channels(params)
        if guard.device is not None and x.device != guard.device:
            raise Decline(f"input is on {x.device}, parameters on {guard.device}")
        dtype = _compute_dtype(self.piece, x, guard, params)
        if torch.is_grad_enabled() and (x.requires_grad or guard.requires_grad()):
            raise Decline("gradients required (run inference under torch.no_grad() or torch.inference_mode())")
        if not _fits(x, channels):
            raise Decline(f"input shape {list(x.shape)}: empty, or not {channels} channels")
        if state is None or dtype is not state.dtype:
            backend, packed = self._pack(x, params, dtype)
            plain = dtype if guard.dtype in (None, dtype) else None
            state = self.state = State(guard, params, channels, dtype, plain, backend, packed)
        return state

    def _pack(self, x: Tensor, params: Any, dtype: torch.dtype) -> tuple[str, Any]:
        args, kwargs = self.piece.arguments(params)
        with torch.no_grad():
            backend = choose_backend(self.piece.op, x, args, kwargs, self.choice and self.choice.backend)
        if backend == "reference":
            return backend, None
        before, self._before = self._before, None
        alike = before is not None and before.dtype is dtype and packed_alike(before.backend, backend)
        if alike and before.guard.holds():
            return backend, before.packed
        # Packed weights outlive the call, so they must not become inference tensors.
        with torch.inference_mode(False), torch.no_grad():
            return backend, self.piece.pack(params, dtype, self.winograd)


class NothingToTrain(Decline):
    """No gradient is wanted and no norm takes batch statistics: inference is the right forward."""

    def __init__(self) -> None:
        super().__init__("neither gradients nor batch statistics are wanted")


def _wants_grad(x: Tensor, reader: Reader) -> bool:
    return torch.is_grad_enabled() and (
        x.requires_grad or any(t.requires_grad for t in (*reader.weights, *reader.norms))
    )


def _check_training_backend(x: Tensor) -> None:
    """Where no kernel for training can run, the stock forward is as good as the reference."""
    if _env.disabled():
        raise Decline("LIGHTOPS_DISABLE is set")
    if _env.backend() == "reference":
        return
    if why := training_reason(x.device.type):
        raise Decline(f"training on {x.device} is left to stock: {why}")
    if x.dtype not in TRAINING_DTYPES[x.device.type]:
        raise Decline(f"training on {x.device} is left to stock: {x.dtype} has no kernel")


def _fits(x: Tensor, channels: int | None) -> bool:
    shape = x.shape
    return (channels is None or shape[1] == channels) and 0 not in shape


def _compute_dtype(piece: Piece, x: Tensor, guard: Guard, params: Any) -> torch.dtype:
    """The dtype stock would compute in, by PyTorch's own rules; Decline where stock would raise or mix."""
    kind = x.device.type
    casts = guard.dtype in _AUTOCAST_CASTS and x.dtype in _AUTOCAST_CASTS and kind != "meta"
    if casts and torch.is_autocast_enabled(kind):
        target = torch.get_autocast_dtype(kind)
        if x.dtype is not target and piece.uses_x_as_it_is(params):
            raise Decline(f"autocast to {target} with a {x.dtype} input, which stock normalises or adds uncast")
        return target
    if guard.dtype is not None and x.dtype is not guard.dtype:
        raise Decline(f"input is {x.dtype}, parameters are {guard.dtype}")
    return x.dtype


def _check_dims(piece: Piece, x: Tensor) -> None:
    if x.dim() != piece.dims:
        raise Decline(f"input is {x.dim()}-D")


def _check_input(piece: Piece, x: Any) -> None:
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        raise Decline(f"input is a {type(x).__name__}")
    if x.layout is not torch.strided or x.is_nested:
        raise Decline("input is not a dense tensor")
    _check_dims(piece, x)
    if under_transform():
        raise Decline("inside a trace, a torch.func transform or forward-mode differentiation")
