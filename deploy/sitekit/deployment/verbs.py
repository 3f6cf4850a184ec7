"""`make deploy`, `status`, `smoke`, `upgrade` and so on, for a site on any kind of target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sitekit.deployment.cluster import Cluster
from sitekit.deployment.host import Host
from sitekit.deployment.targets import CARD, CREDENTIALS, Target
from sitekit.load import open_site

if TYPE_CHECKING:
    from collections.abc import Callable

    from sitekit.load import Loaded
    from sitekit.site import Site

__all__ = ["VERBS"]


class _Only(click.Option):
    """An option of one kind of target, with what to do instead on the other."""

    def __init__(self, *names: Any, target: type[Target], instead: str, **more: Any) -> None:
        super().__init__(*names, **more)
        self.target = target
        self.instead = instead


class _Verb(click.Command):
    """A command whose help lists the options of each kind of target apart."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options for `--help`."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for option in self.get_params(ctx):
            shown = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            where = f"On a {option.target.kind}" if isinstance(option, _Only) else "Options"
            if shown:
                sections.setdefault(where, []).append(shown)
        for where, rows in sections.items():
            with formatter.section(where):
                formatter.write_dl(rows)


def _on_host(instead: str, *names: str, **more: Any) -> Callable[..., Any]:
    return click.option(*names, cls=_Only, target=Host, instead=instead, **more)


def _on_cluster(instead: str, *names: str, **more: Any) -> Callable[..., Any]:
    return click.option(*names, cls=_Only, target=Cluster, instead=instead, **more)


_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_CONTEXT = "kubectl's context says which cluster (kubectl config use-context)"
_CHART = "`make values` prints what Helm is given"
_IMAGES = "the site file names the images, by kubernetes.image"
_NO_SMOKE = "no job is submitted before it is installed; --no-smoke leaves out the fit"
_CREDENTIALS = f"set {' and '.join(CREDENTIALS)}"
_PODS = "`make status` says which pods run, and what they wait for"
_FIELDS = "the site file says all of it"
_REACH = (
    _on_host(_CONTEXT, "--host", help="Log in there, instead of the site file's login.host."),
    _on_host(_CONTEXT, "--user", help="Log in as this user."),
    _on_host(_CONTEXT, "--here", is_flag=True, help="This machine is the login node."),
    _on_host(_CONTEXT, "--ssh-config", type=_FILE, help="Instead of ~/.ssh/config."),
    _on_host(_IMAGES, "--python", help="The target's Python for fitserve."),
    _on_host(_PODS, "-v", "verbose", count=True, help="Say more."),
)
_SECONDS = click.option(
    "--seconds", default=900, show_default=True, help="How long a fit or a pod may take."
)
_SMOKE = _on_cluster(
    "a release serves only once it has passed its trial",
    *("--smoke/--no-smoke", "smoke"),
    default=True,
    help="Try it with a real fit.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
_DRAIN = _on_host(_PODS, "--drain-seconds", type=int, help="How long to wait for users' fits.")
_INSTALLING = (
    _SECONDS,
    _on_host(_CHART, "--check", is_flag=True, help="Change nothing; say what would change."),
    _on_host(_CHART, "--diff", is_flag=True, help="Show what changes in files."),
    _on_host(
        _IMAGES, "--image", type=_FILE, help="SIF image to copy to where the site file has it."
    ),
    _DRAIN,
    _on_host(_NO_SMOKE, "--no-job", is_flag=True, help="Let the doctor submit no job."),
    _on_host(
        _CREDENTIALS, "--cloud", is_flag=True, help="Use the Globus login of the target's user."
    ),
    _on_cluster(_FIELDS, "--function-id", help="Id of fitserve's registered function."),
    _on_cluster(_FIELDS, "--endpoint-id", help="Id of an endpoint that is registered already."),
    _on_cluster(_FIELDS, "--values", type=_FILE, help="Helm values that win over the site's."),
    _SMOKE,
)


def _verb(*options: Callable[..., Any]) -> Callable[[Callable[[Target], None]], click.Command]:
    """Make a command of SITE, with these options, from a function of its target."""

    def made_of(done: Callable[[Target], None]) -> click.Command:
        def command(context: click.Context, site: Loaded, **arguments: Any) -> None:
            for warning in site.warnings:
                click.echo(f"warning: {warning}", err=True)
            done(_target(context, site.site, arguments))

        called: Any = click.pass_context(command)
        for option in reversed((click.argument("site", callback=open_site), *_REACH, *options)):
            called = option(called)
        made: click.Command = click.command(done.__name__, cls=_Verb, help=done.__doc__)(called)
        return made

    return made_of


def _target(context: click.Context, site: Site, arguments: dict[str, Any]) -> Target:
    """Return what a site is deployed to; an option of the other kind of target is refused."""
    kind: type[Target] = Cluster if site.scheduler.type == "kubernetes" else Host
    for option in context.command.params:
        if not isinstance(option, _Only) or option.target is kind:
            continue
        name = str(option.name)
        del arguments[name]
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            names = "/".join([*option.opts, *option.secondary_opts])
            raise click.UsageError(
                f"{names} is for a {option.target.kind}, and {site.name} is deployed to a "
                f"{kind.kind}: {option.instead}"
            )
    return kind(site, kind.takes(**arguments))


@_verb(*_INSTALLING)
def deploy(target: Target) -> None:
    """Bring SITE up: check it, examine it, install it, start it, and test it with a real fit."""
    with target.alone():
        target.install(upgrade=False)


@_verb(*_INSTALLING)
def upgrade(target: Target) -> None:
    """Let this version serve SITE, which is deployed, once it has passed its trial.

    A version that does not pass does not serve. On a login node, users' running fits go on.
    """
    with target.alone():
        target.install(upgrade=True)


@_verb(_SECONDS, _SMOKE)
def rollback(target: Target) -> None:
    """Let the last different version that served SITE serve again."""
    with target.alone():
        target.rollback()


@_verb(
    _JSON,
    _on_host(
        "`make stop` ends all its pods",
        "--end-orphans",
        is_flag=True,
        help="End the processes and jobs of a dead endpoint.",
    ),
)
def status(target: Target) -> None:
    """Say what the endpoint of SITE is doing, and what it waits for."""
    answer = target.status()
    click.echo(
        json.dumps(answer, indent=2) if target.options.as_json else target.status_text(answer)
    )


@_verb(_JSON, _SECONDS)
def smoke(target: Target) -> None:
    """Do a real fit on SITE, and print the time of each stage."""
    target.try_it()


@_verb(_DRAIN)
def stop(target: Target) -> None:
    """Stop the endpoint of SITE with its workers and jobs; `make deploy` starts it again."""
    with target.alone():
        target.stop()


@_verb(click.option("--lines", default=40, show_default=True, help="Of each log."))
def logs(target: Target) -> None:
    """Show the end of each log of SITE's endpoint."""
    click.echo(target.logs(), nl=False)


@_verb(click.option("--yes", is_flag=True, help="Do not ask."))
def destroy(target: Target) -> None:
    """Remove the endpoint of SITE and everything that deploying made."""
    name = target.site.name
    if not target.options.yes:
        click.confirm(f"Remove the endpoint of {name}, its logs and kept answers?", abort=True)
    with target.alone():
        target.destroy()
        (target.directory / CARD).unlink(missing_ok=True)


VERBS = (deploy, status, smoke, upgrade, rollback, stop, logs, destroy)
