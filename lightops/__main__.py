"""`python -m lightops ...`: the same as the `lightops` command."""

from lightops.cli import main

if __name__ == "__main__":
    main(prog_name="lightops")
