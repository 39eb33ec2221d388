"""The module that stands in for a stock block: the same children, names and parameters, another forward."""

import warnings
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightops.modules._flow import Flow, Pass
from lightops.modules._piece import Piece
from lightops.modules._reader import Decline
from lightops.modules._runner import NothingToTrain, Runner
from lightops.ops._native import suggests_channels_last, to_nchw

# What nn.Module.__init__ puts into every instance: shared with the stock module by reference, so that a name, hook,
# parameter or child added to either is there in both.
_SHARED = frozenset(nn.Module().__dict__)
_OWN = frozenset({"_compiled_call_impl", "_runners", "_stock", "_warned"})


class FallbackWarning(UserWarning):
    """A fused module ran the stock forward; the message says why. Given once per module and reason."""


class FusedModule(nn.Module):
    """A stock block with a fused forward.

    It shares the very `_parameters`, `_buffers`, `_modules` and hook dicts of the stock module, which it keeps (outside
    the module tree): `state_dict`, optimizers, child replacement and hooks agree whichever of the two is asked, and
    attributes it does not have are the stock module's. Where a call cannot be fused exactly it runs the stock forward,
    warns once (`FallbackWarning`) and keeps the reason in `last_reason`.

    Everything is decided per call: BN attributes, weights, hooks and children are read as they are now. Writes that
    PyTorch cannot see (through `.data` or a numpy view) are found by sampling a few words of each tensor.
    """

    def __init__(self, stock: nn.Module, runners: list[Runner]):
        self.__dict__.update({name: stock.__dict__[name] for name in _SHARED if name in stock.__dict__})
        self.__dict__.update(_stock=stock, _runners=runners, _warned=set())

    @classmethod
    def from_piece(cls, stock: nn.Module, piece: Piece, winograd: int) -> Self:
        if isinstance(stock, FusedModule):
            raise TypeError(
                f"{cls.__name__}.from_stock: got a {type(stock).__name__}, wants the stock module it replaces"
            )
        return cls(stock, [Runner(piece, winograd)])

    @property
    def op(self) -> str:
        """The fused op's name."""
        return self._runners[0].piece.op

    @property
    def backend(self) -> str | None:
        """The backend of the last fused call."""
        return self._runners[0].backend

    @property
    def last_reason(self) -> str | None:
        """Why the last call ran the stock forward; None when it ran fused or has not run."""
        return next((runner.reason for runner in self._runners if runner.reason), None)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._traced(x, *args, **kwargs)
        if is_jit_tracing():
            return self._stock_forward(x, *args, **kwargs)
        runner = self._runners[0]
        if args or kwargs:
            runner.reason = "called with more than one argument"
            return self._fallback(x, *args, **kwargs)
        if self._trains(x):
            try:
                return self._train_forward(x)
            except NothingToTrain:
                pass
            except Decline:
                return self._fallback(x)
        state = runner.ready(self._stock, x)
        return self._fallback(x) if state is None else runner.run(x, state)

    def _trains(self, x: Any) -> bool:
        """Whether the call may want gradients or batch statistics."""
        if self.training:
            return True
        if not torch.is_grad_enabled():
            return False
        return (isinstance(x, Tensor) and x.requires_grad) or any(p.requires_grad for p in self.parameters())

    def _train_forward(self, x: Any) -> Tensor:
        """The training forward; Decline where this call has none. Running statistics change once it is done."""
        image = isinstance(x, Tensor) and x.layout is torch.strided and not x.is_nested and x.dim() == 4
        forward = Pass(nchw=image and not keeps_channels_last(x, self))
        y = self._train_flow(Flow(x, forward)).materialise()
        y = forward.commit(y)
        return to_nchw(y) if forward.nchw and y.dim() == 4 else y

    def _train_flow(self, flow: Flow) -> Flow:
        """The training forward between two pieces of a chain."""
        return self._runners[0].train(self._stock, flow)

    def _traced(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not args and not kwargs and not exporting_to_onnx():
            if self._trains(x):
                try:
                    return self._train_forward(x)
                except Decline:
                    pass
            try:
                return self._runners[0].trace(self._stock, x)
            except Decline:
                pass
        return self._stock_forward(x, *args, **kwargs)

    def _stock_forward(self, *args: Any, **kwargs: Any) -> Any:
        stock = self._stock
        stock.training = self.training
        return stock.forward(*args, **kwargs)

    def _fallback(self, *args: Any, **kwargs: Any) -> Any:
        self._warn(self.last_reason)
        return self._whole_stock(*args, **kwargs)

    def _whole_stock(self, *args: Any, **kwargs: Any) -> Any:
        """The stock forward. Where it fails, the statistics that it has moved by then are put back."""
        if torch.compiler.is_compiling():
            return self._stock_forward(*args, **kwargs)
        forward = Pass()
        forward.keep(self)
        try:
            return self._stock_forward(*args, **kwargs)
        except Exception:
            forward.restore()
            raise

    def _warn(self, reason: str | None) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(
                f"lightops: {type(self).__name__} runs the stock forward: {reason}", FallbackWarning, stacklevel=2
            )

    def _release(self) -> None:
        """Make the stock module's own flags those of this one, before it takes its place again."""
        for name in _SHARED & self.__dict__.keys():
            self._stock.__dict__[name] = self.__dict__[name]

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        for runner in self._runners:
            runner.forget()
        super()._apply(fn, recurse)
        return self

    def train(self, mode: bool = True) -> Self:
        for runner in self._runners:
            runner.forget()
        super().train(mode)
        self._stock.training = mode
        return self

    @property
    def _version(self) -> int | None:
        return self._stock._version

    def _save_to_state_dict(self, *args: Any) -> None:
        self._stock._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._stock._load_from_state_dict(*args)

    def get_extra_state(self) -> Any:
        return self._stock.get_extra_state()

    def set_extra_state(self, state: Any) -> None:
        self._stock.set_extra_state(state)

    def __getattr__(self, name: str) -> Any:
        if "_stock" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._stock, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN or name == "forward":
            self.__dict__[name] = value
        elif name in _SHARED:
            self.__dict__[name] = self._stock.__dict__[name] = value
        else:
            setattr(self._stock, name, value)

    def __delattr__(self, name: str) -> None:
        if name == "forward" and name in self.__dict__:
            del self.__dict__[name]
        else:
            delattr(self._stock, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._stock)})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_warned": set()}

    def _replicate_for_data_parallel(self) -> Self:
        # nn.Module's own would go through our __setattr__ before the replica has a stock module.
        replica = object.__new__(type(self))
        stock = self._stock._replicate_for_data_parallel()
        replica.__dict__.update(self.__dict__)
        replica.__dict__.update({name: stock.__dict__[name] for name in _SHARED if name in stock.__dict__})
        replica.__dict__.update(_stock=stock, _runners=[runner.fresh() for runner in self._runners], _warned=set())
        return replica

    def __prepare_scriptable__(self) -> nn.Module:
        return self._stock

    def extra_repr(self) -> str:
        return f"{self.op}, stock={type(self._stock).__name__}, backend={self.backend or 'chosen at the first call'}"


def is_jit_tracing() -> bool:
    """Whether `torch.jit.trace` (or the exporters that use it) is recording: it gets the stock operators, at every call
    the same, which its own check wants and which run without lightops."""
    return torch._C._get_tracing_state() is not None


def keeps_channels_last(x: Tensor, block: nn.Module) -> bool:
    """Whether stock would return channels_last for x: if x or a convolution's weight is."""
    return suggests_channels_last(x) or any(suggests_channels_last(p) for p in block.parameters() if p.dim() == 4)


@torch.compiler.assume_constant_result
def exporting_to_onnx() -> bool:
    """ONNX knows no operator of ours: the stock layers are exported."""
    return torch.onnx.is_in_onnx_export()


class Container:
    """Length, iteration and indexing of a stock block that is a Sequential, ModuleList or ModuleDict."""

    def __len__(self) -> int:
        return len(self._stock)

    def __bool__(self) -> bool:
        return bool(self._stock)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stock)

    def __contains__(self, key: Any) -> bool:
        return key in self._stock

    def __getitem__(self, key: Any) -> Any:
        return self._stock[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._stock[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._stock[key]
