"""`fitserve plot`: pictures of limits, scans, fits, rankings and toys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fitserve.cli.pictures import mass_options

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["plot"]

_Command = TypeVar("_Command", bound="Callable[..., Any]")


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
    from fitserve.contour import save_figure
    from fitserve.contour.saving import format_of
    from fitserve.store import read_run

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
    from fitserve.contour import ContourOptions
    from fitserve.pictures import draw_limits

    _save(run, output, draw_limits, ContourOptions(**chosen))


@plot.command()
@_drawing
@_of_one
def scan(run: Path, *, output: Path, name: str | None) -> None:
    """Draw profile likelihood and CLs of a --scan run (or the points of a --limit run)."""
    from fitserve.pictures import draw_scan

    _save(run, output, draw_scan, name)


@plot.command()
@_drawing
@_of_one
def pulls(run: Path, *, output: Path, name: str | None) -> None:
    """Draw pulls and constraints of a --fit run."""
    from fitserve.pictures import draw_pulls

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
    from fitserve.pictures import draw_correlations

    _save(run, output, draw_correlations, name, threshold=threshold, most=most)


@plot.command()
@_drawing
@_of_one
@click.option("--prefit", is_flag=True, help="Before the fit instead of after it.")
def yields(run: Path, *, output: Path, name: str | None, prefit: bool) -> None:
    """Draw observed and expected events of a --fit run, by channel, bin and sample."""
    from fitserve.pictures import draw_yields

    _save(run, output, draw_yields, name, prefit=prefit)


@plot.command()
@_drawing
@_of_one
@click.option(
    "--most", type=click.IntRange(min=1), default=20, show_default=True, help="Most parameters."
)
def ranking(run: Path, *, output: Path, name: str | None, most: int) -> None:
    """Draw the impacts of the nuisance parameters of a --ranking run, with their pulls."""
    from fitserve.pictures import draw_ranking

    _save(run, output, draw_ranking, name, most=most)


@plot.command()
@_drawing
@_of_one
def toys(run: Path, *, output: Path, name: str | None) -> None:
    """Draw the distributions of the test statistic of a --toys run."""
    from fitserve.pictures import draw_toys

    _save(run, output, draw_toys, name)
