"""`make deploy`, `status`, `smoke`, `upgrade` and so on, for a site that one logs in to."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fitserve.errors import BackendError
from sitekit.load import open_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.deployment.playbook import Deployment
    from sitekit.load import Loaded
    from sitekit.site import Site

__all__ = ["add_commands", "stages_words", "status_words"]

_CHANGING = ("stop", "destroy")
_SECRETS = ("GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET")


def _deployment_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what every command says of the machine."""
    options = (
        click.argument("site", callback=open_site),
        click.option("--host", help="Log in there, instead of the site file's login.host."),
        click.option("--user", help="Log in as this user."),
        click.option("--here", is_flag=True, help="This machine is the login node."),
        click.option(
            "--ssh-config",
            type=click.Path(path_type=Path, exists=True),
            help="Instead of ~/.ssh/config.",
        ),
        click.option("--python", help="The target's Python for fitserve."),
        click.option("-v", "verbose", count=True, help="Say more."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _open(given: dict[str, Any]) -> tuple[Deployment, list[str]]:
    from sitekit.deployment.playbook import Deployment, Reach

    site, warnings = given.pop("site")
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    verbose = given.pop("verbose")
    names = ("host", "user", "here", "ssh_config", "python")
    reach = Reach(**{name: given.pop(name) for name in names})
    return Deployment(site, reach), [f"-{'v' * verbose}"] if verbose else []


@contextlib.contextmanager
def _alone(deployment: Deployment) -> Iterator[None]:
    """Let no other command that changes the site begin on this machine."""
    from filelock import FileLock, Timeout

    deployment.directory.mkdir(parents=True, exist_ok=True)
    lock = deployment.directory / "lock"
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise BackendError(
            "another command is changing this site",
            evidence=f"{lock} is held",
            hint="wait for it; `make status` and `make logs` may be asked meanwhile",
        ) from error


def _ansible_options(given: dict[str, Any]) -> list[str]:
    return [f"--{name}" for name in ("check", "diff") if given.pop(name)]


def _check_options(command: Callable[..., None]) -> Callable[..., None]:
    diff = click.option("--diff", is_flag=True, help="Show what changes in files.")
    check = click.option("--check", is_flag=True, help="Change nothing; say what would change.")
    return check(diff(command))


def _install_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option("--cloud", is_flag=True, help="Log in to Globus as the target's user is."),
        click.option("--no-job", is_flag=True, help="Let the doctor submit no job."),
        click.option("--smoke-seconds", type=int, help="How long a fit may wait in the queue."),
        click.option("--drain-seconds", type=int, help="How long to wait for users' fits."),
        click.option(
            "--image",
            type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
            help="SIF image to copy to where the site file has it.",
        ),
    )
    for option in options:
        command = option(command)
    return command


@click.command()
@_deployment_options
@_check_options
@_install_options
def deploy(**given: Any) -> None:
    """Bring SITE up: checked, examined, installed, started, tried by a real fit."""
    _install("deploy", given)


@click.command()
@_deployment_options
@_check_options
@_install_options
def upgrade(**given: Any) -> None:
    """Install this version beside the one that serves SITE, try it, let it serve.

    Users' running fits go on. What does not pass its trial does not serve.
    """
    _install("upgrade", given)


def _install(verb: str, given: dict[str, Any]) -> None:
    deployment, options = _open(given)
    options += _ansible_options(given)
    client, secret = (os.environ.get(name) for name in _SECRETS)
    if bool(client) != bool(secret):
        missing = _SECRETS[1] if client else _SECRETS[0]
        raise BackendError(
            "client credentials are incomplete", evidence=f"{missing} is not set", hint="set both"
        )
    image = given.pop("image")
    variables = {
        "upgrade": verb == "upgrade",
        "cloud_login": given.pop("cloud"),
        "image": str(image) if image else None,
        "no_job": given.pop("no_job") or None,
        **given,
    }
    with _alone(deployment):
        done = deployment.run("deploy", *options, **variables)
    if not done:
        raise BackendError(
            f"{verb} did not come to its end",
            hint="what stopped it is said above; put it right and run the same again: what is "
            "done already is not done twice",
        )
    if "--check" not in options:
        click.echo(_handed_over(deployment))


def _handed_over(deployment: Deployment) -> str:
    """Return what an administrator hands to users, and what is left to do."""
    said = deployment.returned()
    lines = [f"{said['site']} is up, release {said['release']}"]
    if said["endpoint_id"]:
        card = deployment.directory / "site-card.json"
        lines += [
            f"endpoint {said['endpoint_id']}, function {said['function_id']}",
            f"hand to users: {card}",
            f"  fitserve endpoints add {said['site']} --card site-card.json",
            f"  fitserve endpoints check {said['site']}",
            f"  fitserve run PALLET --endpoint {said['site']}",
        ]
        if said["boot"] == "nothing":
            lines.append(
                "after a reboot nothing starts it, for there is neither systemd for this user nor "
                f"cron; then: make deploy SITE={said['site']}"
            )
        if said["boot"] == "login":
            lines.append(
                f"it ends when {said['user']} logs out of {said['host']}, and nothing starts it "
                "after a reboot: systemd does not let that user's services linger; ask the "
                f"administrators there for `loginctl enable-linger {said['user']}`, then: "
                f"make deploy SITE={said['site']}"
            )
        if said["pending"]:
            lines.append(
                "users' fits are running: the endpoint itself is started anew by the next "
                f"`make deploy SITE={said['site']}` that finds it idle"
            )
    else:
        again = "GLOBUS_COMPUTE_CLIENT_ID=... GLOBUS_COMPUTE_CLIENT_SECRET=... make deploy"
        lines += [
            f"on {said['host']}, as {said['user']}:",
            f"  {said['command']} run PALLET --endpoint {said['direct']}",
            "for use from elsewhere, through Globus Compute, with the credentials of a client:",
            f"  {again} SITE={said['site']}",
        ]
    return "\n".join(lines)


@click.command()
@_deployment_options
def rollback(**given: Any) -> None:
    """Let the release before this one serve SITE again."""
    deployment, options = _open(given)
    with _alone(deployment):
        done = deployment.run("rollback", *options)
    if not done:
        raise BackendError("the release was not changed", hint="what stopped it is said above")
    said = deployment.returned()
    click.echo(f"{said['site']} is served by release {said['release']}")


def _ask(given: dict[str, Any], verb: str, *words: str) -> tuple[Deployment, dict[str, Any]]:
    """Run one verb of `sitekit.target` on the machine, and return its answer."""
    deployment, options = _open(given)
    with _alone(deployment) if verb in _CHANGING else contextlib.nullcontext():
        done = deployment.run("ask", *options, verb=verb, words=list(words), quiet=not options)
    if not done:
        raise BackendError(f"{verb} did not come to its end", hint="the reason is said above")
    return deployment, deployment.returned()


@click.command()
@_deployment_options
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--end-orphans", is_flag=True, help="End the processes and jobs of a dead endpoint.")
def status(*, as_json: bool, end_orphans: bool, **given: Any) -> None:
    """Say what the endpoint of SITE is doing, and what it waits for."""
    words = ["--end-orphans"] if end_orphans else []
    _, found = _ask(given, "status", *words)
    click.echo(json.dumps(found, indent=2) if as_json else status_words(found))


@click.command()
@_deployment_options
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--smoke-seconds", default=900, show_default=True, help="How long it may take.")
def smoke(*, as_json: bool, smoke_seconds: int, **given: Any) -> None:
    """Have a real fit done on SITE, with the time of each stage."""
    _, found = _ask(given, "try", "--seconds", str(smoke_seconds))
    click.echo(json.dumps(found, indent=2) if as_json else stages_words(found["stages"]))
    if not found["ok"]:
        bad = next(stage for stage in found["stages"] if not stage["ok"])
        raise BackendError(f"{bad['what']}: {bad['told']}", hint=bad["next"])


@click.command()
@_deployment_options
@click.option("--drain-seconds", default=0, help="Wait so long for users' fits.")
def stop(*, drain_seconds: int, **given: Any) -> None:
    """Stop the endpoint of SITE with its workers and jobs; `make deploy` starts it again."""
    deployment, found = _ask(given, "stop", "--disable", "--drain-seconds", str(drain_seconds))
    del deployment
    ended = f"{len(found['processes'])} processes and {len(found['jobs'])} jobs ended"
    waited = "" if found["idle"] else "; users' fits were running: their clients send them again"
    click.echo(f"{ended}{waited}")


@click.command()
@_deployment_options
@click.option("--lines", default=40, show_default=True, help="Of each log.")
def logs(*, lines: int, **given: Any) -> None:
    """Show the end of each log of SITE's endpoint."""
    _, found = _ask(given, "logs", "--lines", str(lines))
    for name, text in found["logs"].items():
        click.echo(f"==> {name}")
        click.echo("\n".join(text))


@click.command()
@_deployment_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def destroy(*, yes: bool, **given: Any) -> None:
    """Take the endpoint of SITE away, with everything that deploying made."""
    site: Site = given["site"].site
    if not yes:
        click.confirm(f"Remove the endpoint of {site.name}, its logs and kept answers?", abort=True)
    deployment, found = _ask(given, "destroy")
    (deployment.directory / "site-card.json").unlink(missing_ok=True)
    click.echo(
        f"{len(found['processes'])} processes and {len(found['jobs'])} jobs ended, "
        f"{len(found['removed'])} files and directories removed"
    )
    if found["told"]:
        click.echo(f"the service keeps its registration: {found['told']}", err=True)
    for path in found["left"]:
        click.echo(f"left, since something else is in it: {path}", err=True)


@click.command(hidden=True)
@click.option("--python", required=True)
@click.option("--machine", required=True)
def bundle(python: str, machine: str) -> None:
    """Pack a release; prints its name and file as JSON."""
    from sitekit.deployment.bundle import make_bundle

    made = make_bundle(python, machine)
    click.echo(json.dumps({"release": made.release, "path": str(made.path)}))


@click.command(hidden=True)
@click.argument("site", callback=open_site)
@click.option("--venv")
@click.option("--out", required=True, type=click.Path(path_type=Path))
def flat(site: Loaded, venv: str | None, out: Path) -> None:
    """Write a site with all that it extends into a directory."""
    from sitekit.load import flat_site

    loaded = site.site
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{loaded.name}.yaml").write_text(flat_site(loaded, venv), encoding="utf-8")


def add_commands(group: click.Group) -> None:
    """Add the commands to sitekit's."""
    for command in (deploy, upgrade, rollback, status, smoke, stop, logs, destroy, bundle, flat):
        group.add_command(command)


def stages_words(stages: list[dict[str, Any]]) -> str:
    """Return the stages of a smoke test, one line each.

    Examples
    --------
    >>> print(stages_words([{"what": "fit", "told": "CLs 0.1", "seconds": 1.2, "ok": True,
    ...                      "next": ""}]))
    ok      fit           1.2 s  CLs 0.1
    """
    lines = []
    for stage in stages:
        mark = "ok" if stage["ok"] else "FAILED"
        lines.append(f"{mark:<7} {stage['what']:<10} {stage['seconds']:>6.1f} s  {stage['told']}")
        if stage["next"]:
            lines.append(f"{'':<29}next: {stage['next']}")
    return "\n".join(lines)


def status_words(found: dict[str, Any]) -> str:
    """Return the status of an endpoint, one thing on a line."""
    versions = found["versions"]
    lines = [_endpoint(found)]
    if found["endpoint"] is not None:
        lines.append(f"users      {len(found['children'])} child endpoints")
    jobs = found["jobs"]
    for job in jobs:
        whose = "" if job["of_endpoint"] else ", of a client on this machine"
        reason = f": {job['reason']}" if job["reason"] else ""
        if job["id"] in found.get("jobs_ended", ()):
            reason = ": its endpoint was dead; ended"
        lines.append(f"job        {job['id']} {job['state']}{reason}{whose}")
    if not jobs:
        lines.append("jobs       none")
    lines.append(_workers(found["workers"]))
    for name, disk in found["disk"].items():
        lines.append(f"disk       {name}: {disk['free_gb']} GB free at {disk['path']}")
    lines.append(f"release    {versions['release']}, before it {versions['previous'] or 'none'}")
    if found["last_fits"] is None:
        lines.append("fitted     not known here: answers are in the users' own directories")
    lines += [
        f"fitted     {fit['ago_seconds']} s ago, task {fit['task'][:12]}"
        for fit in found["last_fits"] or ()
    ]
    if found["orphans"]:
        count = found.get("orphans_ended")
        said = f"{count} ended" if count is not None else "end them with ARGS=--end-orphans"
        lines.append(f"orphans    {len(found['orphans'])} processes of dead children; {said}")
    return "\n".join(lines)


def _workers(workers: dict[str, int | None]) -> str:
    """Say which figure it is: processes are counted here, those on nodes are not seen."""
    most = f", at most {workers['most']}" if workers["most"] is not None else ""
    if "processes" in workers:
        return f"workers    {workers['processes']} processes on this machine{most}"
    return f"workers    {workers['of_running_jobs']} to be expected of the running jobs{most}"


def _endpoint(found: dict[str, Any]) -> str:
    endpoint = found["endpoint"]
    if endpoint is None:
        return f"endpoint   none: {found['site']} is for direct use"
    if endpoint["pid"] is None:
        return f"endpoint   {endpoint['id']} is stopped"
    pending = "; to be started anew when idle" if endpoint["restart_pending"] else ""
    boot = f"started at boot by {endpoint['at_boot']}"
    if endpoint["at_boot"] == "login":
        boot = "until its user logs out: `loginctl enable-linger` was refused"
    return (
        f"endpoint   {endpoint['id']} runs since {endpoint['since']} (process {endpoint['pid']}, "
        f"kept by {endpoint['kept_by']}, {boot}){pending}"
    )
