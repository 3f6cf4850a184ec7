"""Globus Compute's own command, with what endpoints of fitserve's sites have besides.

A deployment puts a script of that name on the endpoint's PATH before Globus Compute's own.
"""

from __future__ import annotations

import sys

from fitserve.onsite import failures

__all__ = ["main"]

_STARTS = {"start", "_start-user-endpoint"}


def main() -> None:
    """Run `globus-compute-endpoint` with the arguments of this process."""
    from globus_compute_endpoint.cli import cli_run

    if _STARTS.intersection(sys.argv[1:]):
        failures.register()
    sys.exit(cli_run())
