"""Dense blocks: every layer appends its channels to one buffer."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from lightops import reference
from lightops.modules._base import Container, FusedModule
from lightops.modules._flow import Flow, check_batch
from lightops.modules._piece import Piece
from lightops.modules._reader import ConvParams, Decline, Reader
from lightops.modules._room import claim_room
from lightops.ops import training
from lightops.ops._native import choose_algo
from lightops.ops.dense_block import pack_dense_block, run_dense_block, run_dense_block_
from lightops.ops.training import DenseBlockOut
from lightops.reference import DenseLayerParams


class LayerPaths(NamedTuple):
    """Where the pieces of one dense layer are below the block. `norm2`, `act2`, `conv2` are None without a bottleneck;
    an act is None where the norm contains it (or the layer's forward applies a ReLU: `fn`).

    `rates` are the layer's dropout rates, by attribute name: they matter in training mode only.
    """

    layer: str
    norm1: str
    act1: str | None
    conv1: str
    norm2: str | None = None
    act2: str | None = None
    conv2: str | None = None
    fn: str = "none"
    rates: tuple[str, ...] = ()

    @classmethod
    def named(cls, layer: str, norm1: str, act1: str | None, conv1: str, *rest: str | None, **options: Any) -> Self:
        """From names below the layer; `layer` is empty for a block that is itself the layer."""
        names = [n if n is None or not layer else f"{layer}.{n}" for n in (norm1, act1, conv1, *rest)]
        return cls(layer, *names, **options)


class _Params(NamedTuple):
    layers: tuple[DenseLayerParams, ...]
    in_channels: int
    rates: tuple[float, ...]  # of dropout, where it is active: per layer

    @property
    def growth(self) -> int:
        return _shape(self.layers[0])[1]

    @property
    def bottleneck(self) -> int:
        return _shape(self.layers[0])[0]


@dataclass(frozen=True)
class DenseBlockPiece(Piece):
    """One dense layer or more, all of the same widths."""

    layers: tuple[LayerPaths, ...]

    op: ClassVar[str] = "dense_block"

    def read(self, reader: Reader) -> _Params:
        rates = tuple(_dropout_rate(reader, paths) for paths in self.layers)
        layers = tuple(_read_layer(reader, paths) for paths in self.layers)
        if not layers:
            raise Decline("the block has no layers")
        channels = in_channels = layers[0].weight1.shape[1]
        growth = _shape(layers[0])[1]
        shapes = {_shape(layer) for layer in layers}
        if len(shapes) != 1:
            raise Decline(f"layers differ in (bottleneck, growth): {sorted(shapes)}")
        for paths, layer in zip(self.layers, layers, strict=True):
            if layer.weight1.shape[1] != channels:
                raise Decline(f"{paths.conv1} reads {layer.weight1.shape[1]} channels where {channels} are there")
            channels += growth
        return _Params(layers, in_channels, rates)

    def in_channels(self, params: _Params) -> int:
        return params.in_channels

    def uses_x_as_it_is(self, params: _Params) -> bool:
        return True

    def arguments(self, params: _Params) -> tuple[tuple, dict[str, Any]]:
        return (params.layers,), {}

    def reference(self, x: Tensor, params: _Params) -> Tensor:
        return reference.dense_block(x, params.layers)

    def pack(self, params: _Params, dtype: torch.dtype, winograd: int) -> Any:
        return pack_dense_block(params.layers, dtype, winograd)

    def run(self, x: Tensor, packed: Any, backend: str) -> Tensor:
        buffer = None if torch.compiler.is_compiling() else claim_room(x, packed.out_channels)
        return run_dense_block(x, packed, backend) if buffer is None else run_dense_block_(buffer, packed, backend)

    def train(self, params: _Params, flow: Flow, winograd: int) -> Flow:
        flow = flow.plain(flow.materialise()) if flow.norm is not None or flow.act != "none" else flow
        x = flow.raw
        stages = [
            stage for layer in params.layers for stage in ((layer.bn1, layer.weight1), (layer.bn2, layer.weight2))
        ]
        stages = [(norm, weight) for norm, weight in stages if norm is not None]
        if any(norm.batch for norm, _ in stages):
            check_batch(x)
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        tensors, frozen = [], []
        for norm, weight in stages:
            tensors += [_vector(norm.weight, exact), _vector(norm.bias, exact), weight.to(x.dtype)]
            frozen += [None if norm.batch else _vector(t, exact) for t in (norm.running_mean, norm.running_var)]
        eps, masks = [norm.eps for norm, _ in stages], _dropout_masks(flow, params)
        out = training.dense_block_train(
            x, tensors, eps, frozen, masks, params.growth, params.bottleneck,
            mean=flow.mean, var=flow.var, winograd=choose_algo(winograd, (3, 3), x.dtype),
        )  # fmt: skip
        self._note(flow, params, out)
        return Flow(out.buffer, flow.forward, out.mean, out.var)

    def _note(self, flow: Flow, params: _Params, out: DenseBlockOut) -> None:
        """Each layer's norms have seen what was in the buffer when the layer ran."""
        count, channels = flow.raw.numel() // flow.raw.shape[1], params.in_channels
        for i, layer in enumerate(params.layers):
            if layer.bn1.batch:
                flow.forward.note(layer.bn1, out.mean[:channels], out.var[:channels], count)
            if layer.bn2 is not None and layer.bn2.batch:
                flow.forward.note(layer.bn2, out.middle_mean[i], out.middle_var[i], count)
            channels += params.growth

    def run_channels_last(self, x: Tensor, packed: Any, backend: str) -> Tensor:
        # The prefix of a buffer is channels innermost as it is: making it dense would lose the room behind it.
        buffer = claim_room(x, packed.out_channels)
        if buffer is None:
            return run_dense_block(x.contiguous(memory_format=torch.channels_last), packed, backend)
        return run_dense_block_(buffer, packed, backend)


def _dropout_masks(flow: Flow, params: _Params) -> list[Tensor | None]:
    """What `F.dropout` multiplies each layer's channels by, drawn in the layout and order that stock draws in."""
    if not any(params.rates):
        return []
    new = flow.raw[:, :1].expand(-1, params.growth, -1, -1)
    layout = torch.contiguous_format if flow.forward.nchw else torch.channels_last
    ones = torch.ones_like(new, memory_format=layout)
    return [training.dropout(ones, rate) if rate else None for rate in params.rates]


def _vector(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if t is None else t.to(dtype)


def _dropout_rate(reader: Reader, paths: LayerPaths) -> float:
    """The rate of dropout behind the layer's last convolution, 0 where it is not active."""
    layer = reader.module(paths.layer) if paths.rates and paths.layer else reader.block
    if not paths.rates or not reader.training(layer):
        return 0.0
    active = {name: rate for name in paths.rates if (rate := reader.attr(layer, name))}
    if not active:
        return 0.0
    if not reader.trains or set(active) != {"drop_rate"}:
        raise Decline(f"{paths.layer or 'the layer'} applies dropout in training mode ({', '.join(active)})")
    return active["drop_rate"]


def _read_layer(reader: Reader, paths: LayerPaths) -> DenseLayerParams:
    bn1 = _normed(reader, paths.norm1, paths.act1, paths.fn)
    conv1 = reader.conv(paths.conv1)
    if paths.conv2 is None:
        return DenseLayerParams(bn1, _weight(conv1, paths.conv1, 3))
    bn2 = _normed(reader, paths.norm2, paths.act2, paths.fn)
    return DenseLayerParams(bn1, _weight(conv1, paths.conv1, 1), bn2, _weight(reader.conv(paths.conv2), paths.conv2, 3))


def _normed(reader: Reader, norm: str, act: str | None, fn: str) -> Any:
    bn, name = reader.pre(norm, act, fn)
    if name != "relu":
        raise Decline(f"activation {name} after {norm}, not relu")
    return bn


def _weight(conv: ConvParams, path: str, kernel: int) -> Tensor:
    if not conv.keeps_size(kernel):
        raise Decline(f"{path} is not a {kernel}x{kernel} convolution of stride 1 and 'same' padding")
    if conv.bias is not None:
        raise Decline(f"{path} has a bias")
    return conv.weight


def _shape(layer: DenseLayerParams) -> tuple[int, int]:
    """Channels of the bottleneck (0: there is none), and those that the layer appends."""
    if layer.weight2 is None:
        return 0, layer.weight1.shape[0]
    return layer.weight1.shape[0], layer.weight2.shape[0]


class DenseBlock(Container, FusedModule):
    """A whole dense block on one buffer that is also its output."""

    @classmethod
    def from_stock(cls, stock: nn.Module, layers: tuple[LayerPaths, ...] | None = None, *, winograd: int = 2) -> Self:
        """Stand in for `stock`, whose forward concatenates its input with what each layer appends.

        `layers` says where each layer's children are; the default reads `stock`'s children in order, with torchvision's
        names.
        """
        if layers is None:
            names = ("norm1", "relu1", "conv1", "norm2", "relu2", "conv2")
            layers = tuple(LayerPaths.named(name, *names, rates=("drop_rate",)) for name in stock._modules)
        return cls.from_piece(stock, DenseBlockPiece(layers), winograd)


class DenseLayer(Container, FusedModule):
    """One dense layer that returns its input with the new channels behind it."""

    @classmethod
    def from_stock(cls, stock: nn.Module, paths: LayerPaths, *, winograd: int = 2) -> Self:
        """Stand in for `stock`, whose forward is `cat([x, H(x)], 1)`; `paths` says where H's children are."""
        return cls.from_piece(stock, DenseBlockPiece((paths,)), winograd)
