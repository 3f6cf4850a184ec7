"""What a report has of each kind of request beside the table of all hypotheses."""

from __future__ import annotations

import itertools
import shlex
from typing import TYPE_CHECKING, NamedTuple

from fitserve.contract import (
    FitRequest,
    LimitRequest,
    RankingRequest,
    ScanRequest,
    ToysRequest,
)
from fitserve.runs.shown import shown_strength

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.contract import FittedParameter, HypothesisResult, Request
    from fitserve.runs.store import SavedRun

__all__ = [
    "Detail",
    "details",
    "has_contour",
    "left_out",
    "next_commands",
    "toy_columns",
    "toy_numbers",
]

# A page of more is not one to read: a fit may have hundreds of parameters.
_MOST_TABLES = 10
_MOST_ROWS = 500
_PICTURES: dict[type[Request], tuple[str, ...]] = {
    LimitRequest: ("limits", "scan"),
    ScanRequest: ("scan",),
    FitRequest: ("pulls", "correlations", "yields"),
    RankingRequest: ("ranking",),
    ToysRequest: ("toys",),
}


class Detail(NamedTuple):
    """The numbers of one hypothesis: titles of the columns, and rows of as many cells."""

    name: str
    titles: list[str]
    rows: list[list[str]]


def has_contour(run: SavedRun) -> bool:
    """Return whether the request asks for CLs, of which a contour can be drawn."""
    return shown_strength(run.manifest.request) is not None


def details(run: SavedRun) -> list[Detail]:
    """Return parameters of fits, impacts of rankings or points of scans, of the first hypotheses.

    It is empty for other requests, whose numbers are all in the table of hypotheses.
    """
    return list(itertools.islice(_tables(run), _MOST_TABLES))


def left_out(run: SavedRun) -> str | None:
    """Return what is not in `details`, and where it is; None where all is."""
    found = list(itertools.islice(_tables(run), _MOST_TABLES + 1))
    told = []
    if len(found) > _MOST_TABLES:
        told.append(f"the first {_MOST_TABLES} hypotheses")
    if any(len(one.rows) >= _MOST_ROWS for one in found[:_MOST_TABLES]):
        told.append(f"{_MOST_ROWS} rows of each at most")
    if not told:
        return None
    export = f"fitserve export {shlex.quote(str(run.path))} --format csv -o FILE"
    return f"Here are {' and '.join(told)}; everything is in: {export}"


def next_commands(run: SavedRun) -> list[str]:
    """Return the commands that draw what is not in the report."""
    names = _PICTURES.get(type(run.manifest.request), ())
    several = len(run.manifest.hypotheses) > 1
    commands = []
    for name in names:
        patch = " --patch NAME" if several and name != "limits" else ""
        path = shlex.quote(str(run.path))
        commands.append(f"fitserve plot {name} {path}{patch} -o {name}.png")
    return commands


def _tables(run: SavedRun) -> Iterator[Detail]:
    for name in run.manifest.hypotheses:
        result = run.results.get(name)
        detail = None if result is None else _detail(run.manifest.request, result)
        if detail is not None:
            yield detail


def _detail(request: Request, result: HypothesisResult) -> Detail | None:
    if result.fit is not None:
        parameters = result.fit.parameters[:_MOST_ROWS]
        bounds = isinstance(request, FitRequest) and request.intervals
        titles = ["parameter", "best fit", "\u00b1", "pull", "constraint"]
        rows = [_parameter(one, intervals=bounds) for one in parameters]
        return Detail(result.name, [*titles, *(["from", "to"] if bounds else [])], rows)
    if result.ranking is not None:
        shifts = ["postfit up", "postfit down", "prefit up", "prefit down"]
        rows = [
            [
                *_parameter(one.parameter)[:4],
                *map(_number, (one.postfit_up, one.postfit_down, one.prefit_up, one.prefit_down)),
            ]
            for one in result.ranking.impacts[:_MOST_ROWS]
        ]
        return Detail(result.name, ["parameter", "best fit", "\u00b1", "pull", *shifts], rows)
    if isinstance(request, ScanRequest) and result.points:
        rows = [
            [
                f"{one.mu:g}",
                *map(_number, (one.twice_delta_nll, one.CLs_obs, one.CLs_exp[2])),
                one.status,
            ]
            for one in result.points[:_MOST_ROWS]
        ]
        titles = ["\u03bc", "\u22122 \u0394 log L", "CLs obs.", "CLs exp.", "status"]
        return Detail(result.name, titles, rows)
    return None


def _parameter(one: FittedParameter, *, intervals: bool = False) -> list[str]:
    numbers = [one.bestfit, one.uncertainty, one.pull, one.constraint]
    return [one.name, *map(_number, [*numbers, *([one.lower, one.upper] if intervals else [])])]


def _number(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.4g}"


_COLUMNS = [
    ("toys", "toys with signal, and as many without: CLs is by them"),
    ("failed", "toys of both kinds without a valid fit"),
    ("\u00b1 obs.", "statistical standard deviation of the observed CLs"),
    ("\u00b1 median", "statistical standard deviation of the median expected CLs"),
    ("asympt. obs.", "observed CLs by the asymptotic formulae, for comparison"),
    ("asympt. median", "median expected CLs by the asymptotic formulae, for comparison"),
]


def toy_columns(request: Request) -> list[tuple[str, str]]:
    """Return the titles of the columns and what they mean; none but for toys."""
    return _COLUMNS if isinstance(request, ToysRequest) else []


def toy_numbers(request: Request, result: HypothesisResult | None) -> list[float | None]:
    """Return a hypothesis' numbers in these columns, None where there is none."""
    toys = result.toys if result else None
    if toys is None:
        return [None] * len(toy_columns(request))
    return [
        toys.done,
        toys.failed,
        toys.CLs_obs_error,
        toys.CLs_exp_error[2],
        toys.asymptotic.CLs_obs,
        toys.asymptotic.CLs_exp[2],
    ]
