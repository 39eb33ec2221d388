"""`python -m lightops.testing OP DTYPE LAYOUT KIND SEED [COUNT]`: repeat a fuzz configuration, or sweep COUNT seeds.

`all` sweeps a column.
"""

import argparse
import sys
import time

from lightops.testing.calls import OPS
from lightops.testing.fuzz import DTYPES, KINDS, check_seed
from lightops.testing.layouts import LAYOUTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lightops.testing", description=__doc__)
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
