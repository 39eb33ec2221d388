"""Random configurations judged by the exact or the bounded oracle. A failure prints the command that repeats it:

python -m tests.ops.fuzz OP DTYPE LAYOUT KIND SEED [COUNT]     (`all` for a whole column)
"""

import argparse
import os
import sys
import time
from typing import NamedTuple

from lightops.testing.calls import OPS
from lightops.testing.draw import DTYPES, KINDS, draw_call
from lightops.testing.layouts import LAYOUTS
from lightops.testing.oracle import judge
from tests.ops.tools import run_public


class Outcome(NamedTuple):
    """What one configuration showed: the worst error in units of u * S (0 when exact) and the share of zeros in the
    output."""

    ratio: float
    zeros: float


def check_seed(op: str, dtype: str, layout: str, kind: str, seed: int, backend: str = "cpu") -> Outcome:
    """Draw, run and judge one configuration."""
    case, call, guarded = draw_call(op, DTYPES[dtype], layout, kind, seed)
    try:
        actual = run_public(call, backend)
        assert actual.dtype == DTYPES[dtype], f"result is {actual.dtype}"
        ratio = judge(call, kind, actual)
        for i, buffer in enumerate(guarded):
            buffer.check_unchanged(f"tensor {i}")
    except Exception as error:
        raise AssertionError(f"{reproducer(op, dtype, layout, kind, seed, backend)}\n  {case}\n  {error}") from error
    zeros = float((actual == 0).double().mean()) if actual.numel() else 0.0
    return Outcome(ratio, zeros)


def reproducer(op: str, dtype: str, layout: str, kind: str, seed: int, backend: str = "cpu") -> str:
    """The command that repeats one configuration."""
    isa = os.environ.get("LIGHTOPS_CPU_ISA")
    prefix = f"LIGHTOPS_CPU_ISA={isa} " if isa else ""
    suffix = "" if backend == "cpu" else f" --backend {backend}"
    return f"{prefix}python -m tests.ops.fuzz {op} {dtype} {layout} {kind} {seed}{suffix}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ops.fuzz", description=__doc__)
    parser.add_argument("op", choices=[*OPS, "all"])
    parser.add_argument("dtype", choices=[*DTYPES, "all"])
    parser.add_argument("layout", choices=[*LAYOUTS, "all"])
    parser.add_argument("kind", choices=[*KINDS, "all"])
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("--backend", default="cpu", choices=["cpu", "reference"])
    parser.add_argument(
        "--keep-going", action="store_true", help="report every failing cell instead of stopping at the first"
    )
    options = parser.parse_args()

    failures = 0
    for op in OPS if options.op == "all" else [options.op]:
        for dtype in DTYPES if options.dtype == "all" else [options.dtype]:
            for kind in KINDS if options.kind == "all" else [options.kind]:
                failures += _sweep(op, dtype, kind, options)
                if failures and not options.keep_going:
                    return 1
    return int(failures > 0)


def _sweep(op: str, dtype: str, kind: str, options: argparse.Namespace) -> int:
    """All seeds of one cell over the layouts asked for; prints one line, or the failure."""
    layouts = LAYOUTS if options.layout == "all" else (options.layout,)
    start, worst, zeros, count = time.perf_counter(), 0.0, 0.0, 0
    try:
        for layout in layouts:
            for seed in range(options.seed, options.seed + options.count):
                outcome = check_seed(op, dtype, layout, kind, seed, options.backend)
                worst, zeros, count = max(worst, outcome.ratio), zeros + outcome.zeros, count + 1
    except AssertionError as failure:
        print(f"FAILED: {failure}")
        return 1
    seconds = time.perf_counter() - start
    print(f"{op} {dtype} {kind}: {count} cases, worst {worst:.2f} u S, {zeros / count:.0%} zeros, {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
