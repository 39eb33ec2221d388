"""The `lightops` command: bench, check, explain, info, kernels, train."""

import click

from lightops._version import __version__
from lightops.cli.bench import bench
from lightops.cli.check import check
from lightops.cli.explain import explain
from lightops.cli.info import info
from lightops.cli.kernels import kernels
from lightops.cli.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lightops")
def main() -> None:
    """Fused kernels for light CNNs (DenseNet, SqueezeNet, MobileNet) in PyTorch."""


for command in (bench, check, explain, info, kernels, train):
    main.add_command(command)
