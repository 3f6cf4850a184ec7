"""Commands that export results or compare them: ``export`` and ``diff``."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fitserve.export import FORMATS, export_run

if TYPE_CHECKING:
    from fitserve.export.compare import Comparison

__all__ = ["diff", "export"]

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
        _show(comparison, a, b)
    context.exit(0 if comparison.agree else DIFFERENT)


def _show(comparison: Comparison, a: Path, b: Path) -> None:
    from fitserve.console import tell

    tell(f"{comparison.hypotheses} hypotheses in both, {comparison.numbers} CLs compared")
    if comparison.largest is not None:
        worst = comparison.largest
        tell(f"largest difference {worst.delta:+.3g}: {worst.field} of {worst.name}")
    tell(f"{len(comparison.beyond)} differ by more than {comparison.tolerance:g}")
    for item in comparison.beyond[:_MOST_LISTED]:
        delta = "" if item.delta is None else f"  ({item.delta:+.3g})"
        tell(f"  {item.name}  {item.field}  {_cls(item.a)} -> {_cls(item.b)}{delta}")
    _more(len(comparison.beyond))
    if comparison.status_changes:
        tell(f"{len(comparison.status_changes)} have another status")
    for change in comparison.status_changes[:_MOST_LISTED]:
        reason = f"  ({change.reason})" if change.reason else ""
        tell(f"  {change.name}  {change.a} -> {change.b}{reason}")
    _more(len(comparison.status_changes))
    for path, names in ((a, comparison.only_a), (b, comparison.only_b)):
        if names:
            tell(f"{len(names)} only in {path}")
            for name in names[:_MOST_LISTED]:
                tell(f"  {name}")
            _more(len(names))


def _cls(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _more(count: int) -> None:
    from fitserve.console import tell

    if count > _MOST_LISTED:
        tell(f"  ... and {count - _MOST_LISTED} more")
