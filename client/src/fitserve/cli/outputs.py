"""What is made of runs: `fitserve contour`, `plot`, `report`, `export` and `diff`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fitserve.export import FORMATS, export_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fitserve.draw.grid import MassGrid
    from fitserve.export.compare import Comparison

__all__ = ["contour", "diff", "export", "mass_options", "plot", "report"]

_Command = TypeVar("_Command", bound="Callable[..., Any]")


def _pair(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    names = [part.strip() for part in text.split(",")]
    if len(names) != 2 or not all(names):  # noqa: PLR2004 - a plane
        raise click.BadParameter("give two labels with a comma between them, as in m1,m2")
    return names[0], names[1]


def _assignments(
    _: click.Context, __: click.Parameter, texts: Sequence[str]
) -> dict[str, float | str]:
    values: dict[str, float | str] = {}
    for text in texts:
        label, equals, value = text.partition("=")
        if not (label and equals and value):
            raise click.BadParameter(f"{text!r} is not LABEL=VALUE")
        values[label] = value
    return values


def _references(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for text in texts:
        label, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            label, file = Path(text).stem or text, text
        paths[label] = Path(file)
    return paths


def mass_options(command: _Command) -> _Command:
    """Add the options that say which masses a picture is of, and how it is titled."""
    for option in (
        click.option(
            "--at",
            metavar="LABEL=VALUE",
            multiple=True,
            callback=_assignments,
            help="Take only hypotheses with this mass value. May be given several times.",
        ),
        click.option(
            "--plane",
            metavar="X,Y",
            callback=_pair,
            help="Labels of the mass values to draw, where more than two vary. [default: the "
            "first two on which the others depend linearly]",
        ),
        click.option("--y", metavar="TITLE", help="Title of the y axis (mathtext)."),
        click.option("--x", metavar="TITLE", help="Title of the x axis (mathtext)."),
        click.option("--title", help="Line above the legend instead of the analysis' title."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Picture to write; its name ends with .png, .pdf or .svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the curves and points as JSON.")
@click.option(
    "--reference",
    "references",
    metavar="[LABEL=]FILE",
    multiple=True,
    callback=_references,
    help="Lay another contour over it: a run, a results.json, CSV or JSON with x and y, or a "
    "HEPData table. May be given several times.",
)
@mass_options
@click.option(
    "--mu",
    type=float,
    help="Signal strength, where the run has several. [default: the nearest to 1]",
)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Confidence level. [default: that of a run for limits, else 0.95]",
)
@click.option(
    "--interpolation",
    type=click.Choice(["smooth", "linear"]),
    default="smooth",
    show_default=True,
    help="How the significance is interpolated between the points.",
)
@click.option("--drop-suspect", is_flag=True, help="Treat suspect results as holes.")
def contour(
    run: Path,
    *,
    output: Path | None,
    references: dict[str, Path],
    title: str | None,
    x: str | None,
    y: str | None,
    plane: tuple[str, str] | None,
    at: dict[str, float | str],
    mu: float | None,
    level: float | None,
    interpolation: str,
    as_json: bool,
    drop_suspect: bool,
) -> None:
    """Draw the exclusion contour of RUN.

    Observed and expected limits are interpolated in significance between the hypotheses.
    Nothing is interpolated next to a hypothesis without a valid result. Where a single mass
    varies, CLs is drawn against it.
    """
    if output is None and not as_json:
        raise click.UsageError("give -o FILE, --json, or both")
    from fitserve.console import emit_json, say
    from fitserve.draw.contour import draw_contour
    from fitserve.draw.curves import contour_lines
    from fitserve.draw.grid import ContourOptions
    from fitserve.draw.style import format_of, save_figure
    from fitserve.runs.store import read_run

    if output is not None:
        format_of(output)
    saved = read_run(run)
    options = ContourOptions(
        plane=plane,
        at=at,
        mu=mu,
        level=level,
        interpolation="linear" if interpolation == "linear" else "smooth",
        drop_suspect=drop_suspect,
        title=title,
        x=x,
        y=y,
        references=references,
    )
    contours = contour_lines(saved.manifest, saved.results, options)
    if output is not None:
        save_figure(draw_contour(saved.manifest, saved.results, options, contours), output)
        say(f"{output}: {_summary(contours.grid)}")
        for note in contours.grid.notes:
            say(f"note: {note}")
    if as_json:
        emit_json(contours.to_dict())


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="HTML file to write; it needs no other file and no network.",
)
def report(run: Path, output: Path) -> None:
    """Write a report of RUN: contour, table, failures, provenance and timing."""
    from fitserve.console import say
    from fitserve.report import write_report
    from fitserve.runs.store import read_run

    saved = read_run(run)
    write_report(saved, output)
    say(f"{output}: {len(saved.results)} of {len(saved.manifest.hypotheses)} hypotheses")


def _summary(grid: MassGrid) -> str:
    sure = sum(out and state == "ok" for out, state in zip(grid.excluded, grid.states, strict=True))
    plane = " and ".join(grid.labels)
    parts = [f"{plane}; {sure} of {len(grid.names)} hypotheses excluded at {grid.exclusion}"]
    for state in ("suspect", "failed", "unfinished"):
        count = grid.states.count(state)
        if count:
            parts.append(f"{count} {state}")
    return ", ".join(parts)


def _drawing(command: _Command) -> _Command:
    """Add the run and the picture to write."""
    command = click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=True,
        help="Picture to write; its name ends with .png, .pdf or .svg.",
    )(command)
    return click.argument("run", type=click.Path(path_type=Path))(command)


def _of_one(command: _Command) -> _Command:
    """Add the choice of a hypothesis."""
    return click.option(
        "--patch", "name", metavar="NAME", help="The hypothesis, where the run has several."
    )(command)


def _save(run: Path, output: Path, draw: Callable[..., Any], *args: Any, **options: Any) -> None:
    from fitserve.console import say
    from fitserve.draw.style import format_of, save_figure
    from fitserve.runs.store import read_run

    format_of(output)
    saved = read_run(run)
    save_figure(draw(saved.manifest, saved.results, *args, **options), output)
    say(str(output))


@click.group()
def plot() -> None:
    """Draw limits, scans, fits, rankings and toys; for contours there is 'fitserve contour'."""


@plot.command()
@_drawing
@mass_options
def limits(run: Path, *, output: Path, **chosen: Any) -> None:
    """Draw upper limits of a --limit run: a band along one mass, or a map of the mass plane."""
    from fitserve.draw.grid import ContourOptions
    from fitserve.draw.limits import draw_limits

    _save(run, output, draw_limits, ContourOptions(**chosen))


@plot.command()
@_drawing
@_of_one
def scan(run: Path, *, output: Path, name: str | None) -> None:
    """Draw profile likelihood and CLs of a --scan run (or the points of a --limit run)."""
    from fitserve.draw.scan import draw_scan

    _save(run, output, draw_scan, name)


@plot.command()
@_drawing
@_of_one
def pulls(run: Path, *, output: Path, name: str | None) -> None:
    """Draw pulls and constraints of a --fit run."""
    from fitserve.draw.pulls import draw_pulls

    _save(run, output, draw_pulls, name)


@plot.command()
@_drawing
@_of_one
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Leave out parameters whose largest correlation is below this.",
)
@click.option(
    "--most", type=click.IntRange(min=2), default=40, show_default=True, help="Most parameters."
)
def correlations(run: Path, *, output: Path, name: str | None, threshold: float, most: int) -> None:
    """Draw the correlation matrix of a --fit run."""
    from fitserve.draw.pulls import draw_correlations

    _save(run, output, draw_correlations, name, threshold=threshold, most=most)


@plot.command()
@_drawing
@_of_one
@click.option("--prefit", is_flag=True, help="Before the fit instead of after it.")
def yields(run: Path, *, output: Path, name: str | None, prefit: bool) -> None:
    """Draw observed and expected events of a --fit run, by channel, bin and sample."""
    from fitserve.draw.yields import draw_yields

    _save(run, output, draw_yields, name, prefit=prefit)


@plot.command()
@_drawing
@_of_one
@click.option(
    "--most", type=click.IntRange(min=1), default=20, show_default=True, help="Most parameters."
)
def ranking(run: Path, *, output: Path, name: str | None, most: int) -> None:
    """Draw the impacts of the nuisance parameters of a --ranking run, with their pulls."""
    from fitserve.draw.ranking import draw_ranking

    _save(run, output, draw_ranking, name, most=most)


@plot.command()
@_drawing
@_of_one
def toys(run: Path, *, output: Path, name: str | None) -> None:
    """Draw the distributions of the test statistic of a --toys run."""
    from fitserve.draw.toys import draw_toys

    _save(run, output, draw_toys, name)


_MOST_LISTED = 20


def _contents() -> str:
    """Describe the content of each format; formats with the same content share a line."""
    alike = groupby(FORMATS, key=lambda name: FORMATS[name].content)
    return "; ".join(f"{', '.join(names)}: {content}" for content, names in alike)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    required=True,
    help=f"{_contents()}.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    help="File to write; for hepdata a directory or a name ending with .tar.gz; - is the "
    f"standard output ({', '.join(name for name, one in FORMATS.items() if one.text)}).",
)
def export(run: Path, format_: str, output: Path) -> None:
    """Write the results of RUN in another format."""
    from fitserve.console import warn
    from fitserve.runs.store import read_run

    saved = read_run(run)
    export_run(saved.manifest, saved.results, format_, output)
    if saved.unfinished:
        warn(f"{len(saved.unfinished)} hypotheses are not finished")


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--tol",
    "tolerance",
    type=click.FloatRange(min=0),
    default=1e-3,
    show_default=True,
    help="Greatest absolute difference of a CLs that counts as agreement.",
)
@click.option("--common", is_flag=True, help="Compare only hypotheses that are in both.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.pass_context
def diff(
    context: click.Context, a: Path, b: Path, tolerance: float, *, common: bool, as_json: bool
) -> None:
    """Compare the CLs of A and B: runs, results.json or reference files.

    The exit code is 0 where they agree, 7 where a CLs differs by more than the tolerance, a
    hypothesis is in one of them only, or its status has changed.
    """
    from fitserve.console import emit_json
    from fitserve.export.compare import DIFFERENT
    from fitserve.export.compare import diff as compare_sources

    comparison = compare_sources(a, b, tolerance, common=common)
    if as_json:
        emit_json(comparison)
    else:
        _show_comparison(comparison, a, b)
    context.exit(0 if comparison.agree else DIFFERENT)


def _show_comparison(comparison: Comparison, a: Path, b: Path) -> None:
    from fitserve.console import tell

    tell(f"{comparison.hypotheses} hypotheses in both, {comparison.numbers} CLs compared")
    if comparison.largest is not None:
        worst = comparison.largest
        tell(f"largest difference {worst.delta:+.3g}: {worst.field} of {worst.name}")
    tell(f"{len(comparison.beyond)} differ by more than {comparison.tolerance:g}")
    for item in comparison.beyond[:_MOST_LISTED]:
        delta = "" if item.delta is None else f"  ({item.delta:+.3g})"
        tell(f"  {item.name}  {item.field}  {_cls_text(item.a)} -> {_cls_text(item.b)}{delta}")
    _tell_more(len(comparison.beyond))
    if comparison.status_changes:
        tell(f"{len(comparison.status_changes)} have another status")
    for change in comparison.status_changes[:_MOST_LISTED]:
        reason = f"  ({change.reason})" if change.reason else ""
        tell(f"  {change.name}  {change.a} -> {change.b}{reason}")
    _tell_more(len(comparison.status_changes))
    for path, names in ((a, comparison.only_a), (b, comparison.only_b)):
        if names:
            tell(f"{len(names)} only in {path}")
            for name in names[:_MOST_LISTED]:
                tell(f"  {name}")
            _tell_more(len(names))


def _cls_text(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _tell_more(count: int) -> None:
    from fitserve.console import tell

    if count > _MOST_LISTED:
        tell(f"  ... and {count - _MOST_LISTED} more")
