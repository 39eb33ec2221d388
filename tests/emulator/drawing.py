"""Random tensors for the fuzz: integer data for the exact oracle (T1), real data for the rounding bound (T2)."""

from __future__ import annotations

import random

import torch

# T2: |error| <= C * unit roundoff * sum of absolute values. Stock kernels reach 13 in fp32 and stay below 2 in half
# types.
BOUND = {torch.float32: 16.0, torch.float16: 4.0, torch.bfloat16: 4.0}
ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
TF32_ROUNDOFF = 2.0**-11
SENTINEL = -77.0


class Draw:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.exact = self.random.random() < 0.5
        self.dtype = self.random.choice([torch.float16, torch.float16, torch.bfloat16, torch.float32])
        self.tf32 = self.dtype is torch.float32 and self.random.random() < 0.5

    def pick(self, *values):
        return self.random.choice(values)

    def between(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def channels(self, limit: int) -> int:
        """Mostly whole 16-byte chunks, sometimes not; 1 up to past a tile."""
        c = self.between(1, limit if self.chance(0.4) else limit // 2)
        return c if self.chance(0.3) else max(8, c // 8 * 8)

    def depth(self, limit: int) -> int:
        """Input channels: now and then enough that a small grid splits the reduction."""
        return self.between(32, 90) * 8 if self.chance(0.15) else self.channels(limit)

    def width(self, limit: int) -> int:
        """Output channels: often more than one column tile of 128."""
        return self.between(17, 26) * 8 if self.chance(0.35) else self.channels(limit)

    def side(self, least: int, limit: int) -> int:
        """Height or width: mostly small, since emulated pixels cost time, now and then past a tile."""
        return self.between(least, least + (limit if self.chance(0.25) else min(limit, 7)))

    def values(
        self, *shape: int, low: int = -2, high: int = 2, density: float = 1.0, scale: float = 1.0
    ) -> torch.Tensor:
        """float64 values that the case's dtype holds exactly."""
        if self.exact:
            v = torch.randint(low, high + 1, shape, generator=self.generator).double()
            if density < 1:
                v = v * (torch.rand(shape, generator=self.generator) < density)
            return v
        v = torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale
        return v.to(self.dtype).double()

    def affine(self, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift of a folded batch norm: powers of two and integers for the exact oracle."""
        if self.exact:
            scale = torch.tensor([self.pick(1.0, 2.0, -1.0, 1.0) for _ in range(channels)], dtype=torch.float64)
            return scale, torch.randint(-1, 3, (channels,), generator=self.generator).double()
        spread = 10.0 ** (torch.rand(channels, generator=self.generator, dtype=torch.float64) * 2 - 1)
        scale = torch.randn(channels, generator=self.generator, dtype=torch.float64) * spread
        shift = torch.randn(channels, generator=self.generator, dtype=torch.float64)
        return scale.float().double(), shift.float().double()

    def bias(self, channels: int, positive: bool = False) -> torch.Tensor:
        if self.exact:
            return torch.randint(1 if positive else -4, 8, (channels,), generator=self.generator).double()
        return torch.randn(channels, generator=self.generator, dtype=torch.float64).float().double()

    def place(
        self, values: torch.Tensor, surround: float = float("nan"), room: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`values` [N, C, H, W] in the case's dtype, channels innermost, at times a channel slice of a wider buffer
        whose other channels hold `surround`. Returns (view, whole buffer)."""
        n, c, h, w = values.shape
        before = after = 0
        if room and self.chance(0.5):
            before, after = self.pick((0, 8), (16, 0), (8, 24), (0, 5), (3, 0))
        whole = torch.full((n, h, w, before + c + after), surround, dtype=self.dtype)
        view = whole[..., before : before + c].permute(0, 3, 1, 2)
        view.copy_(values)
        return view, whole


def pack(weight: torch.Tensor, dtype: torch.dtype, flat: bool = False) -> torch.Tensor:
    """[O, C, kh, kw] -> [taps, O, row] (flat: [O, row] over (ky, kx, c)), rows in whole 16-byte chunks."""
    chunk = 16 // torch.empty((), dtype=dtype).element_size()
    o, c, kh, kw = weight.shape
    if flat:
        rows = weight.permute(0, 2, 3, 1).reshape(o, kh * kw * c)
    else:
        rows = weight.permute(2, 3, 0, 1).reshape(kh * kw, o, c)
    packed = torch.zeros(*rows.shape[:-1], (rows.shape[-1] + chunk - 1) // chunk * chunk, dtype=dtype)
    packed[..., : rows.shape[-1]] = rows.to(dtype)
    return packed.contiguous()


def pack_depthwise(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[C, 1, kh, kw] -> [taps, row], rows in whole 16-byte chunks."""
    chunk = 16 // torch.empty((), dtype=dtype).element_size()
    c = weight.shape[0]
    rows = weight.reshape(c, -1).t()
    packed = torch.zeros(rows.shape[0], (c + chunk - 1) // chunk * chunk, dtype=dtype)
    packed[:, :c] = rows.to(dtype)
    return packed


def activation(x: torch.Tensor, act: str) -> torch.Tensor:
    f = torch.nn.functional
    return {"none": lambda v: v, "relu": f.relu, "relu6": f.relu6, "hardswish": f.hardswish, "silu": f.silu}[act](x)


def compare(draw: Draw, got: torch.Tensor, want: torch.Tensor, magnitude: torch.Tensor, what: str) -> None:
    """T1: bitwise the rounded exact result. T2: within the bound, elementwise."""
    if draw.exact:
        expected = want.to(draw.dtype)
        wrong = got != expected
        assert not wrong.any(), (
            f"{what}: {int(wrong.sum())} of {wrong.numel()} differ from the exact result, "
            f"first at {wrong.nonzero()[0].tolist()}: got {got[wrong][0]}, want {expected[wrong][0]}"
        )
        return
    roundoff = TF32_ROUNDOFF if draw.tf32 else ROUNDOFF[draw.dtype]
    factor = 4.0 if draw.tf32 else BOUND[draw.dtype]
    error = (got.double() - want).abs()
    limit = factor * roundoff * magnitude + torch.finfo(draw.dtype).smallest_normal
    worst = (error / limit).max().item() if error.numel() else 0.0
    assert torch.isfinite(got).all(), f"{what}: not finite"
    assert worst <= 1, f"{what}: error is {worst:.2f} times the bound"
