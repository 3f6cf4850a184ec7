"""`fitserve show` and `fitserve runs`: one run, or all of them."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["runs", "show"]


@click.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def show(run_directory: str, *, as_json: bool) -> None:
    """Show RUN: state, table, failures, times, provenance; also while it is worked on."""
    from fitserve.cli.terminal import show_run
    from fitserve.runs.store import read_run

    show_run(read_run(run_directory), as_json=as_json)


@click.group()
def runs() -> None:
    """Find runs made earlier."""


@runs.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list_(*, as_json: bool) -> None:
    """List the runs of this user on this machine, the most recent first."""
    from fitserve.console import emit_json, say, show_table
    from fitserve.errors import StoreError
    from fitserve.runs.store import known_runs, read_run
    from fitserve.runs.summary import counts

    found: list[dict[str, Any]] = []
    for path in known_runs():
        try:
            run = read_run(path)
        except StoreError as error:
            found.append({"run": str(path), "error": error.cause})
            continue
        found.append(
            {
                "run": str(path),
                "pallet": run.manifest.pallet.name,
                "created": run.manifest.created,
                "endpoint": run.manifest.endpoint,
                "hypotheses": counts(run),
            }
        )
    if as_json:
        emit_json(found)
        return
    if not found:
        say("there are no runs yet: fitserve run PALLET")
        return
    show_table(["created", "pallet", "endpoint", "hypotheses", "run"], map(_cells, found))


def _cells(entry: dict[str, Any]) -> list[str]:
    if "error" in entry:
        return ["", "", "", entry["error"], entry["run"]]
    counts = ", ".join(f"{number} {word}" for word, number in entry["hypotheses"].items() if number)
    return [entry["created"], entry["pallet"], entry["endpoint"], counts, entry["run"]]
