"""What the native training kernels are judged by: the reference in float64 with autograd, and the magnitude S of every
element by the kernels' own formulas on absolute values.

Upstream gradients are random. Values are drawn so that no activation input lies within rounding of a kink, where either
side is right.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import lightops
from lightops import _ext
from lightops.ops._dispatch import tensors_in
from lightops.reference import ACTIVATIONS
from lightops.testing.compare import bitwise_equal, check_bounded, check_exact
from lightops.testing.layouts import Guarded, poisoned_outputs
from lightops.testing.tolerances import chain_factor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SLOPE = {"none": 1.0, "relu": 1.0, "relu6": 1.0, "hardswish": 1.5, "silu": 1.1}
# A kernel's dx is the end of two passes, with a rounding to the storage type between them.
DX_FACTOR = 2.0


class Norm(NamedTuple):
    """The prologue's vectors in the accumulation dtype, eps and act; mean None: no norm."""

    mean: Tensor | None
    var: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    eps: float
    act: str
    batch: bool

    def flat(self) -> tuple:
        return self.mean, self.var, self.gamma, self.beta, self.eps, ACTIVATIONS.index(self.act)

    def double(self) -> "Norm":
        return Norm(*(t.double() if isinstance(t, Tensor) else t for t in self))


def accumulate(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def row(t: Tensor | None, otherwise: float = 0.0) -> Tensor:
    return torch.tensor(otherwise, dtype=torch.float64) if t is None else t.double()[:, None, None]


def draw(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    act: str,
    *,
    seed: int = 0,
    batch: bool = True,
    affine: bool = True,
    norm: bool = True,
) -> tuple[Tensor, Norm]:
    """A raw tensor and its norm: channel means about one, variances from 1e-4 to 1e4 around them."""
    g = torch.Generator().manual_seed(seed)
    c, to = shape[1], accumulate(dtype)
    spread = 10 ** (torch.rand(c, generator=g, dtype=torch.float64) * 4 - 2)
    center = torch.randn(c, generator=g, dtype=torch.float64)
    if dtype in (torch.float16, torch.bfloat16) or not norm:
        spread = torch.ones(c, dtype=torch.float64)
    x = torch.randn(shape, generator=g, dtype=torch.float64) * row(spread) + row(center * spread)
    gamma = torch.randn(c, generator=g, dtype=torch.float64).to(to) if affine and norm else None
    beta = torch.randn(c, generator=g, dtype=torch.float64).to(to) if affine and norm else None
    x = x.to(dtype)
    mean = var = None
    if norm and not batch:
        mean, var = (center * spread + 0.1 * spread).to(to), (1.3 * spread**2).to(to)
    made = Norm(mean, var, gamma, beta, 1e-5, act, batch and norm)
    for _ in range(4):  # moving a value moves the batch statistics a little
        made = _with_statistics(x, made)
        x = _off_kinks(x, made)
    made = _with_statistics(x, made)
    return x.contiguous(memory_format=torch.channels_last), made


def _with_statistics(x: Tensor, n: Norm) -> Norm:
    if not n.batch:
        return n
    mean, var = x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), correction=0)
    return n._replace(mean=mean.to(accumulate(x.dtype)), var=var.to(accumulate(x.dtype)))


def _off_kinks(x: Tensor, n: Norm) -> Tensor:
    """x with values whose z is close to a kink moved by a fortieth of a deviation."""
    kinks = {"relu": (0.0,), "relu6": (0.0, 6.0), "hardswish": (-3.0, 3.0)}.get(n.act, ())
    z = affine(x.double(), n)
    close = torch.zeros_like(z, dtype=torch.bool)
    for kink in kinks:
        close |= (z - kink).abs() < 1e-3 * (1 + magnitude_affine(x.double(), n) * 1e-3)
    step = (row(n.var, 1.0) + n.eps).sqrt() / 40
    return torch.where(close, x.double() + step, x.double()).to(x.dtype)


def affine(x: Tensor, n: Norm) -> Tensor:
    if n.mean is None:
        return x
    return (x - row(n.mean)) * (row(n.gamma, 1.0) / (row(n.var) + n.eps).sqrt()) + row(n.beta)


def magnitude_affine(x: Tensor, n: Norm) -> Tensor:
    if n.mean is None:
        return x.abs()
    return (x.abs() + row(n.mean).abs()) * row(n.gamma, 1.0).abs() / (row(n.var) + n.eps).sqrt() + row(n.beta).abs()


def magnitude_u(x: Tensor, n: Norm) -> Tensor:
    return magnitude_affine(x.double(), n) * SLOPE[n.act]


def magnitude_norm_backward(x: Tensor, n: Norm, s_du: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """S of dx, dgamma and dbeta, given that of du."""
    s_dz = s_du * SLOPE[n.act]
    if n.act in ("hardswish", "silu"):  # their slope is a function of z, itself rounded
        s_dz = s_dz * (1 + magnitude_affine(x.double(), n))
    if n.mean is None:
        return s_dz, torch.empty(0), torch.empty(0)
    inverse = (row(n.var) + n.eps).rsqrt()
    s_hat = (x.double().abs() + row(n.mean).abs()) * inverse
    s_gamma, s_beta = (s_dz * s_hat).sum((0, 2, 3)), s_dz.sum((0, 2, 3))
    gain = row(n.gamma, 1.0).abs() * inverse
    s_dx = gain * s_dz
    if n.batch:
        count = x.numel() / x.shape[1]
        s_dx = s_dx + gain * (row(s_beta) + s_hat * row(s_gamma)) / count
    return s_dx, s_gamma, s_beta


def gradients(forward, inputs: list[Tensor | None], dy: Tensor) -> list[Tensor | None]:
    """d(sum(forward(*inputs) * dy)) in float64; None for inputs that are None."""
    leaves = [None if t is None else t.detach().double().requires_grad_() for t in inputs]
    present = [t for t in leaves if t is not None]
    out = forward(*leaves)
    found = iter(torch.autograd.grad(out, present, dy.double(), allow_unused=True))
    return [None if t is None else _or_zeros(next(found), t) for t in leaves]


def _or_zeros(g: Tensor | None, t: Tensor) -> Tensor:
    return torch.zeros_like(t) if g is None else g


def upstream(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 7) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    dy = torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
    return dy.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else dy


def whole(shape: tuple[int, ...], limit: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Whole numbers up to `limit` in size."""
    g = torch.Generator().manual_seed(seed)
    t = torch.randint(-limit, limit + 1, shape, generator=g).to(dtype)
    return t.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else t


def exact_norm(channels: int, act: str, dtype: torch.dtype, seed: int = 3) -> Norm:
    """A frozen norm whose scale is a power of two and whose shift is whole."""
    g = torch.Generator().manual_seed(seed)
    to = accumulate(dtype)
    powers = torch.tensor([0.5, 1.0, -1.0, 2.0])[torch.randint(0, 4, (channels,), generator=g)].to(to)
    mean = torch.randint(-2, 3, (channels,), generator=g).to(to)
    beta = torch.randint(-2, 3, (channels,), generator=g).to(to)
    return Norm(mean, torch.full((channels,), 0.25, dtype=to), powers, beta, 0.0, act, False)


def run(op: str, *args):
    """The native op on poisoned memory; its inputs must come back unchanged."""
    before = [a.clone() if isinstance(a, Tensor) else None for a in args]
    with poisoned_outputs():
        out = getattr(torch.ops.lightops, op)(*args)
    for a, b in zip(args, before, strict=True):
        if b is not None:
            assert bitwise_equal(a, b.as_strided(a.shape, b.stride())) or torch.equal(a, b), f"{op} wrote an input"
    return out


def bounded(actual: Tensor, expected: Tensor | None, magnitude: Tensor, terms: int = 1, factor: float = 1.0) -> float:
    assert expected is not None
    return check_bounded(actual, expected, magnitude, factor=factor * chain_factor(terms))


def exact(actual: Tensor, expected: Tensor) -> None:
    check_exact(actual, expected)


Judge = Callable[[Tensor, Tensor | None, Tensor, int, float], object]


def judge_bounded(actual: Tensor, expected: Tensor | None, magnitude: Tensor, terms: int, factor: float) -> None:
    """T2, as a `Judge`."""
    bounded(actual, expected, magnitude.detach(), terms, factor)


def judge_exact(actual: Tensor, expected: Tensor | None, magnitude: Tensor, terms: int, factor: float) -> None:
    """T1, as a `Judge`."""
    del magnitude, terms, factor
    exact(actual, expected)


def check_norm_gradients(
    results: Sequence[Tensor],
    expected: Sequence[Tensor | None],
    x: Tensor,
    n: Norm,
    s_du: Tensor,
    judge: Judge,
    *,
    terms: int = 0,
    factor: float = 1.0,
) -> None:
    """dx, dgamma and dbeta of a prologue, given S of du; `terms` and `factor` are those of du."""
    dx, dgamma, dbeta = results
    assert dx.is_contiguous(memory_format=torch.channels_last)
    s_dx, s_gamma, s_beta = magnitude_norm_backward(x, n, s_du)
    terms += x.numel() // x.shape[1]
    judge(dx, expected[0], s_dx, terms, DX_FACTOR * factor)
    if n.gamma is None:
        assert dgamma.numel() == dbeta.numel() == (0 if n.mean is None else x.shape[1])
    else:
        judge(dgamma, expected[1], s_gamma, terms, factor)
        judge(dbeta, expected[2], s_beta, terms, factor)


def sliced(t: Tensor) -> Guarded:
    """t as a channel slice of a wider buffer that is NaN elsewhere."""
    return Guarded(t, "slice")


ISAS = [isa for isa in _ext.isas_built() if _ext.cpu_supports(isa)]


@contextmanager
def isa(name: str) -> Iterator[None]:
    """The kernels of one instruction set."""
    select = ctypes.CDLL(str(Path(lightops.__file__).with_name("_ops.so"))).lightops_select_isa
    select.restype = ctypes.c_bool
    assert select(name.encode())
    try:
        yield
    finally:
        select(_ext.isa().encode())


def check_threads(op: str, *args) -> None:
    """Bitwise the same with 1, 2, 3 and 4 threads."""
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            results.append(list(tensors_in(run(op, *args))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert bitwise_equal(a, b), f"{op} depends on the number of threads"
