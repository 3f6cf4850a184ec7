"""The command line behind `make check`, `render`, `doctor`, `deploy` and their siblings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from fitserve import __version__
from fitserve.errors import BackendError, FitserveError, RequestError
from sitekit.deployment.release import namespace_manifest
from sitekit.deployment.verbs import VERBS
from sitekit.derive import derive
from sitekit.fields import Bounds
from sitekit.golden import (
    GOLDEN,
    GOLDEN_SITES,
    PAGE,
    fields_page,
    golden_differences,
    write_golden,
    write_submissions,
)
from sitekit.helm_values import helm_values, hub_values
from sitekit.load import flat_site, load_site, open_site, shipped_sites
from sitekit.new_site import QUESTIONS, SCHEDULERS, Question, answers_for, write_site
from sitekit.pods import run_job
from sitekit.render import Rendering, render_site, write_files
from sitekit.rules import require_valid

if TYPE_CHECKING:
    from collections.abc import Callable

    from sitekit.fields import Choice, Selection
    from sitekit.load import Loaded
    from sitekit.site import Site

__all__ = ["main"]


def _say(text: str) -> None:
    click.echo(text, err=True)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """From one site file to a checked, rendered and examined endpoint."""


@commands.command("list")
def list_command() -> None:
    """List the shipped sites."""
    for name in shipped_sites():
        site, _ = load_site(name)
        status = " (retired)" if site.status == "retired" else ""
        click.echo(f"{name:16} {site.scheduler.type:10} {site.description}{status}")


@commands.command()
@click.argument("site", callback=open_site)
def check(site: Loaded) -> None:
    """Check SITE: a name, or the path of a site file."""
    loaded, warnings = site
    for warning in warnings:
        _say(f"warning: {warning}")
    for problem in require_valid(loaded):
        _say(str(problem))
    derived = derive(loaded)
    workers = "a worker for each core"
    if derived.workers_per_node:
        threads = _count(derived.threads or 1, "thread")
        workers = f"{_count(derived.workers_per_node, 'worker')} a node of {threads} each"
    click.echo(
        f"{loaded.name} is in order: {loaded.scheduler.type}, at most "
        f"{_count(loaded.blocks.max, 'block')} of "
        f"{_count(loaded.blocks.nodes, 'node')}, {workers} ({loaded.workers.device})"
    )
    if derived.core_hours_max:
        click.echo(
            f"worst case: {derived.core_hours_max:.0f} core-hours of one user, if every block "
            "lasts to its time limit"
        )


@commands.command()
@click.argument("site", callback=open_site)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Directory; by default build/sites/SITE."
)
@click.option("--home", type=click.Path(path_type=Path), help="Home of the endpoint's user.")
@click.option("--endpoint-id", help="Id of the registered endpoint.")
@click.option("--function-id", help="Id of fitserve's registered function.")
@click.option("--workers-venv", help="Release that environment.venv leads to.")
@click.option("--option", "options", multiple=True, help="NAME=VALUE for engine.json.")
def render(
    *,
    site: Loaded,
    out: Path | None,
    home: Path | None,
    endpoint_id: str | None,
    function_id: str | None,
    workers_venv: str | None,
    options: tuple[str, ...],
) -> None:
    """Render the endpoint directory of SITE."""
    loaded, warnings = site
    place = home or Path.home()
    rendering = Rendering(__version__, place, endpoint_id, function_id, workers_venv)
    files, problems = render_site(
        loaded, rendering, _options(loaded.user_options.allowed(), options)
    )
    for warning in [*warnings, *map(str, problems)]:
        _say(warning)
    directory = out or Path("build") / "sites" / loaded.name
    write_files(files, directory)
    click.echo(f"{directory}: {', '.join(sorted(files))}")


def _options(
    allowed: dict[str, Bounds | Selection | Choice], settings: tuple[str, ...]
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in settings:
        name, equals, value = item.partition("=")
        if not equals or name not in allowed:
            raise RequestError(
                f"--option {item} is not one that this site lets users set",
                hint=f"one of {', '.join(allowed) or 'none'}, as NAME=VALUE",
            )
        option = allowed[name]
        if isinstance(option, Bounds):
            if not value.isdecimal() or not option.minimum <= int(value) <= option.maximum:
                raise RequestError(
                    f"--option {item} is out of bounds",
                    hint=f"{name}={option.minimum} to {option.maximum}",
                )
            options[name] = int(value)
        elif value in (option.choices or [value]) and value.replace("-", "").isidentifier():
            options[name] = value
        else:
            raise RequestError(
                f"--option {item} is not one of the site's choices",
                hint=", ".join(option.choices or []) or "a name of letters, digits, - and _",
            )
    return options


@commands.command()
@click.argument("site", callback=open_site)
@click.option("--direct", is_flag=True, help="Do not check the cloud service: it is not used.")
@click.option("--no-job", is_flag=True, help="Submit no job.")
@click.option("--job-seconds", default=600.0, show_default=True, help="How long to wait for it.")
@click.option("--json", "as_data", is_flag=True, help="Print the findings as JSON.")
def doctor(*, site: Loaded, direct: bool, no_job: bool, job_seconds: float, as_data: bool) -> None:
    """Examine SITE on its login node, before anything is registered."""
    from sitekit.doctor import Patient, as_json, examine, report
    from sitekit.doctor.network import GLOBUS_HOSTS, MESSAGE_HOST

    loaded, warnings = site
    for warning in [*warnings, *map(str, require_valid(loaded))]:
        _say(warning)
    patient = Patient(
        site=loaded,
        rendering=Rendering(__version__, Path.home()),
        hosts=() if direct else GLOBUS_HOSTS,
        messages=None if direct else (MESSAGE_HOST, loaded.endpoint.amqp_port),
        submit=not no_job,
        job_seconds=job_seconds,
    )
    findings = []
    for finding in examine(patient):
        findings.append(finding)
        if not as_data:
            click.echo(report(loaded.origin, [finding]))
    if as_data:
        click.echo(json.dumps(as_json(loaded.origin, findings), indent=2))
    bad = [finding for finding in findings if finding.level == "failure"]
    if bad:
        raise BackendError(
            f"{len(bad)} of {len(findings)} findings keep fits from running on {loaded.name}",
            evidence="; ".join(finding.what for finding in bad),
            hint="correct what is marked FAILED above, then `make doctor` again",
        )


def _new_site_flags(command: Callable[..., None]) -> Callable[..., None]:
    for question in reversed(QUESTIONS):
        flag = f"--{question.name.replace('_', '-')}"
        command = click.option(flag, question.name, help=f"{question.text}.")(command)
    return command


@commands.command("new-site")
@click.argument("name")
@click.option("--scheduler", type=click.Choice([*SCHEDULERS, "ask"]), default="ask")
@click.option("--venv", help="Virtual environment of the workers, instead of an image.")
@click.option("--exclusive", is_flag=True, default=None, help="Blocks take whole nodes.")
@click.option("--out", type=click.Path(path_type=Path), help="Directory to write the file into.")
@_new_site_flags
def new_site(name: str, scheduler: str, out: Path | None, **flags: Any) -> None:
    """Write a commented site file NAME from flags, or from answers to questions."""
    interactive = sys.stdin.isatty()
    if scheduler == "ask":
        if not interactive:
            raise RequestError("a new site needs --scheduler", hint=", ".join(SCHEDULERS))
        scheduler = click.prompt("Scheduler", type=click.Choice(SCHEDULERS), err=True)

    def ask(question: Question, default: Any) -> Any:
        return click.prompt(question.text, default=default, err=True)

    answers = answers_for(
        {"name": name, "scheduler": scheduler, **flags}, ask if interactive else None
    )
    path, warnings = write_site(answers, out)
    for warning in warnings:
        _say(str(warning))
    click.echo(f"{path} is in order. Next: make render SITE={path}, make doctor SITE={path}")


@commands.command()
@click.option("--check", "only_check", is_flag=True, help="Fail if a golden file would change.")
@click.option("--submit", is_flag=True, help="Also what the real endpoint would submit.")
def golden(*, only_check: bool, submit: bool) -> None:
    """Write the golden files and the page of fields, or check them."""
    if not only_check:
        changed = write_golden()
        PAGE.write_text(fields_page(), encoding="utf-8")
        if submit:
            write_submissions()
        click.echo(f"changed: {', '.join(changed)}" if changed else "nothing changed")
        return
    differences = "".join(golden_differences(site) for site in GOLDEN_SITES)
    click.echo(differences, nl=False)
    if PAGE.read_text(encoding="utf-8") != fields_page():
        raise RequestError(f"{PAGE} is not what the schema says", hint="make golden")
    if differences:
        raise RequestError(
            f"the files in {GOLDEN} are not what the sites render to",
            hint="`make golden`, then review the diff",
        )


@commands.command(hidden=True)
@click.option("--python", required=True)
@click.option("--machine", required=True)
def bundle(python: str, machine: str) -> None:
    """Pack a release; prints its name and file as JSON."""
    from sitekit.deployment.bundle import make_bundle

    made = make_bundle(python, machine)
    click.echo(json.dumps({"release": made.release, "path": str(made.path)}))


@commands.command(hidden=True)
@click.argument("site", callback=open_site)
@click.option("--venv")
@click.option("--out", required=True, type=click.Path(path_type=Path))
def flat(site: Loaded, venv: str | None, out: Path) -> None:
    """Write a site and all that it extends as one file into a directory."""
    loaded = site.site
    write_files({f"{loaded.name}.yaml": flat_site(loaded, venv)}, out)


@commands.group()
def cluster() -> None:
    """Print the parts of a site on Kubernetes, for other tools to apply."""


def _open_cluster(context: click.Context, parameter: click.Parameter, name: str) -> Site:
    """Load a site of Kubernetes: click's callback."""
    site, warnings = open_site(context, parameter, name)
    for warning in warnings:
        _say(f"warning: {warning}")
    helm_values(site, Rendering(__version__, Path.home()))  # which refuses other sites
    return site


_cluster_site = click.argument("site", callback=_open_cluster)


def _print(document: dict[str, Any]) -> None:
    click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)


@cluster.command()
@_cluster_site
@click.option("--function-id", help="Id of fitserve's registered function.")
@click.option("--endpoint-id", help="Id of an endpoint that is registered already.")
def values(site: Site, function_id: str | None, endpoint_id: str | None) -> None:
    """Print the Helm values of SITE."""
    _print(helm_values(site, Rendering(__version__, Path.home(), endpoint_id, function_id)))


@cluster.command()
@_cluster_site
def namespace(site: Site) -> None:
    """Print the namespace of SITE, which admits only pods of the restricted profile."""
    _print(namespace_manifest(site.pods.namespace))


@cluster.command()
@_cluster_site
def hub(site: Site) -> None:
    """Print Helm values of a JupyterHub whose notebooks use `parsl:SITE`."""
    _print(hub_values(site))


@cluster.command()
@_cluster_site
@click.argument("name")
@click.argument("command", nargs=-1, required=True)
def job(site: Site, name: str, command: tuple[str, ...]) -> None:
    """Print a Job NAME that runs COMMAND where `--endpoint parsl:SITE` works."""
    _print(run_job(site, __version__, name, command))


for verb in VERBS:
    commands.add_command(verb)


def main() -> None:
    """Run a command; a user's error is printed without a traceback, with its exit code."""
    try:
        commands.main(prog_name="sitekit", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except FitserveError as error:
        _say(str(error))
        sys.exit(error.exit_code)
