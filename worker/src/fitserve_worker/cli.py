"""`fitserve-worker`: the worker's commands for a site's administrator."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from fitserve_contract.errors import BackendError, FitserveError

if TYPE_CHECKING:
    from uuid import UUID

    from fitserve_worker.outbox import Outbox

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fitserve-worker", prog_name="fitserve-worker")
def cli() -> None:
    """Set up and look after fitserve's worker on a site."""


@cli.group()
def function() -> None:
    """Register the function that an endpoint runs, and show its id and source."""


@function.command("register")
@click.option("--public", is_flag=True, help="Anyone may call it, where an endpoint lets them.")
@click.option("--group", metavar="UUID", help="Members of this Globus group may call it.")
def register_command(*, public: bool, group: str | None) -> None:
    """Register the function once, and print its id for `access.functions` of the site file."""
    from fitserve_worker.function import register

    if public and group:
        raise click.UsageError("--public and --group exclude each other")
    registration = register(public=public, group=group)
    if registration.sharing == "private":
        click.echo("only you can call it: share it with --public or --group", err=True)
    click.echo(registration.function_id)


@function.command("show")
@click.option("--id", "only_id", is_flag=True, help="Print ids alone.")
def show_command(*, only_id: bool) -> None:
    """Show the function's source and digest, and the ids under which it is registered."""
    from fitserve_contract import CONTRACT_VERSION, FUNCTION_DIGEST, FUNCTION_SOURCE
    from fitserve_worker.function import known

    registrations = known()
    if only_id:
        if not registrations:
            raise BackendError(
                "the function was not registered from this account",
                hint="fitserve-worker function register --public",
            )
        for one in registrations:
            click.echo(one.function_id)
        return
    click.echo(FUNCTION_SOURCE, nl=False)
    click.echo(f"sha256 {FUNCTION_DIGEST}, for wire contract {CONTRACT_VERSION}")
    for one in registrations:
        click.echo(f"{one.function_id}  {one.sharing}")
    if not registrations:
        click.echo("not registered from this account: fitserve-worker function register")


@cli.group()
def outbox() -> None:
    """Look after answers kept in $FITSERVE_CACHE_DIR until their clients have them."""


@outbox.command("list")
def list_command() -> None:
    """List kept answers by their tasks' digests, the oldest first."""
    for entry in _outbox().entries():
        written = datetime.fromtimestamp(entry.written, UTC).isoformat(timespec="seconds")
        click.echo(f"{entry.digest}  {entry.bytes:>9}  {written}")


@outbox.command("clear")
def clear_command() -> None:
    """Remove all kept answers: tasks sent again are then fitted again."""
    click.echo(f"{_outbox().clear()} answers removed")


@cli.command()
@click.argument("endpoint_id", type=click.UUID)
@click.option("--end", is_flag=True, help="End those that nobody looks after any more.")
def processes(endpoint_id: UUID, *, end: bool) -> None:
    """List processes of users' child endpoints of ENDPOINT_ID here, also those left by dead ones.

    An endpoint that was killed leaves its interchange and workers behind. Other users'
    processes are seen only by root.
    """
    from fitserve_worker.processes import end_orphans, find_processes

    for one in find_processes(str(endpoint_id)):
        state = "orphan" if one.orphan else "alive"
        click.echo(f"{one.pid:>8}  {state:<6}  {one.child}  {one.command[:100]}")
    if end:
        click.echo(f"{end_orphans(str(endpoint_id))} orphans ended")


@cli.command()
def run() -> None:
    """Do the encoded task on standard input, and print the encoded answer."""
    from fitserve_worker import run as perform

    click.echo(perform(sys.stdin.read()))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--device",
    type=click.Choice(["any", "cpu", "gpu"]),
    default="any",
    show_default=True,
    help="What must be fitted on.",
)
def selftest(*, as_json: bool, device: str) -> None:
    """Say whether this worker can fit: versions, driver, device, float64 and a known CLs.

    Ends with status 0 if it can, otherwise with 5 and the reason. It tests images, and a pod runs
    it before its endpoint starts.
    """
    from fitserve_worker.selftest import KNOWN
    from fitserve_worker.selftest import selftest as test

    report, problem = test(device)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(report)))
    else:
        versions = ", ".join(f"{name} {one}" for name, one in report.versions.items())
        click.echo(f"versions  {versions}, Python {report.python}")
        if report.device:
            click.echo(f"device    {report.device}, {'float64' if report.float64 else 'float32'}")
        if report.CLs_obs is not None:
            click.echo(f"CLs       {report.CLs_obs:.10f}, known {KNOWN[0]:.10f}")
        click.echo(f"time      {report.seconds:.1f} s")
    if problem:
        raise problem


def _outbox() -> Outbox:
    from fitserve_worker.entry import worker_version
    from fitserve_worker.outbox import CACHE_VARIABLE, find_outbox

    kept = find_outbox(worker_version())
    if kept is None:
        raise BackendError(
            "there is no outbox here",
            evidence=f"{CACHE_VARIABLE} is not set",
            hint=f"export {CACHE_VARIABLE} as the site's worker_init.sh does",
        )
    return kept


def main() -> None:
    """Run a command; an error that a user can act upon is shown as text, with its exit code."""
    try:
        cli.main(prog_name="fitserve-worker", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except FitserveError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
