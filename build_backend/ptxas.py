"""`python ptxas.py LOG COMMAND...`: runs nvcc and keeps what ptxas says (-Xptxas -v) in LOG instead of on the
screen."""

import subprocess
import sys
from pathlib import Path


def main(log: str, *command: str) -> int:
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    Path(log).write_text(done.stderr)
    if done.returncode:
        sys.stderr.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
