"""`sitekit cluster`: what `make deploy` and its siblings do for a site on Kubernetes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from fitserve._version import __version__
from fitserve.errors import BackendError, RequestError
from sitekit.cluster.job import CARD, have_a_fit
from sitekit.cluster.release import CREDENTIALS, Release, credentials, namespace_manifest
from sitekit.cluster.tools import require_helm
from sitekit.context import Rendering
from sitekit.documents import site_card, text
from sitekit.helm_values import helm_values
from sitekit.load import open_site
from sitekit.render import write_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from sitekit.cluster.release import Installed
    from sitekit.load import Loaded
    from sitekit.site import Site

__all__ = ["SiteGroup", "cluster"]


def _open(
    site: Loaded,
    function_id: str | None = None,
    endpoint_id: str | None = None,
    values: Path | None = None,
    *,
    warn: bool = True,
) -> tuple[Release, Rendering]:
    loaded, warnings = site
    for warning in warnings if warn else ():
        click.echo(f"warning: {warning}", err=True)
    rendering = Rendering(__version__, Path.home(), endpoint_id, function_id)
    # A site of another scheduler is refused here, whatever is asked.
    helm_values(loaded, rendering)
    overrides = yaml.safe_load(values.read_text(encoding="utf-8")) if values else {}
    if not isinstance(overrides, dict):
        raise RequestError(f"{values} holds no Helm values", hint="NAME: VALUE, as in values.yaml")
    return Release(loaded, rendering, overrides), rendering


@click.group()
def cluster() -> None:
    """Deploy a site on Kubernetes, as the context of your kubeconfig says."""


_site = click.argument("site", callback=open_site)
_function = click.option("--function-id", help="Id of fitserve's registered function.")
_endpoint = click.option("--endpoint-id", help="Id of an endpoint that is registered already.")
_seconds = click.option("--seconds", default=600, show_default=True, help="How long it may take.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
_values = click.option(
    "--values",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Helm values that win over the site's.",
)
_try_it = click.option("--smoke/--no-smoke", "try_it", default=True, help="Try it with a real fit.")


def _installing(command: Callable[..., None]) -> Callable[..., None]:
    """Add what every command that installs is asked."""
    for add in (_try_it, _seconds, _values, _endpoint, _function, _site):
        command = add(command)
    return command


class SiteGroup(click.Group):
    """Commands of which those named as one of `cluster` go there for a site on Kubernetes."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that its name and its first argument ask for."""
        name, command, rest = super().resolve_command(ctx, args)
        there = cluster.commands.get(name or "")
        if there is not None and rest and not rest[0].startswith("-"):
            site, _ = open_site(ctx, None, rest[0])
            if site.scheduler.type == "kubernetes":
                return name, there, rest
        return name, command, rest


@cluster.command("values")
@_site
@_function
@_endpoint
def values_command(site: Loaded, function_id: str | None, endpoint_id: str | None) -> None:
    """Print the Helm values of SITE."""
    release, rendering = _open(site, function_id, endpoint_id)
    click.echo(yaml.safe_dump(helm_values(release.site, rendering), sort_keys=False), nl=False)


@cluster.command("namespace")
@_site
def namespace_command(site: Loaded) -> None:
    """Print the namespace of SITE, which takes pods of the restricted profile alone."""
    release, _ = _open(site)
    click.echo(yaml.safe_dump(namespace_manifest(release.namespace), sort_keys=False), nl=False)


@cluster.command("hub")
@_site
def hub_command(site: Loaded) -> None:
    """Print Helm values of a JupyterHub whose notebooks use `parsl:SITE`."""
    from sitekit.helm_values import hub_values

    release, _ = _open(site)
    click.echo(yaml.safe_dump(hub_values(release.site), sort_keys=False), nl=False)


@cluster.command("job")
@_site
@click.argument("name")
@click.argument("command", nargs=-1, required=True)
def job_command(site: Loaded, name: str, command: tuple[str, ...]) -> None:
    """Print a Job NAME that runs COMMAND where `--endpoint parsl:SITE` works."""
    from sitekit.cluster.job import run_job

    release, rendering = _open(site)
    job = run_job(release.site, rendering, name, command)
    click.echo(yaml.safe_dump(job, sort_keys=False), nl=False)


@cluster.command()
@_installing
def deploy(**given: Any) -> None:
    """Install SITE, or upgrade it to this version; what does not come up does not serve."""
    _install(**given)


@cluster.command()
@_installing
def upgrade(**given: Any) -> None:
    """Bring SITE, which is deployed, to this version; what does not come up is undone."""
    release, _ = _open(given["site"])
    if not release.revisions():
        raise BackendError(
            f"{release.site.name} is not deployed in namespace {release.namespace}",
            hint=f"make deploy SITE={release.site.name}",
        )
    _install(**given)


def _install(*, seconds: int, try_it: bool, **given: Any) -> None:
    require_helm()
    present, _ = _open(**given)
    _examine(present)
    if not present.site.pods.credentials_secret:
        # What an earlier deployment was given is in the release's own secret.
        present.log_in()
    given["function_id"] = _function_id(present.site, given["function_id"])
    release, rendering = _open(**given, warn=False)
    done = release.install(seconds=seconds)
    where = f"in namespace {release.namespace}"
    click.echo(
        f"{release.site.name} is up {where}{'' if done.changed else ', nothing was changed'}"
    )
    if try_it:
        try:
            _smoke(release, rendering, seconds)
        except BackendError as error:
            _undo(release, done, seconds, error)
            raise
    if not done.endpoint:
        click.echo(
            f"clients in the cluster can use it: fitserve run ... --endpoint "
            f"parsl:{release.site.name}\nfor use from elsewhere, through Globus Compute: set "
            f"{' and '.join(CREDENTIALS)}, and deploy again"
        )
        return
    card = _card(release, rendering)
    click.echo(f"hand to users: {card}")


def _examine(release: Release) -> None:
    """Have the doctor look at the cluster, before anything is registered or installed."""
    from sitekit.doctor import Patient, report
    from sitekit.doctor.kubernetes import look

    site, rendering = release.site, Rendering(__version__, Path.home())
    findings = list(look(Patient(site=site, rendering=rendering, home=Path.home(), submit=False)))
    shown = [one for one in findings if one.level in {"failure", "warning"}]
    if shown:
        click.echo(report(site.origin, shown), err=True)
    bad = [one for one in shown if one.level == "failure"]
    if bad:
        raise BackendError(
            f"{site.name} was not deployed: {len(bad)} findings keep fits from running there",
            evidence="; ".join(f"{one.what}: {one.cause}" for one in bad),
            hint=f"put right what is marked FAILED above; make doctor SITE={site.name} looks again",
        )


def _undo(release: Release, done: Installed, seconds: int, error: BackendError) -> None:
    """Let what served before serve again, after a smoke test that failed."""
    if not done.changed or done.before is None:
        return
    click.echo(f"the smoke test failed: going back to revision {done.before}", err=True)
    release.put_back(done.before, seconds=seconds)
    error.cause = f"{error.cause}; what served before serves again"


def _function_id(site: Site, given: str | None) -> str | None:
    """Return the id of the function that the endpoint lets run, registered if need be."""
    if given or site.access.functions:
        return given
    if credentials():
        from fitserve_worker.function import register

        sharing = site.access.function_sharing
        group = None if sharing in {"public", "private"} else sharing
        return register(public=sharing == "public", group=group).function_id
    if site.pods.credentials_secret:
        raise RequestError(
            f"no function is known that the endpoint of {site.name} may run",
            hint="--function-id with what `fitserve-worker function register` prints, or "
            "access.functions in the site file",
        )
    return None


def _card(release: Release, rendering: Rendering) -> Path:
    ident = release.endpoint_id()
    if ident is None:
        raise BackendError(
            f"{release.name} runs, but is not registered with Globus",
            hint=f"kubectl --namespace {release.namespace} logs deployment/{release.name}",
        )
    known = Rendering(rendering.version, rendering.home, ident, rendering.function_id)
    directory = _directory(release)
    write_files({CARD: text(site_card(release.site, known))}, directory)
    return directory / CARD


def _directory(release: Release) -> Path:
    return Path("build") / "deploy" / release.site.name


@cluster.command()
@_site
@_as_json
def status(*, site: Loaded, as_json: bool) -> None:
    """Say what SITE's pods are doing, and what they wait for."""
    from sitekit.cluster import watch

    found = watch.status(_open(site)[0])
    click.echo(json.dumps(found, indent=2) if as_json else watch.words(found))


@cluster.command()
@_site
@_as_json
@_seconds
def smoke(*, site: Loaded, as_json: bool, seconds: int) -> None:
    """Have a real fit done by a worker pod of SITE, through its endpoint if it has one."""
    _smoke(*_open(site), seconds, as_json=as_json)


def _smoke(release: Release, rendering: Rendering, seconds: int, *, as_json: bool = False) -> None:
    from sitekit.deployment.host_commands import stages_words

    stages = have_a_fit(release, rendering, _directory(release), seconds)
    bad = [one for one in stages if not one["ok"]]
    found = {"ok": not bad, "stages": stages}
    click.echo(json.dumps(found, indent=2) if as_json else stages_words(stages))
    if bad:
        raise BackendError(
            f"the smoke test of {release.site.name} failed: {bad[0]['what']}",
            evidence=bad[0]["told"],
            hint=bad[0]["next"] or f"make status SITE={release.site.name}",
        )


@cluster.command()
@_site
@_seconds
@_try_it
def rollback(*, site: Loaded, seconds: int, try_it: bool) -> None:
    """Let the revision of SITE that served before, and was another, serve again."""
    release, rendering = _open(site)
    revision = release.rollback(seconds=seconds)
    click.echo(f"{release.site.name} is served by what revision {revision} was")
    if try_it:
        _smoke(release, rendering, seconds)


@cluster.command()
@_site
def stop(*, site: Loaded) -> None:
    """End the endpoint of SITE and its workers; deploying again starts them."""
    release, _ = _open(site)
    release.stop()
    click.echo(f"{release.name} is stopped")


@cluster.command()
@_site
@click.option("--lines", default=40, show_default=True, help="Of each pod.")
def logs(*, site: Loaded, lines: int) -> None:
    """Show the end of what SITE's pods have said."""
    click.echo(_open(site)[0].logs(lines), nl=False)


@cluster.command()
@_site
@click.option("--yes", is_flag=True, help="Do not ask.")
def destroy(*, site: Loaded, yes: bool) -> None:
    """Take SITE out of its cluster, with everything that deploying made."""
    release, _ = _open(site)
    if not yes:
        click.confirm(f"Remove {release.name} and the endpoint's state?", abort=True)
    left = release.destroy()
    if left:
        raise BackendError(
            f"something of {release.name} is left in namespace {release.namespace}",
            evidence=", ".join(left),
        )
    click.echo(f"{release.name} is gone")
