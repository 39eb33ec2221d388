"""What the reference networks share: argument checks and channel arithmetic."""

from __future__ import annotations

from collections.abc import Collection


def check_int(network: str, name: str, value: object, least: int = 1) -> int:
    """Return ``value`` if it is an int >= ``least``, else raise ``ValueError`` naming network and argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{network}: {name} must be an integer >= {least}, got {value!r}")
    return value


def check_fraction(network: str, name: str, value: object, *, zero: bool = False, above_one: bool = False) -> float:
    """Return ``value`` if it is a number in (0, 1] (or [0, 1) with ``zero``, or (0, inf) with ``above_one``)."""
    wanted = "in [0, 1)" if zero else "> 0" if above_one else "in (0, 1]"
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not (0 <= value < 1 if zero else 0 < value < float("inf") if above_one else 0 < value <= 1):
        raise ValueError(f"{network}: {name} must be a number {wanted}, got {value!r}")
    return float(value)


def check_choice(network: str, name: str, value: object, choices: Collection[object]) -> None:
    """Raise ``ValueError`` naming network and argument unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{network}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def make_divisible(value: float, divisor: int) -> int:
    """Nearest multiple of ``divisor``, at least ``divisor``, at most 10% below ``value`` (MobileNetV2)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
