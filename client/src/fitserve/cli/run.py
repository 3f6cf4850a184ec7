"""`fitserve run`, `resume`, `cancel`, `show` and `runs`: make a run, go on with it, look at it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from fitserve.cli.pallets import edits_of, pallet_options, signals_of
from fitserve.errors import ModelWarning
from fitserve.kinds import KINDS
from fitserve_contract import (
    EngineOptions,
    HypotestRequest,
    ModelOptions,
    allowed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from msgspec import Struct

    from fitserve.api import Run
    from fitserve.runs.plan import Bounds

__all__ = ["asking", "cancel", "request_options", "resume", "run", "runs", "show"]

_Command = TypeVar("_Command", bound="Callable[..., Any]")


def asking(command: _Command) -> _Command:
    """Add the options that say what to compute: by default CLs at ``--mu``."""
    for option in reversed([option for kind in KINDS.values() for option in kind.options]):
        command = option(command)
    return command


def request_options(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `fitserve.api.make_request` that the options stand for.

    Raises
    ------
    click.UsageError
        Options are of different kinds of request.
    """
    usual, *others = KINDS
    chosen = [name for name in others if options[name]]
    if len(chosen) > 1:
        raise click.UsageError(f"--{chosen[0]} and --{chosen[1]} are two requests: make two runs")
    name = chosen[0] if chosen else usual
    for flag in dict.fromkeys(flag for kind in KINDS.values() for flag in kind.flags):
        given = context.get_parameter_source(flag) is not ParameterSource.DEFAULT
        if given and flag not in KINDS[name].flags:
            option = flag.replace("_", "-")
            if name == usual:
                takes = next(kind.name for kind in KINDS.values() if flag in kind.flags)
                raise click.UsageError(f"--{option} goes with --{takes}")
            raise click.UsageError(f"--{option} does not go with --{name}")
    return {"kind": name, **KINDS[name].arguments(options)}


def _choice(
    flag: str, struct: type[Struct], field: str, text: str
) -> Callable[[_Command], _Command]:
    """Return an option whose values and default are those of a field of the contract."""
    return click.option(
        flag,
        type=click.Choice(allowed(struct, field)),
        default=getattr(struct(), field),
        show_default=True,
        help=text,
    )


def _bounded(command: _Command) -> _Command:
    """Add the options that bound tasks, and those of every command that fits."""
    for option in (
        click.option(
            "--workers", type=click.IntRange(min=1), help="Local workers. [default: every core]"
        ),
        click.option(
            "--max-task-bytes",
            type=click.IntRange(min=1),
            help="Largest encoded task. [default: 5000000]",
        ),
        click.option(
            "--max-task-hypotheses",
            type=click.IntRange(min=1),
            help="Most hypotheses in one task. [default: 64]",
        ),
        click.option(
            "--max-task-seconds",
            type=click.FloatRange(min=0, min_open=True),
            help="Longest estimated task. [default: about 60]",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print summary and results as JSON."),
        click.option("-q", "--quiet", is_flag=True, help="Show no progress and no table."),
    ):
        command = option(command)
    return command


def _settable(command: _Command) -> _Command:
    """Add the option that sets what a site lets its users set."""
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set an option of the site; may be repeated. ('fitserve endpoints list' shows them)",
    )(command)


@click.command()
@click.argument("pallet")
@click.option(
    "-e",
    "--endpoint",
    multiple=True,
    default=("local",),
    show_default=True,
    envvar="FITSERVE_ENDPOINT",
    help="Where to fit: 'local' (this machine), 'inline' (this process), 'parsl:SITE' (its own "
    "scheduler), or an endpoint that you added; repeated, they share the run.",
)
@_settable
@pallet_options
@click.option(
    "--patch",
    "patches",
    multiple=True,
    metavar="GLOB",
    help="Only hypotheses whose names match; may be repeated.",
)
@asking
@_choice("--test-stat", HypotestRequest, "test_stat", "Test statistic.")
@click.option("--measurement", help="Measurement of the workspace. [default: its first]")
@click.option("--poi", help="Parameter of interest. [default: the measurement's]")
@click.option(
    "--mu-max",
    type=click.FloatRange(0, min_open=True),
    metavar="MU",
    help="Raise the upper bound of the parameter of interest; limits are looked for up to there. "
    "[default: the measurement's, else 10; for limits beyond it the signal is rescaled]",
)
@_choice("--normsys", ModelOptions, "normsys", "Interpolation of normalisations.")
@_choice("--histosys", ModelOptions, "histosys", "Interpolation of shapes; code2 jumps at +-1.")
@_choice("--engine", EngineOptions, "engine", "What fits.")
@_choice("--backend", EngineOptions, "backend", "Tensor backend of the pyhf engine.")
@_choice("--optimizer", EngineOptions, "optimizer", "Optimizer of the pyhf engine.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False),
    help="The run directory. [default: fitserve-runs/NAME-DIGEST]",
)
@click.option("--plan", "plan_only", is_flag=True, help="Show the tasks, and fit nothing.")
@click.option("--refit", is_flag=True, help="Also fit hypotheses that already have results.")
@click.option(
    "--verify",
    type=click.FloatRange(0, 1),
    metavar="FRACTION",
    help="Have this fraction of the hypotheses fitted by pyhf too, when all have a result, and "
    "compare. [default: 2 %, at least one, where pyhf needs less than the run; 0: none]",
)
@_bounded
@click.pass_context
def run(context: click.Context, /, pallet: str, **options: Any) -> None:
    """Fit the signal hypotheses of PALLET; by default for CLs.

    PALLET is a directory, an archive, a URL, a DOI, the name of a known analysis
    ('fitserve analyses list'), a complete workspace, or the YAML file of a combination. Finished
    results of the same question are reused.
    """
    from fitserve.api import make_request
    from fitserve.api import run as run_pallet
    from fitserve.console import warn
    from fitserve.runs.summary import cautions

    request = make_request(
        **request_options(context, options),
        **{
            name: options[name]
            for name in (
                "measurement",
                "poi",
                "mu_max",
                "normsys",
                "histosys",
                "engine",
                "backend",
                "optimizer",
            )
        },
    )
    for caution in cautions(request):
        warn(caution)
    chosen = {name: options[name] for name in ("region", "masses", "patches", "force", "verify")}
    chosen["signals"] = signals_of(options)
    chosen |= edits_of(options)
    chosen["endpoint"] = ",".join(options["endpoint"])
    chosen["options"] = _settings(options)
    if options["plan_only"]:
        from fitserve.cli.terminal import show_plan

        show_plan(
            pallet,
            request,
            workers=options["workers"],
            bounds=_bounds(options),
            as_json=options["as_json"],
            **chosen,
        )
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        finished = run_pallet(
            pallet,
            request=request,
            output=options["output"],
            refit=options["refit"],
            workers=options["workers"],
            bounds=_bounds(options),
            progress=not options["quiet"],
            **chosen,
        )
    _conclude(finished, options)


@click.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(file_okay=False))
@click.option("-e", "--endpoint", multiple=True, help="Another endpoint than the run began on.")
@_settable
@click.option("--retry-failed", is_flag=True, help="Fit failed hypotheses again.")
@_bounded
def resume(run_directory: str, **options: Any) -> None:
    """Finish RUN; hypotheses that have a result are not fitted again."""
    from pathlib import Path

    from fitserve.api import resume as resume_run
    from fitserve.console import warn
    from fitserve.runs.prepare import other_owner

    path = Path(run_directory)
    if path.is_dir() and (owner := other_owner(path)) is not None:
        warn(f"{path} belongs to {owner}, not to you: this fits what they put there")
    finished = resume_run(
        run_directory,
        endpoint=options["endpoint"] or None,
        options=_settings(options) or None,
        retry_failed=options["retry_failed"],
        workers=options["workers"],
        bounds=_bounds(options),
        progress=not options["quiet"],
    )
    _conclude(finished, options)


@click.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(file_okay=False))
def cancel(run_directory: str) -> None:
    """Stop RUN; finished results are kept, and tasks that a service has go on there."""
    from pathlib import Path

    from fitserve.console import say
    from fitserve.runs.drive import pending_tasks
    from fitserve.runs.store import ask_to_cancel, read_run

    path = Path(run_directory)
    if ask_to_cancel(path):
        say("asked the process that works on it to stop: it reports what is left")
    elsewhere = [task for task in pending_tasks(read_run(path).events()) if task.handle]
    if not elsewhere:
        say("no service has tasks of it")
        return
    count = sum(len(task.hypotheses) for task in elsewhere)
    say(
        f"{count} hypotheses in {len(elsewhere)} tasks are at the service, which cannot cancel "
        f"them: they go on there, and fitserve resume {path} collects them"
    )


def _settings(options: dict[str, Any]) -> dict[str, str]:
    from fitserve.endpoints import parse_options

    return parse_options(options["settings"])


def _bounds(options: dict[str, Any]) -> Bounds:
    from fitserve.runs.plan import Bounds

    given = {
        "bytes": options["max_task_bytes"],
        "hypotheses": options["max_task_hypotheses"],
        "seconds": options["max_task_seconds"],
    }
    return Bounds(**{name: value for name, value in given.items() if value is not None})


def _conclude(finished: Run, options: dict[str, Any]) -> None:
    """Show the run, and end with the exit code that says whether it is complete."""
    from fitserve.cli.terminal import require_complete, show_run

    show_run(finished.saved, as_json=options["as_json"], table=not options["quiet"])
    require_complete(finished.saved)


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

    entries: list[dict[str, Any]] = []
    for path in known_runs():
        try:
            run = read_run(path)
        except StoreError as error:
            entries.append({"run": str(path), "error": error.cause})
            continue
        entries.append(
            {
                "run": str(path),
                "pallet": run.manifest.pallet.name,
                "created": run.manifest.created,
                "endpoint": run.manifest.endpoint,
                "hypotheses": counts(run),
            }
        )
    if as_json:
        emit_json(entries)
        return
    if not entries:
        say("there are no runs yet: fitserve run PALLET")
        return
    show_table(["created", "pallet", "endpoint", "hypotheses", "run"], map(_run_cells, entries))


def _run_cells(entry: dict[str, Any]) -> list[str]:
    if "error" in entry:
        return ["", "", "", entry["error"], entry["run"]]
    counts = ", ".join(f"{number} {word}" for word, number in entry["hypotheses"].items() if number)
    return [entry["created"], entry["pallet"], entry["endpoint"], counts, entry["run"]]
