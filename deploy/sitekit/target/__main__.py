"""``python -m sitekit.target SITE VERB``: one JSON document on standard output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fitserve.errors import BackendError, FitserveError
from sitekit.load import load_site
from sitekit.target.deployed import Deployed, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve.errors import Check


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("site", type=click.Path(exists=True, dir_okay=False))
@click.pass_context
def commands(context: click.Context, site: str) -> None:
    """Run the parts of deploying SITE that run on its own machine."""
    deployed = Deployed(load_site(site)[0])
    # Before any SDK is imported; no secret is ever on a command line.
    variables = deployed.variables()
    for name in variables:
        # An account may have another proxy in lower case, which would be used first.
        os.environ.pop(name.lower(), None)
    os.environ.update(variables)
    context.obj = deployed


def _emit(document: Any) -> None:
    click.echo(json.dumps(document, indent=2))


def _staged(stages: Iterable[Check]) -> dict[str, Any]:
    checks = list(stages)
    return {"ok": all(one.ok for one in checks), "stages": [one.as_data() for one in checks]}


@commands.command()
@click.option("--release", required=True)
@click.option("--examined", help="Release and site digest that the doctor found in order.")
@click.option("--previous", help="The release to go back to; by default the one that served.")
@click.pass_obj
def select(deployed: Deployed, release: str, examined: str | None, previous: str | None) -> None:
    """Let RELEASE serve: point the links of the site's environments to it."""
    manifest = deployed.manifest
    target = deployed.path(deployed.places.releases) / release
    if not (target / ".complete").is_file():
        raise BackendError(f"there is no release {release}", evidence=str(target))
    moved = False
    for link in map(deployed.path, deployed.places.links):
        if link.is_symlink() and Path(os.readlink(link)) == target:  # noqa: PTH115 -- as text
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        part = link.with_name(f".{link.name}.part")
        part.unlink(missing_ok=True)
        part.symlink_to(target)
        os.replace(part, link)  # noqa: PTH105 -- no moment without a release
        moved = True
    before = manifest.current
    changes: dict[str, Any] = {
        "current": release,
        "links": [str(deployed.path(link)) for link in deployed.places.links],
    }
    if release not in manifest.releases:
        changes["releases"] = [*manifest.releases, release]
    if previous is not None:
        changes["previous"] = previous or None
    elif before not in {None, release}:
        changes["previous"] = before
    if examined is not None:
        changes["examined"] = examined
    written = write_manifest(deployed.path(deployed.places.manifest), manifest, **changes)
    _emit({"changed": moved or written, "before": before, "release": release})


@commands.command()
@click.pass_obj
def register(deployed: Deployed) -> None:
    """Register fitserve's function, shared as the site says, unless it is registered already."""
    from fitserve_worker.function import register as register_function

    functions = deployed.site.access.functions
    manifest = deployed.manifest
    sharing = deployed.site.access.function_sharing
    if functions:
        function = str(functions[0])
    else:
        group = sharing if sharing not in {"public", "private"} else None
        registration = register_function(public=sharing == "public", group=group)
        function = registration.function_id
    path = deployed.path(deployed.places.manifest)
    _emit(
        {
            "changed": write_manifest(path, manifest, function_id=function),
            "function_id": function,
            "sharing": sharing,
        }
    )


@commands.command()
@click.pass_obj
def render(deployed: Deployed) -> None:
    """Write the configuration again, as this release renders it."""
    from sitekit.target.deployed import render as render_here

    _emit({"changed": render_here(deployed)})


@commands.command()
@click.option("--drain-seconds", default=0.0)
@click.pass_obj
def ensure(deployed: Deployed, drain_seconds: float) -> None:
    """Keep the endpoint running with its present configuration, and have it started at boot."""
    from sitekit.target import service

    _emit(service.ensure(deployed, drain_seconds=drain_seconds))


@commands.command()
@click.option("--endpoint", required=True, help="local, or parsl:DIRECTORY.")
@click.option("--seconds", default=300.0)
def trial(endpoint: str, seconds: float) -> None:
    """Do a fit without the service."""
    from sitekit.target.smoke import direct

    _emit(_staged(direct(endpoint, seconds)))


@commands.command()
@click.option("--seconds", default=300.0)
@click.pass_obj
def smoke(deployed: Deployed, seconds: float) -> None:
    """Do a fit through the service, and check that another function is refused."""
    from sitekit.target.smoke import Served, through_the_service

    card = deployed.path(deployed.places.direct) / "site-card.json"
    manifest = deployed.manifest
    served = Served(deployed.site, deployed.endpoint_id, manifest.current, deployed.multi_user)
    stages, refused = through_the_service(served, card, seconds, manifest.refused_id)
    # It is read again: it may have changed during the fit.
    path = deployed.path(deployed.places.manifest)
    write_manifest(path, deployed.manifest, refused_id=refused)
    _emit(_staged(stages))


@commands.command()
@click.option("--find-orphans/--end-orphans", "keep", default=True)
@click.pass_obj
def status(deployed: Deployed, *, keep: bool) -> None:
    """Say what the endpoint is doing."""
    from sitekit.jobs import cancel_jobs
    from sitekit.target.processes import end_orphans, manager_pid
    from sitekit.target.status import status as look

    document = look(deployed)
    if not keep and deployed.endpoint_id:
        document["orphans_ended"] = end_orphans(deployed.endpoint_id)
        # While other children live, the jobs of a dead one cannot be told apart.
        if not document["children"] and manager_pid(deployed) is None:
            document["jobs_ended"] = cancel_jobs(deployed.site, deployed.name)
    _emit(document)


@commands.command()
@click.pass_obj
def tidy(deployed: Deployed) -> None:
    """End what a killed endpoint left: systemd runs this before it starts another."""
    from sitekit.target.supervisor import tidy as end_what_is_left

    _emit(end_what_is_left(deployed)._asdict())


@commands.command()
@click.option("--drain-seconds", default=0.0)
@click.option("--disable", is_flag=True)
@click.pass_obj
def stop(deployed: Deployed, drain_seconds: float, *, disable: bool) -> None:
    """Stop the endpoint, once its users' fits are done or the time is over."""
    from sitekit.target import service

    idle = service.wait_until_idle(deployed, drain_seconds)
    _emit({**service.stop(deployed, disable=disable), "idle": idle})


@commands.command()
@click.option("--lines", default=40)
@click.pass_obj
def logs(deployed: Deployed, lines: int) -> None:
    """Show the end of each log."""
    run = deployed.path(deployed.places.run)
    files = [deployed.state / "supervisor.log", deployed.configuration / "endpoint.log"]
    errors = run.glob("**/*.stderr") if run.is_dir() else []
    # Of the blocks, the last one that printed something.
    files += sorted((one for one in errors if one.stat().st_size), key=_changed)[-1:]
    shown = {
        str(one): one.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        for one in files
        if one.is_file()
    }
    _emit({"logs": shown})


def _changed(path: Path) -> float:
    return path.stat().st_mtime


@commands.command()
@click.pass_obj
def destroy(deployed: Deployed) -> None:
    """Remove the endpoint and everything that deploying made."""
    from sitekit.target.removal import destroy as remove

    _emit(remove(deployed))


def main() -> None:
    """Run a command; an error goes to standard error, and ends it with its exit code."""
    try:
        commands.main(prog_name="sitekit.target", standalone_mode=False)
    except click.exceptions.Exit as stopped:
        sys.exit(stopped.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except FitserveError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
