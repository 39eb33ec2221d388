"""`python gpu_rows.py STEP SECONDS FILE`: one measured step of `make gpu`, its rows as lines of JSON as they come."""

import importlib
import json
import sys
import time
from pathlib import Path


def main(step: str, seconds: str, path: str) -> None:
    """`gpu_networks`, `gpu_training` or `gpu_blocks`."""
    deadline = time.monotonic() + float(seconds)
    with Path(path).open("w") as out:
        for row in importlib.import_module(f"gpu_{step}").measure(deadline):
            out.write(json.dumps(row) + "\n")
            out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
