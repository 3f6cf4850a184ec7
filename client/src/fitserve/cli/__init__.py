"""The command line. Modules here import nothing heavy outside their commands."""

from __future__ import annotations

import click

from fitserve import __version__
from fitserve.cli.endpoints import endpoints
from fitserve.cli.exports import diff, export
from fitserve.cli.group import FitserveGroup
from fitserve.cli.pallets import analyses, pallets
from fitserve.cli.pictures import contour, plot, report
from fitserve.cli.run import cancel, resume, run
from fitserve.cli.show import runs, show

__all__ = ["cli", "main"]


@click.group(cls=FitserveGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fitserve")
def cli() -> None:
    """Fit the signal hypotheses of a pyhf pallet on an endpoint.

    A pallet is a background-only workspace with a patchset of signals. An endpoint is where
    the fits run: 'local' is this machine.
    """


for command in (
    *(run, resume, cancel, show, runs, contour, plot, report, export, diff),
    *(pallets, analyses, endpoints),
):
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    cli()
