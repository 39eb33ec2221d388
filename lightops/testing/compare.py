"""The comparisons of the tolerance policy.

Each raises AssertionError with the worst element; the bounded one returns its worst ratio.
"""

import torch
from torch import Tensor

from lightops.testing.tolerances import BOUND, NETWORK_ATOL, NETWORK_RTOL, SUBNORMAL, UNIT_ROUNDOFF


def check_exact(actual: Tensor, expected: Tensor) -> None:
    """T1: `actual` equals the float64 `expected` rounded once to its dtype, NaN equal to NaN.

    The sign of a zero is free.
    """
    _check_shape(actual, expected)
    rounded = expected.to(actual.dtype)
    wrong = ~((actual == rounded) | (actual.isnan() & rounded.isnan()))
    if wrong.any():
        raise AssertionError(f"{int(wrong.sum())} of {wrong.numel()} elements differ; {_first(wrong, actual, rounded)}")


def check_bounded(actual: Tensor, expected: Tensor, magnitude: Tensor, *, factor: float = 1.0) -> float:
    """T2: `|actual - expected| <= factor * c * u * magnitude`, NaN and infinities at equal places.

    Returns the largest error over `u * magnitude`.
    """
    _check_shape(actual, expected)
    check_nonfinite(actual, expected)
    if not actual.numel():
        return 0.0
    dtype = actual.dtype
    finite = expected.to(dtype).isfinite()
    error = torch.where(finite, (actual.double() - expected).abs(), 0.0)
    unit = UNIT_ROUNDOFF[dtype] * torch.where(finite, magnitude, 0.0) + SUBNORMAL[dtype] / BOUND[dtype]
    wrong = error > factor * BOUND[dtype] * unit
    if wrong.any():
        ratio = torch.where(wrong, error / unit, 0.0)
        worst = ratio == ratio.max()
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} elements beyond {factor * BOUND[dtype]:g} u S, "
            f"the worst at {float(ratio.max()):.3g} u S; " + _first(worst, actual, expected)
        )
    return float((error / unit).max())


def check_nonfinite(actual: Tensor, expected: Tensor) -> None:
    """NaN, +Inf and -Inf stand at the same places; an infinity that is only the rounding of a finite `expected` counts
    as one."""
    rounded = expected.to(actual.dtype)
    for name, found, wanted in (
        ("NaN", actual.isnan(), rounded.isnan()),
        ("+Inf", actual.isposinf(), rounded.isposinf()),
        ("-Inf", actual.isneginf(), rounded.isneginf()),
    ):
        wrong = found != wanted
        if wrong.any():
            raise AssertionError(
                f"{name} at {int(found.sum())} places, want {int(wanted.sum())}; {_first(wrong, actual, rounded)}"
            )


def check_network(actual: Tensor, expected: Tensor) -> None:
    """T3: two float64 results of a whole network."""
    _check_shape(actual, expected)
    atol = NETWORK_ATOL * expected.abs().max().clamp(min=1).item()
    torch.testing.assert_close(actual, expected, rtol=NETWORK_RTOL, atol=atol, equal_nan=True)


def bitwise_equal(a: Tensor, b: Tensor) -> bool:
    """Same shape, dtype, strides and bits, NaN payloads and signs of zeros included."""
    if a.shape != b.shape or a.dtype != b.dtype or a.stride() != b.stride():
        return False
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))


def _check_shape(actual: Tensor, expected: Tensor) -> None:
    if actual.shape != expected.shape:
        raise AssertionError(f"shape {list(actual.shape)}, expected {list(expected.shape)}")


def _first(wrong: Tensor, actual: Tensor, expected: Tensor) -> str:
    index = tuple(wrong.nonzero()[0].tolist())
    return f"at {list(index)} got {float(actual[index])!r}, expected {float(expected[index])!r}"
