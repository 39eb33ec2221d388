"""`lightops info`: what is on and off on this machine, and why."""

import json
from typing import Any

import click

from lightops.cli._console import console, table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Prints the same as JSON.")
def info(as_json: bool) -> None:
    """Shows the build, the instruction set picked, and each backend with the reason it is on or off."""
    from lightops import info as state_of

    state = state_of()
    if as_json:
        click.echo(json.dumps(state, indent=1))
        return
    screen = console()
    backends = state["backends"]
    lines = [[name, "on" if b["available"] else "off", b["reason"]] for name, b in backends.items()]
    screen.print(f"[bold]lightops {state['lightops']}[/bold]", *_facts(state), sep="\n", highlight=False)
    screen.print()
    screen.print(table("Backends, in the order in which they are tried", ["backend", "state", ""], lines))


def _facts(state: dict[str, Any]) -> list[str]:
    torch_, cpu = state["torch"], state["cpu"]
    facts = {
        "python": state["python"],
        "torch": f"{torch_['found']} (built for {torch_['built_for'] or 'nothing'})",
        "cpu kernels": f"{cpu['isa'] or 'not built'}: {cpu['why']} (built: {', '.join(cpu['built']) or 'none'})",
        "bfloat16 pairs": "on (AVX512-BF16)" if cpu["bfloat16_pairs"] else "off: bfloat16 is widened to float32",
        "cpu features": " ".join(cpu["features"]) or "unknown",
        **{f"build {name}": value for name, value in state["build"].items()},
        **{name: value for name, value in state["environment"].items() if value not in (False, "auto")},
    }
    return [f"  {name:16} {value}" for name, value in facts.items() if value not in ("", None)]
