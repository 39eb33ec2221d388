"""`lightops explain`: what a swap would do to a network, without doing it to yours."""

import click

from lightops.cli._console import console, network_or_usage_error


@click.command()
@click.argument("network")
def explain(network: str) -> None:
    """Shows what would be swapped in NETWORK, by which backend, what would not, and why."""
    from lightops.swap import explain as explain_model

    report = explain_model(network_or_usage_error(network))
    console().print(str(report), markup=False, soft_wrap=True)
