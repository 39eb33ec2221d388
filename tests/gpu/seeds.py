"""How many cases a test draws: LIGHTOPS_GPU_SEEDS of them, fewer where LIGHTOPS_GPU_SECONDS are over (what a sanitizer
costs is not known beforehand), but never fewer than three."""

import os
import time
from collections.abc import Iterator

SEEDS = int(os.environ.get("LIGHTOPS_GPU_SEEDS", "200"))
SECONDS = float(os.environ.get("LIGHTOPS_GPU_SECONDS", "inf"))
LEAST = 3
cut_short: list[int] = []  # of each test that stopped before its last seed, how many it drew


def seeds() -> Iterator[int]:
    """0, 1, 2, ..."""
    end = time.monotonic() + SECONDS
    for seed in range(SEEDS):
        if seed >= LEAST and time.monotonic() > end:
            cut_short.append(seed)
            return
        yield seed
