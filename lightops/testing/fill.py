"""Data for a case: integers that no sum rounds (T1), or real numbers over awkward ranges (T2)."""

import torch
from torch import Tensor

from lightops.reference import BatchNormParams


class Fill:
    """Draws the tensors of one call from one seeded generator, always in the same order."""

    def __init__(self, seed: int, dtype: torch.dtype):
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def choice(self, options: list, shape: tuple[int, ...]) -> Tensor:
        index = torch.randint(len(options), shape, generator=self.generator)
        return torch.tensor(options, dtype=torch.float64)[index]

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64) * (high - low) + low

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


class ExactFill(Fill):
    """Small integers; BN scales are powers of two, of either sign.

    Everything is a multiple of 1/2 per BN, so sums are exact.

    Values lean positive, because what ReLU turns to zero is not tested. `terms` bounds how many non-zero weights meet
    in one sum.
    """

    def __init__(self, seed: int, dtype: torch.dtype, terms: int = 48):
        super().__init__(seed, dtype)
        self.terms = terms

    def x(self, shape: tuple[int, ...], bn: BatchNormParams | None = None) -> Tensor:
        return self.choice([-1, 0, 1, 2, 3], shape).to(self.dtype)

    def weight(self, shape: tuple[int, ...]) -> Tensor:
        fan_in = max(1, shape[1] * shape[2] * shape[3])
        draw = torch.rand(shape, generator=self.generator)
        keep = draw < self.terms / fan_in
        if self.terms <= 2:  # no more than that in any sum
            keep = draw.flatten(1).argsort(1).argsort(1).view(shape) < self.terms
        return (self.choice([-1, 1, 1, 2], shape) * keep).to(self.dtype)

    def bias(self, channels: int) -> Tensor:
        return self.choice([0, 1, 2, 3], (channels,)).to(self.dtype)

    def bn(self, channels: int, *, calm: bool = False) -> BatchNormParams:
        # running_var + eps is 1 or 4: the square root is exact.
        eps = 0.0625
        var = self.choice([1 - eps, 4 - eps], (channels,))
        weight = self.choice([-1, 1, 1, 1, 2], (channels,))
        mean, bias = self.choice([-2, -1, 0, 1], (channels,)), self.choice([0, 1, 2, 3], (channels,))
        return BatchNormParams(*(t.to(self.dtype) for t in (weight, bias, mean, var)), eps)


class RealFill(Fill):
    """Normal data; BN variances log-uniform over 1e-6 to 1e4, so that a wrong eps or a swapped statistic cannot hide.

    Where BN comes first, x has the mean and the variance that the BN expects. Under a half-precision x the BN stays
    float32, as autocast and `.half()` users keep it, or is of x's dtype, by draw.
    """

    def __init__(self, seed: int, dtype: torch.dtype):
        super().__init__(seed, dtype)
        half = dtype in (torch.float16, torch.bfloat16)
        self.bn_dtype = torch.float32 if half and bool(self.choice([0, 1], ()).item()) else dtype
        # Half of float16's range would be lost to channels scaled by 1e3; its smallest variance is chosen so that
        # nothing overflows.
        self.log_var = (-1.0, 4.0) if dtype == torch.float16 else (-6.0, 4.0)

    def x(self, shape: tuple[int, ...], bn: BatchNormParams | None = None) -> Tensor:
        values = self.normal(shape)
        if bn is not None:
            expand = (1, -1, 1, 1)
            values = values * bn.running_var.double().sqrt().view(expand) + bn.running_mean.double().view(expand)
        return values.to(self.dtype)

    def weight(self, shape: tuple[int, ...]) -> Tensor:
        fan_in = max(1, shape[1] * shape[2] * shape[3])
        return (self.normal(shape) / fan_in**0.5).to(self.dtype)

    def bias(self, channels: int) -> Tensor:
        return self.normal((channels,)).to(self.dtype)

    def bn(self, channels: int, *, calm: bool = False) -> BatchNormParams:
        """`calm` leaves out the smallest variances, for deep blocks whose values they would multiply by 1e2 in every
        layer."""
        low, high = self.log_var
        var = 10 ** self.uniform((channels,), max(low, -1.0) if calm else low, high)
        mean = self.normal((channels,)) * var.sqrt()
        weight, bias = self.normal((channels,)), self.normal((channels,))
        return BatchNormParams(*(t.to(self.bn_dtype) for t in (weight, bias, mean, var)), 1e-5)
