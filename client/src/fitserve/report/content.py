"""What a report says, as plain data for its template, with an account of time and bytes."""

from __future__ import annotations

import base64
import math
import shlex
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from fitserve.draw.contour import draw_contour
from fitserve.draw.style import figure_bytes
from fitserve.errors import FitserveError
from fitserve.kinds import kind
from fitserve.kinds.base import (
    Cell,
    at_strength,
    confidence_level,
    exclusion_words,
    level_text,
    number_cell,
    of_strength,
    shown_strength,
)
from fitserve.runs.summary import (
    Account,
    account,
    cautions,
    counts,
    engine_counts,
    excluded,
    most_common,
    reference_url,
    remarks,
    request_settings,
    times,
    traffic,
    verified,
)
from fitserve.runs.verification import verification_summary
from fitserve_contract import cls_strengths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitserve.draw.grid import ContourOptions
    from fitserve.kinds.base import Detail
    from fitserve.runs.store import SavedRun
    from fitserve_contract import HypothesisResult, Request

__all__ = [
    "MOST_ROWS",
    "AccountRow",
    "Bar",
    "Fact",
    "Row",
    "account_columns",
    "account_rows",
    "columns",
    "contour_uri",
    "details",
    "facts",
    "has_contour",
    "heading",
    "headline",
    "histogram",
    "left_out",
    "next_commands",
    "notes",
    "rows",
    "timing",
    "traffic_facts",
]

MOST_ROWS = 2000
"""No list in the page is longer: no browser shows a table of 100,000 rows."""
# Nobody reads a longer page: a fit may have hundreds of parameters.
_MOST_DETAILS = 10
_MOST_DETAIL_ROWS = 500
_MOST_BARS = 24
_EXPECTED = 5
_MISSING = "\N{EN DASH}"
_MEANINGS = {
    "client": "until a service took the task",
    "queue": "until a worker began with the task",
    "set-up": "building the model",
    "fit": "all fits",
    "others": "the other hypotheses of the task",
    "service": "return of the result",
}


class Fact(NamedTuple):
    """One line of provenance; ``code`` is for digests and the like, ``link`` a URL."""

    name: str
    value: str
    code: bool = False
    link: str | None = None


class Row(NamedTuple):
    """One hypothesis in the table; ``reason`` is why its status is not ok."""

    name: str
    masses: list[Cell]
    cells: list[Cell]
    status: str
    excluded: str
    reason: str


class Bar(NamedTuple):
    """One bar of a histogram, with its edges in seconds."""

    low: float
    high: float
    hypotheses: int


def heading(run: SavedRun) -> str:
    """Return the title of the report; a browser cannot typeset formulae."""
    pallet = run.manifest.pallet
    choices = (pallet.title, pallet.description, pallet.name)
    return next((text for text in choices if text and "$" not in text), run.path.name)


def contour_uri(run: SavedRun, options: ContourOptions) -> tuple[str | None, str]:
    """Return the contour as an SVG data URI and its description, or None and why not.

    An image cannot run scripts or reach out, whatever a pallet's title holds.
    """
    try:
        picture = figure_bytes(draw_contour(run.manifest, run.results, options), "svg")
    except FitserveError as error:
        return None, str(error)
    count = excluded(run)
    total = len(run.manifest.hypotheses)
    words = f"Observed and expected exclusion at {exclusion_words(run.manifest.request)}"
    if count:
        words += (
            f": {count['observed']} of {total} hypotheses are excluded, {count['expected']} are "
            "expected to be"
        )
    words += ". The table has every number." if total <= MOST_ROWS else "."
    return "data:image/svg+xml;base64," + base64.b64encode(picture).decode("ascii"), words


def columns(run: SavedRun) -> list[tuple[str, str]]:
    """Return the titles of the columns after the masses, and what they mean."""
    request = run.manifest.request
    of_kind = kind(request)
    shown = {**of_kind.in_report, **(_cls_titles(request) if has_contour(run) else {})}
    return [
        *((title, of_kind.columns[name]) for name, title in shown.items()),
        ("\u03bc\u0302", "best-fit signal strength"),
        ("fit / s", "wall time of all fits of the hypothesis"),
        *([("|\u0394CLs|", "greatest difference from pyhf's CLs")] if _verified(run) else []),
    ]


def _cls_titles(request: Request) -> dict[str, str]:
    return {
        "CLs_obs": f"CLs obs.{of_strength(request)}",
        "CLs_exp_m2": "exp. \u22122\u03c3",
        "CLs_exp_m1": "exp. \u22121\u03c3",
        "CLs_exp_0": "exp. median",
        "CLs_exp_p1": "exp. +1\u03c3",
        "CLs_exp_p2": "exp. +2\u03c3",
    }


def _verified(run: SavedRun) -> bool:
    return any(one.verification for one in run.results.values())


def rows(run: SavedRun) -> list[Row]:
    """Return the table: the first `MOST_ROWS` hypotheses asked for, in the patchset's order."""
    width = len(run.manifest.pallet.labels)
    results, verified = {**run.partial(), **run.results}, _verified(run)
    return [
        _row(run, name, results.get(name), width, verified=verified)
        for name in run.manifest.hypotheses[:MOST_ROWS]
    ]


def _row(
    run: SavedRun, name: str, result: HypothesisResult | None, width: int, *, verified: bool
) -> Row:
    values: Sequence[float | str | None]
    if result is None:
        values = run.manifest.values.get(name, ())
        cls: list[float | None] = [None] * (1 + _EXPECTED)
        rest: list[float | None] = [None, None, None]
        status, out, reason = "unfinished", "", ""
    else:
        values = result.mass_hypotheses
        cls, out = _cls(run.manifest.request, result)
        second = result.verification
        rest = [result.muhat, result.fit_time, second.largest if second else None]
        status = result.status if name in run.records else "unfinished"
        reason = result.reason or ""
    if not verified:
        rest.pop()
    if not has_contour(run):
        cls = []
    masses = [*values, *[None] * width][:width]
    return Row(
        name,
        [_mass_cell(value) for value in masses],
        [*kind(run.manifest.request).report_cells(result), *map(number_cell, (*cls, *rest))],
        status,
        out,
        reason,
    )


def _cls(request: Request, result: HypothesisResult) -> tuple[list[float | None], str]:
    """Return the observed and expected CLs that are shown, and whether they exclude."""
    mu = shown_strength(request)
    if mu is None:
        return [None] * (1 + _EXPECTED), ""
    point = at_strength(request, result, mu)
    expected = point.CLs_exp if len(point.CLs_exp) == _EXPECTED else [None] * _EXPECTED
    if point.CLs_obs is None:
        return [None, *expected], ""
    out = point.CLs_obs < 1 - confidence_level(request)
    return [point.CLs_obs, *expected], "excluded" if out else "not excluded"


def notes(run: SavedRun) -> list[str]:
    """Return the notes below the table: the mu and the level of its numbers."""
    request = run.manifest.request
    mu = shown_strength(request)
    if mu is None:
        return []
    alpha = round(1 - confidence_level(request), 12)
    several = len(cls_strengths(request)) > 1
    note = f"CLs are at mu = {mu:g}" + (", the nearest to 1 that was asked for" if several else "")
    level = level_text(confidence_level(request))
    note += f". A hypothesis with CLs below {alpha:g} is excluded at {level}."
    return [note, *remarks(run)]


def _mass_cell(value: float | str | None) -> Cell:
    return Cell(value, value) if isinstance(value, str) else number_cell(value)


def timing(run: SavedRun) -> list[Fact]:
    """Return where the time went."""
    seconds = times(run)
    if not seconds:
        return []
    facts_ = [
        Fact("Wall time", _seconds(seconds["wall"])),
        Fact("Sum of all fits", _seconds(seconds["fit"])),
        Fact("Sum of building models", _seconds(seconds["setup"])),
        Fact("One hypothesis, median", _seconds(seconds["fit_median"])),
        Fact("One hypothesis, longest", _seconds(seconds["fit_max"])),
        Fact("Median time in the queue", _seconds(seconds["queue"])),
    ]
    if seconds["wall"] > 0:
        busy = (seconds["fit"] + seconds["setup"]) / seconds["wall"]
        facts_.append(Fact("Workers busy on average", f"{busy:.2g}"))
    return facts_


def histogram(run: SavedRun) -> list[Bar]:
    """Return the distribution of fit times; bins are equal in the logarithm of the time."""
    fit_times = sorted(r.fit_time for r in run.results.values() if r.fit_time > 0)
    if len(fit_times) < 2 or fit_times[0] == fit_times[-1]:  # noqa: PLR2004 - no distribution
        return []
    bars = min(_MOST_BARS, max(6, math.ceil(2 * len(fit_times) ** (1 / 3))))
    low = math.log(fit_times[0])
    step = (math.log(fit_times[-1]) - low) / bars
    heights = [0] * bars
    for value in fit_times:
        heights[min(bars - 1, int((math.log(value) - low) / step))] += 1
    return [
        Bar(math.exp(low + i * step), math.exp(low + (i + 1) * step), count)
        for i, count in enumerate(heights)
    ]


def facts(run: SavedRun) -> list[tuple[str, list[Fact]]]:
    """Return the provenance of a run in groups: pallet, request, execution."""
    manifest = run.manifest
    pallet, request = manifest.pallet, manifest.request
    optional = [
        Fact("Analysis", pallet.analysis) if pallet.analysis else None,
        Fact("Region", pallet.region) if pallet.region else None,
        Fact("Description", pallet.description) if pallet.description else None,
    ]
    of_pallet = [
        Fact("Source", pallet.source),
        *(fact for fact in optional if fact is not None),
        *(_reference(key, value) for key, value in pallet.references.items()),
        Fact("Workspace digest", pallet.workspace_digest, code=True),
        *(
            Fact(f"Patchset's {algorithm} digest", value, code=True)
            for algorithm, value in pallet.patchset_digests.items()
        ),
        Fact("Digest", verified(pallet)),
        *(Fact("Check ignored by --force", note) for note in pallet.forced),
        *(Fact("Noticed", note) for note in pallet.notes),
    ]
    model, engine = request.model, request.engine
    of_request = [
        *(Fact(name, value) for name, value in request_settings(request)),
        Fact("Measurement", model.measurement or "the workspace's first"),
        Fact("Parameter of interest", model.poi or "the measurement's own"),
        Fact("Interpolation", f"normsys {model.normsys}, histosys {model.histosys}"),
        *(Fact("Caution", caution) for caution in cautions(request)),
        Fact("Requested engine", engine.engine),
        Fact("pyhf set up with", f"{engine.backend}, {engine.optimizer}"),
        Fact("Request digest", manifest.request_digest, code=True),
    ]
    by = engine_counts(run.results.values())
    engines = ", ".join(f"{name} ({count})" for name, count in by.engines.items())
    places = sorted({f"{r.worker.host}: {r.worker.device}" for r in run.records.values()})
    workers = {
        f"{name} {version}"
        for record in run.records.values()
        for name, version in record.worker.versions.items()
    }
    reused = sorted({r.reused_from for r in run.records.values() if r.reused_from})
    of_execution = [
        Fact("Started", manifest.created),
        Fact("Endpoint", manifest.endpoint),
        Fact("Client", f"{manifest.host}, Python {manifest.python}"),
        Fact("Client versions", _versions(manifest.versions)),
        Fact("Engines", engines or _MISSING),
        *(Fact("Fitted by pyhf", reason) for reason in most_common(by.not_for_the_kernel)),
        *(Fact("Doubted by the kernel", reason) for reason in most_common(by.kernel_doubts)),
        *_verification(run),
        Fact("Workers", "; ".join(places) or _MISSING),
        Fact("Worker versions", ", ".join(sorted(workers)) or _MISSING),
        *(Fact("Results reused from", source) for source in reused),
    ]
    return [("Pallet", of_pallet), ("Request", of_request), ("Execution", of_execution)]


def _verification(run: SavedRun) -> list[Fact]:
    outcome = verification_summary(run)
    if not outcome:
        return []
    text = f"{outcome['verified']} of {outcome['of']} hypotheses"
    if outcome["hypothesis"] is not None:
        text += f", greatest difference of a CLs {outcome['largest']:.1g} ({outcome['hypothesis']})"
    if outcome["beyond"]:
        text += (
            f"; wrong by more than {outcome['tolerance']:g}: {', '.join(_first(outcome['beyond']))}"
        )
    above = [f"{name}: {reason}" for name, reason in outcome["above"].items()]
    missing = [f"{name}: {reason}" for name, reason in outcome["unverified"].items()]
    missing += [f"{name}: not done yet" for name in outcome["waiting"]]
    return [
        Fact("Verified with pyhf", text),
        *(Fact("Other CLs by pyhf, which does not count", text) for text in _first(above)),
        *(Fact("Not verified", text) for text in _first(missing)),
    ]


def _first(texts: Sequence[str]) -> list[str]:
    left = len(texts) - MOST_ROWS
    return [*texts[:MOST_ROWS], *([f"and {left} more"] if left > 0 else [])]


def headline(run: SavedRun) -> list[Fact]:
    """Return the counts at the top of the report."""
    out = excluded(run)
    numbers = counts(run)
    words = exclusion_words(run.manifest.request)
    exclusion = [
        Fact(name, str(out[key]))
        for name, key in ((f"excluded at {words}", "observed"), ("expected to be", "expected"))
        if key in out
    ]
    return [
        Fact("hypotheses", str(len(run.manifest.hypotheses))),
        *exclusion,
        *(Fact(name, str(numbers[name])) for name in ("suspect", "failed", "unfinished")),
    ]


def _reference(key: str, value: str) -> Fact:
    return Fact(key, value, link=reference_url(key, value))


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _seconds(value: float) -> str:
    if value < 120:  # noqa: PLR2004 - two minutes read better in seconds
        return f"{value:.3g} s"
    if value < 7200:  # noqa: PLR2004 - and two hours in minutes
        return f"{value / 60:.3g} min"
    return f"{value / 3600:.3g} h"


class AccountRow(NamedTuple):
    """One hypothesis: its parts of the time and their sum, in seconds, and the task's bytes."""

    name: str
    cells: list[str]


def account_columns() -> list[tuple[str, str]]:
    """Return titles and meanings of the columns after the hypothesis."""
    parts = [(f"{name} / s", meaning) for name, meaning in _MEANINGS.items()]
    return [*parts, ("sum / s", "from sending to arrival"), ("task / bytes", "encoded")]


def account_rows(run: SavedRun) -> list[AccountRow]:
    """Return the account of the first `MOST_ROWS` hypotheses that were fitted in this run."""
    own = ((name, one) for name, one in run.records.items() if one.reused_from is None)
    rows = []
    for name, record in islice(own, MOST_ROWS):
        parts: Account = account(record)
        cells = [f"{seconds:.3g}" for seconds in (*parts, parts.total)]
        rows.append(AccountRow(name, [*cells, str(record.task_bytes or "")]))
    return rows


def traffic_facts(run: SavedRun) -> list[Fact]:
    """Return how much was sent and received."""
    total = traffic(run)
    if not total.tasks:
        return []
    return [
        Fact("Tasks sent", str(total.tasks)),
        Fact("Bytes sent, encoded", f"{total.sent:,}"),
        Fact("Bytes received, encoded", f"{total.received:,}"),
    ]


def has_contour(run: SavedRun) -> bool:
    """Return whether the request asks for CLs, of which a contour can be drawn."""
    return shown_strength(run.manifest.request) is not None


def details(run: SavedRun) -> list[Detail]:
    """Return parameters of fits, impacts of rankings or points of scans, of the first hypotheses.

    It is empty for other requests, whose numbers are all in the table of hypotheses.
    """
    return list(islice(_tables(run), _MOST_DETAILS))


def left_out(run: SavedRun) -> str | None:
    """Return what `details` leaves out, and where to find it; None where it has everything."""
    tables = list(islice(_tables(run), _MOST_DETAILS + 1))
    parts = []
    if len(tables) > _MOST_DETAILS:
        parts.append(f"the first {_MOST_DETAILS} hypotheses")
    if any(len(one.rows) >= _MOST_DETAIL_ROWS for one in tables[:_MOST_DETAILS]):
        parts.append(f"{_MOST_DETAIL_ROWS} rows of each at most")
    if not parts:
        return None
    export = f"fitserve export {shlex.quote(str(run.path))} --format csv -o FILE"
    return f"Here are {' and '.join(parts)}; everything is in: {export}"


def next_commands(run: SavedRun) -> list[str]:
    """Return the commands that draw what is not in the report."""
    names = kind(run.manifest.request).pictures
    several = len(run.manifest.hypotheses) > 1
    commands = []
    for name in names:
        patch = " --patch NAME" if several and name != "limits" else ""
        path = shlex.quote(str(run.path))
        commands.append(f"fitserve plot {name} {path}{patch} -o {name}.png")
    return commands


def _tables(run: SavedRun) -> Iterator[Detail]:
    request = run.manifest.request
    for name in run.manifest.hypotheses:
        result = run.results.get(name)
        detail = result and kind(request).detail(request, result, _MOST_DETAIL_ROWS)
        if detail:
            yield detail
