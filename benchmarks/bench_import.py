"""What `import lightops` costs beyond `import torch`: fresh interpreters in turns."""

import statistics
import subprocess
import sys

import click

_PROGRAM = "import time, torch; start = time.perf_counter(); import lightops; print(time.perf_counter() - start)"


@click.command(help=__doc__)
@click.option("--runs", default=7, show_default=True)
def main(runs: int) -> None:
    """Prints the median and the minimum of the import in seconds; the first run is not counted (cold files)."""
    command = [sys.executable, "-c", _PROGRAM]
    times = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(runs + 1)]
    counted = times[1:]
    click.echo(
        f"import lightops, beyond torch: median {statistics.median(counted):.3f} s, minimum {min(counted):.3f} s"
    )


if __name__ == "__main__":
    main()
