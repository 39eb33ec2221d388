"""Reading a stock block's children at call time: types and attributes are checked, tensors collected, everything read
is guarded.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightops.modules._guard import GLOBAL_HOOKS, Guard, is_hooked
from lightops.ops._dispatch import KERNEL_DTYPES
from lightops.reference import BatchNormParams, MaxPool

# Whether a block adds its input to its output, or the name of its attribute that says so.
Residual = bool | str


class Decline(Exception):
    """A block cannot be fused exactly; the message is the reason a user reads."""


class Unit(NamedTuple):
    """Where a convolution, its BN and its activation are, as dotted paths below the block.

    `fn` names the activation that the block's own forward applies where no module does.
    """

    conv: str
    norm: str | None = None
    act: str | None = None
    fn: str = "none"


class ConvParams(NamedTuple):
    """A convolution, the BN folded behind it, and the activation after both."""

    weight: Tensor
    bias: Tensor | None
    bn: BatchNormParams | None
    act: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.weight.shape[1] == 1 and self.weight.shape[0] == self.groups

    @property
    def pointwise(self) -> bool:
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1

    def keeps_size(self, kernel: int) -> bool:
        """A dense, odd, square kernel of stride 1 and 'same' padding."""
        geometry = (self.kernel, self.stride, self.padding, self.dilation, self.groups)
        return geometry == ((kernel, kernel), (1, 1), (kernel // 2, kernel // 2), (1, 1), 1)


_CONV = ("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size")
_NORM = ("training", "eps")
_CLAMP = ("min_val", "max_val")
_DROP = ("training", "p")
_TRAINING = ("training",)
_FLATTEN = ("start_dim", "end_dim")
_OUTPUT_SIZE = ("output_size",)
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")

_ACTS = {nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.SiLU: "silu", nn.Identity: "none"}
_CLAMPS = (nn.ReLU6, nn.Hardtanh)
DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout)
_TIMM_NORM_ACT = "timm.layers.norm_act.BatchNormAct2d"
TIMM_CONV_SAME = "timm.layers.conv2d_same.Conv2dSame"
_TIMM_DROP_PATH = "timm.layers.drop.DropPath"


def qualified_type(module: nn.Module) -> str:
    """`package.module.Class`: library classes are told by name, so that no library is imported to look at a model."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def activation_name(module: nn.Module) -> str | None:
    """The name of an activation module; None where it has no fused form."""
    if type(module) in _CLAMPS:
        return "relu6" if (module.min_val, module.max_val) == (0, 6) else None
    return _ACTS.get(type(module))


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class Reader:
    """Reads the children of one block. What it returns is current; what it read is in `guard`.

    With `any_mode` training flags are not looked at: whether the block could be fused in evaluation.
    """

    trains = False  # whether norms in training mode and dropout can be read

    def __init__(self, block: nn.Module, *, any_mode: bool = False):
        self.block = block
        self.any_mode = any_mode
        self.guard = Guard()
        self.weights: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.dropouts: list[nn.Module] = []  # active ones among the neutral children
        self._seen: dict[str, nn.Module] = {}
        self._eager = self._guarded = not torch.compiler.is_compiling()
        if any(GLOBAL_HOOKS):
            raise Decline("a global module hook is registered")

    def module(self, path: str) -> nn.Module:
        """The module at `path`, "" for the block; every module on the way must be unhooked and run its class's own
        forward."""
        if path in self._seen:
            return self._seen[path]
        if not path:  # who calls the block sees to its hooks
            if "forward" in self.block.__dict__:
                raise Decline("its forward is overridden")
            return self.block
        above, _, key = path.rpartition(".")
        parent = self.module(above) if above else self.block
        module = parent._modules.get(key)
        if module is None:
            raise Decline(f"{path} is missing")
        if is_hooked(module):
            raise Decline(f"{path} has a hook")
        if "forward" in module.__dict__:
            raise Decline(f"{path} has its forward overridden")
        if self._guarded:
            self.guard.watch_module(parent, key, module)
        self._seen[path] = module
        return module

    def attrs(self, module: nn.Module, names: tuple[str, ...]) -> tuple:
        """Attributes of a module, watched."""
        values = tuple(getattr(module, name) for name in names)
        if self._guarded:
            self.guard.watch_attrs(module, names, values)
        return values

    def tensor(self, path: str, module: nn.Module, name: str, *, buffer: bool = False) -> Tensor | None:
        kind = "_buffers" if buffer else "_parameters"
        holder = module.__dict__[kind]
        if name not in holder:
            raise Decline(f"{path}.{name} is not a {'buffer' if buffer else 'parameter'}")
        tensor = holder[name]
        if self._eager:
            if tensor is not None and type(tensor) not in (Tensor, nn.Parameter):
                raise Decline(f"{path}.{name} is a {type(tensor).__name__}")
            if tensor is not None and tensor.is_inference():
                # Packing at every call would be right too, but takes several times the stock forward.
                raise Decline(
                    f"{path}.{name} was made in inference mode, where edits are not counted "
                    "(build, copy and cast the model outside torch.inference_mode)"
                )
        if self._guarded:
            self.guard.watch_tensor(module, kind, name)
        return tensor

    def conv(self, path: str) -> ConvParams:
        """A zero-padded `nn.Conv2d`, as ConvParams without BN and activation."""
        module = self.module(path)
        same = type(module) is not nn.Conv2d
        if same and qualified_type(module) != TIMM_CONV_SAME:
            raise Decline(f"{path} is {_describe(module, 'Conv2d')}")
        stride, padding, dilation, groups, mode, kernel = self.attrs(module, _CONV)
        if mode != "zeros":
            raise Decline(f"{path} has padding_mode={mode!r}")
        if same:
            padding = "same"
        if isinstance(padding, str):
            padding = _string_padding(path, padding, kernel, stride, dilation, same)
        if min(*stride, *dilation) < 1 or min(padding) < 0:
            raise Decline(f"{path} has stride {stride}, padding {padding}, dilation {dilation}, which stock refuses")
        weight = self.tensor(path, module, "weight")
        bias = self.tensor(path, module, "bias")
        if weight is None:
            raise Decline(f"{path}.weight is None")
        self.weights += [weight] if bias is None else [weight, bias]
        return ConvParams(
            weight, bias, None, "none", tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups
        )

    def norm(self, path: str) -> tuple[BatchNormParams, str]:
        """BN in evaluation mode on its running statistics, and the activation a combined norm-act module applies after
        it.
        """
        module, act = self.norm_module(path)
        training, eps = self.attrs(module, _NORM)
        if training and not self.any_mode:
            raise Decline(f"{path} is in training mode")
        weight, bias = self.tensor(path, module, "weight"), self.tensor(path, module, "bias")
        mean = self.tensor(path, module, "running_mean", buffer=True)
        var = self.tensor(path, module, "running_var", buffer=True)
        if mean is None or var is None:
            raise Decline(f"{path} has no running statistics")
        self._take_norm(path, eps, weight, bias, mean, var)
        if self._eager and mean.device.type != "meta":
            # Folded into the weights, an infinite scale would turn sums of either sign into NaN.
            infinite = weight is not None and bool(weight.isinf().any())
            if infinite or (eps == 0 and bool((var == 0).any())):
                raise Decline(f"{path} scales by infinity")
        return BatchNormParams(weight, bias, mean, var, eps), act

    def _take_norm(self, path: str, eps: float, *vectors: Tensor | None) -> None:
        """The vectors of a norm, after what stock would refuse them for."""
        present = [t for t in vectors if t is not None]
        if eps < 0:
            raise Decline(f"{path} has eps={eps}")
        if len({t.numel() for t in present}) > 1:
            raise Decline(f"{path} has vectors of {' and '.join(str(t.numel()) for t in present)} channels")
        self.norms += present

    def norm_module(self, path: str) -> tuple[nn.Module, str]:
        """The BN at `path`, and the activation that it contains if it is a combined norm-act module."""
        module = self.module(path)
        if type(module) is nn.BatchNorm2d:
            return module, "none"
        if qualified_type(module) == _TIMM_NORM_ACT:
            self.inactive(f"{path}.drop")
            return module, self.act(f"{path}.act")
        raise Decline(f"{path} is {_describe(module, 'BatchNorm2d')}")

    def act(self, path: str) -> str:
        """The name of the activation at `path`."""
        module = self.module(path)
        if type(module) in _CLAMPS:
            self.attrs(module, _CLAMP)
        name = activation_name(module)
        if name is None:
            raise Decline(f"{path} is {type(module).__name__}, which has no fused form")
        return name

    def unit(self, unit: Unit) -> ConvParams:
        """A convolution with the BN and activation that follow it."""
        conv = self.conv(unit.conv)
        bn, act = self.norm(unit.norm) if unit.norm else (None, "none")
        channels = conv.weight.shape[0]
        if bn is not None and any(t is not None and t.numel() != channels for t in bn[:4]):
            raise Decline(f"{unit.norm} is not of the {channels} channels of {unit.conv}")
        return conv._replace(bn=bn, act=self.then(act, unit.act, unit.fn))

    def pre(self, norm: str, act: str | None, fn: str = "none") -> tuple[BatchNormParams, str]:
        """A BN and the activation that follows it."""
        bn, inner = self.norm(norm)
        return bn, self.then(inner, act, fn)

    def then(self, first: str, path: str | None, fn: str) -> str:
        """One activation out of the up to three places it may be in; two in a row have no fused form."""
        acts = [a for a in (first, self.act(path) if path else "none", fn) if a != "none"]
        if len(acts) > 1 and set(acts) != {"relu"}:
            raise Decline(f"{' and '.join(acts)} follow each other")
        return acts[0] if acts else "none"

    def inactive(self, path: str) -> None:
        """A module that does nothing in evaluation: Identity, or dropout that is switched off."""
        module = self.module(path)
        if type(module) is nn.Identity:
            return
        if type(module) in DROPOUTS:
            training, p = self.attrs(module, _DROP)
            if training and p and not self.any_mode:
                raise Decline(f"{path} (dropout) is in training mode")
            return
        if qualified_type(module) == _TIMM_DROP_PATH:
            if self.training(module):
                raise Decline(f"{path} (drop path) is in training mode")
            return
        raise Decline(f"{path} is {type(module).__name__}, which is not neutral in evaluation")

    def max_pool_window(self, path: str) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool]:
        """Kernel, stride and padding of a max-pool as (rows, columns), and its ceil mode."""
        module = self.module(path)
        if type(module) is not nn.MaxPool2d:
            raise Decline(f"{path} is {_describe(module, 'MaxPool2d')}")
        kernel, stride, padding, dilation, ceil_mode, indices = self.attrs(module, _MAX_POOL)
        if indices or pair(dilation) != (1, 1):
            raise Decline(f"{path} is a max-pool with indices or dilation")
        return pair(kernel), pair(stride), pair(padding), ceil_mode

    def max_pool(self, path: str) -> MaxPool:
        *sizes, ceil_mode = self.max_pool_window(path)
        if any(a != b for a, b in sizes):
            raise Decline(f"{path} is a max-pool with an oblong window")
        return MaxPool(*(a for a, _ in sizes), ceil_mode)

    def halving_pool(self, path: str) -> None:
        """A plain 2x2 average pool."""
        module = self.module(path)
        if type(module) is not nn.AvgPool2d:
            raise Decline(f"{path} is {_describe(module, 'AvgPool2d')}")
        kernel, stride, padding, ceil_mode, _, divisor = self.attrs(module, _AVG_POOL)
        if (pair(kernel), pair(stride), pair(padding)) != ((2, 2), (2, 2), (0, 0)) or ceil_mode or divisor:
            raise Decline(f"{path} is not a plain 2x2 average pool")

    def global_pool(self, path: str) -> None:
        """An average pool to 1x1."""
        module = self.module(path)
        if type(module) is not nn.AdaptiveAvgPool2d:
            raise Decline(f"{path} is {_describe(module, 'AdaptiveAvgPool2d')}")
        (size,) = self.attrs(module, _OUTPUT_SIZE)
        if size not in (1, (1, 1), [1, 1]):
            raise Decline(f"{path} pools to {size}, not to 1x1")

    def flatten(self, path: str) -> None:
        """A Flatten of everything behind the batch."""
        module = self.module(path)
        if type(module) is not nn.Flatten or self.attrs(module, _FLATTEN) != (1, -1):
            raise Decline(f"{path} is not Flatten(1)")

    def linear(self, path: str) -> tuple[Tensor, Tensor | None]:
        module = self.module(path)
        if type(module) is not nn.Linear:
            raise Decline(f"{path} is {_describe(module, 'Linear')}")
        weight, bias = self.tensor(path, module, "weight"), self.tensor(path, module, "bias")
        self.weights += [weight] if bias is None else [weight, bias]
        return weight, bias

    def residual(self, residual: Residual) -> bool:
        """The residual flag, read from the block's attribute where it is a name."""
        return bool(self.block_attr(residual)) if isinstance(residual, str) else residual

    def block_attr(self, name: str) -> Any:
        """An attribute of the block itself."""
        return self.attr(self.block, name)

    def attr(self, module: nn.Module, name: str) -> Any:
        if name not in module.__dict__:
            raise Decline(f"{type(module).__name__} has no attribute {name!r}")
        return self.attrs(module, (name,))[0]

    def training(self, module: nn.Module) -> bool:
        return self.attrs(module, _TRAINING)[0] and not self.any_mode

    def finish(self) -> Guard:
        """Check that the tensors agree in dtype and device as stock needs them to, and hand over the guard."""
        dtypes = {t.dtype for t in self.weights or self.norms}
        devices = {t.device for t in (*self.weights, *self.norms)}
        if not dtypes:
            return self.guard
        if len(dtypes) > 1 or len(devices) > 1:
            raise Decline(f"parameters differ in dtype or device: {', '.join(sorted(map(str, dtypes | devices)))}")
        dtype = next(iter(dtypes))
        if dtype not in KERNEL_DTYPES:
            raise Decline(f"parameters are {dtype}")
        allowed = {dtype, torch.float32} if dtype in (torch.float16, torch.bfloat16) else {dtype}
        for tensor in self.norms:
            if tensor.dtype not in allowed:
                raise Decline(f"a BN tensor is {tensor.dtype} beside {dtype} convolutions")
        self.guard.dtype, self.guard.device = dtype, next(iter(devices))
        return self.guard


def _describe(module: nn.Module, wanted: str) -> str:
    name = type(module).__name__
    if hasattr(module, "parametrizations"):
        return f"{name}: parametrised {wanted}"
    return f"{name}, not {wanted}"


def _string_padding(path: str, padding: str, kernel: Any, stride: Any, dilation: Any, dynamic: bool) -> tuple[int, int]:
    """'valid' and the symmetric cases of 'same' as numbers. TensorFlow's dynamic 'same' is symmetric only at
    stride 1.
    """
    if padding == "valid":
        return 0, 0
    if dynamic and any(s != 1 and k != 1 for s, k in zip(stride, kernel, strict=True)):
        raise Decline(f"{path} pads by input size (TensorFlow 'same' at stride {tuple(stride)})")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(t % 2 for t in total):
        raise Decline(f"{path} pads one side more than the other")
    return total[0] // 2, total[1] // 2
