"""The batch norm of a training case and the fp64 truth of its two directions, each with the magnitude of its error."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
from drawing import BOUND, ROUNDOFF, Draw, activation
from harness import ACT_CODES, pointer
from torch import Tensor

KINKS = {"relu": (0.0,), "relu6": (0.0, 6.0), "hardswish": (-3.0, 3.0)}
SLOPE_AT_MOST = {"none": 1.0, "relu": 1.0, "relu6": 1.0, "hardswish": 1.5, "silu": 1.1}


def channel(v: Tensor) -> Tensor:
    return v.view(1, -1, 1, 1)


def sums(t: Tensor) -> Tensor:
    return t.sum((0, 2, 3))


@dataclass
class Norm:
    """Vectors in float32, as the kernels read them; mean None: no norm."""

    mean: Tensor | None
    var: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    eps: float
    act: str
    batch: bool

    def fields(self) -> list[int]:
        eps = struct.unpack("q", struct.pack("d", self.eps))[0]
        return [*map(pointer, (self.mean, self.var, self.gamma, self.beta)), eps, int(self.batch)]

    def schema(self) -> tuple:
        return self.mean, self.var, self.gamma, self.beta, self.eps, ACT_CODES[self.act]

    def vectors(self) -> dict[str, Tensor | None]:
        return {"mean": self.mean, "var": self.var, "gamma": self.gamma, "beta": self.beta}

    def text(self) -> str:
        return f"{self.act} {'no norm' if self.mean is None else 'batch' if self.batch else 'frozen'}"

    def column(self, name: str, otherwise: float = 0.0) -> Tensor:
        v = getattr(self, name)
        return channel(torch.tensor([otherwise], dtype=torch.float64) if v is None else v.double())

    def inverse(self) -> Tensor:
        return (
            torch.ones(1, 1, 1, 1, dtype=torch.float64) if self.var is None else (self.column("var") + self.eps).rsqrt()
        )

    def z(self, x: Tensor) -> Tensor:
        return (x - self.column("mean")) * self.inverse() * self.column("gamma", 1.0) + self.column("beta")

    def z_size(self, x: Tensor) -> Tensor:
        size = (x.abs() + self.column("mean").abs()) * self.inverse() * self.column("gamma", 1.0).abs()
        return size + self.column("beta").abs()

    def u(self, x: Tensor) -> Tensor:
        return activation(self.z(x), self.act)


def draw_norm(d: Draw, x: Tensor, acts: tuple[str, ...] = ("relu", "none", "relu6", "hardswish", "silu")) -> Norm:
    """For the exact oracle frozen: a standard deviation of a half, whole means, scales of powers of two."""
    c = x.shape[1]
    act = d.pick(*(a for a in acts if not d.exact or a in ("relu", "none", "relu6")))
    if d.chance(0.15):
        return Norm(None, None, None, None, 0.0, act, False)
    if d.exact:
        whole = lambda low, high: torch.randint(low, high, (c,), generator=d.generator).float()  # noqa: E731
        gamma = torch.tensor([d.pick(0.5, 1.0, -0.5, 0.5) for _ in range(c)]) if d.chance(0.8) else None
        return Norm(
            whole(-2, 3), torch.full((c,), 0.25), gamma, whole(-2, 3) if d.chance(0.8) else None, 0.0, act, False
        )
    random = lambda: torch.randn(c, generator=d.generator)  # noqa: E731
    gamma, beta = (random(), random()) if d.chance(0.8) else (None, None)
    if d.chance(0.7):
        return Norm(x.mean((0, 2, 3)).float(), x.var((0, 2, 3), correction=0).float(), gamma, beta, 1e-5, act, True)
    return Norm(random(), torch.rand(c, generator=d.generator) + 0.1, gamma, beta, 1e-3, act, False)


def spread(d: Draw, x: Tensor) -> Tensor:
    """Real data with a mean and a deviation of each channel's own."""
    if d.exact:
        return x
    c = x.shape[1]
    wide = 10.0 ** (torch.rand(c, generator=d.generator, dtype=torch.float64) * 2 - 1)
    center = torch.randn(c, generator=d.generator, dtype=torch.float64) * 2
    return ((x + channel(center)) * channel(wide)).to(d.dtype).double()


def slope(z: Tensor, act: str) -> Tensor:
    if act == "none":
        return torch.ones_like(z)
    if act == "relu":
        return (~(z <= 0)).double()  # a NaN passes the gradient, as in torch
    if act == "relu6":
        return (~((z <= 0) | (z >= 6))).double()
    if act == "hardswish":
        return torch.where(z <= -3, 0.0, torch.where(z >= 3, 1.0, z / 3 + 0.5)).double()
    gate = torch.sigmoid(z)
    return gate * (1 + z * (1 - gate))


@dataclass
class Backward:
    """dz and what follows from it. The `_size` is what the error is measured against, in units of `unit`."""

    dz: Tensor
    dz_size: Tensor
    dx: Tensor
    dx_size: Tensor
    dgamma: Tensor
    dgamma_size: Tensor
    dbeta: Tensor
    dbeta_size: Tensor


def backward(n: Norm, x: Tensor, du: Tensor, du_size: Tensor) -> Backward:
    z, z_size, inverse = n.z(x), n.z_size(x), n.inverse()
    dz = du * slope(z, n.act)
    size = du_size * SLOPE_AT_MOST[n.act]
    if n.act in ("hardswish", "silu"):  # their slope is a function of z, itself rounded
        size = size * (1 + z_size)
    # Where z lies within rounding of a kink either side is right: the whole of du is the error.
    close = torch.zeros_like(z, dtype=torch.bool)
    for kink in KINKS.get(n.act, ()):
        close |= (z - kink).abs() < 8 * ROUNDOFF[torch.float32] * (z_size + abs(kink)) * (z_size > 0)
    exact = 1 / (BOUND[torch.float32] * ROUNDOFF[torch.float32])
    size = size + torch.where(close, du_size * exact, 0.0) if not _whole(x) else size
    off, off_size = x - n.column("mean"), x.abs() + n.column("mean").abs()
    count = x.numel() // x.shape[1]
    dbeta, dgamma = sums(dz), sums(dz * off * inverse)
    dbeta_size, dgamma_size = sums(size), sums(size * off_size * inverse)
    gain = n.column("gamma", 1.0) * inverse
    dx, dx_size = gain * dz, gain.abs() * size
    if n.batch:
        dx = dx - gain * (channel(dbeta) + off * inverse * channel(dgamma)) / count
        dx_size = dx_size + gain.abs() * (channel(dbeta_size) + off_size * inverse * channel(dgamma_size)) / count
    return Backward(dz, size, dx, dx_size, dgamma, dgamma_size, dbeta, dbeta_size)


def _whole(x: Tensor) -> bool:
    return bool((x == x.round()).all())
