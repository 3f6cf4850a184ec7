"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from fitserve.draw.grid import ContourOptions
from fitserve.draw.style import need_pictures
from fitserve.files import write_output
from fitserve.report import content
from fitserve.runs.summary import failures, jumps
from fitserve_contract import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from fitserve.runs.store import SavedRun

__all__ = ["render_report", "write_report"]


def write_report(run: SavedRun, path: Path, options: ContourOptions | None = None) -> None:
    """Write the report of a run as one HTML file.

    Parameters
    ----------
    run
        The run; it need not be finished.
    path
        The file to write.
    options
        Choices for the contour in it.

    Raises
    ------
    StoreError
        The file cannot be written.
    MissingExtraError
        The packages for drawing, or jinja2, are not installed.
    """
    write_output(path, render_report(run, options).encode())


def render_report(run: SavedRun, options: ContourOptions | None = None) -> str:
    """Return the report of a run as HTML that needs no other file and no network."""
    need_pictures("the report")
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fitserve.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = _asset("report.js"), _asset("report.css")
    picture, words = None, ""
    if content.has_contour(run):
        picture, words = content.contour_uri(run, options or ContourOptions())
    bars = content.histogram(run)
    return environment.get_template("report.html.j2").render(
        pallet=run.manifest.pallet,
        heading=content.heading(run),
        version=__version__,
        headline=content.headline(run),
        picture=picture,
        words=words,
        has_contour=content.has_contour(run),
        details=content.details(run),
        left_out=content.left_out(run),
        next_commands=content.next_commands(run),
        failures=failures(run),
        jumps=jumps(run),
        unfinished=run.unfinished,
        columns=content.columns(run),
        rows=content.rows(run),
        most=content.MOST_ROWS,
        total=len(run.manifest.hypotheses),
        export=f"fitserve export {run.path} --format csv -o -",
        notes=content.notes(run),
        facts=content.facts(run),
        timing=[*content.timing(run), *content.traffic_facts(run)],
        account_columns=content.account_columns(),
        account_rows=content.account_rows(run),
        bars=bars,
        tallest=max((bar.hypotheses for bar in bars), default=1),
        script=script,
        style=style,
        # The page allows this script and these styles and nothing else, from nowhere else.
        script_digest=_digest(script),
        style_digest=_digest(style),
    )


def _asset(name: str) -> str:
    return resources.files("fitserve.report").joinpath("templates", name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
