"""The rows of a table of results, what their columns mean, and where references lead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fitserve.contract import FitRequest, LimitRequest, RankingRequest, ToysRequest, cls_strengths
from fitserve.runs.shown import at_strength

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fitserve.contract import FittedParameter, HypothesisResult, Request
    from fitserve.runs.records import Manifest

__all__ = [
    "COLUMNS",
    "FIT_COLUMNS",
    "LIMIT_COLUMNS",
    "RANKING_COLUMNS",
    "TOY_COLUMNS",
    "columns_of",
    "mass_columns",
    "reference_url",
    "table_rows",
]

COLUMNS: Mapping[str, str] = {
    "name": "name of the hypothesis in the patchset",
    "mu": "signal strength",
    "status": "ok, suspect, failed or unfinished, at this signal strength",
    "reason": "why the status is not ok",
    "CLs_obs": "observed CLs",
    "CLs_exp_m2": "expected CLs for a background fluctuation of -2 sigma",
    "CLs_exp_m1": "expected CLs for a background fluctuation of -1 sigma",
    "CLs_exp_0": "median expected CLs",
    "CLs_exp_p1": "expected CLs for a background fluctuation of +1 sigma",
    "CLs_exp_p2": "expected CLs for a background fluctuation of +2 sigma",
    "twice_delta_nll": "rise of the profiled -2 log L from its minimum to this signal strength",
    "muhat": "best-fit signal strength for the observed data",
    "twice_nll": "-2 log L at the best fit to the observed data",
    "fit_time": "wall time of all fits of the hypothesis, in seconds",
    "setup_time": "wall time of building its model, in seconds",
    "engine": "engine that gave the result",
    "key": "digest of workspace, patch and request",
    "neighbours": "how its CLs jumps against those of the hypotheses around it, where it does",
}
"""Columns and their meaning; those of the mass values (`mass_columns`) follow the name."""

LIMIT_COLUMNS: Mapping[str, str] = {
    "limit_level": "confidence level of the limits",
    "limit_obs": "observed upper limit on the signal strength",
    "limit_exp_m2": "expected upper limit for a background fluctuation of -2 sigma",
    "limit_exp_m1": "expected upper limit for a background fluctuation of -1 sigma",
    "limit_exp_0": "median expected upper limit",
    "limit_exp_p1": "expected upper limit for a background fluctuation of +1 sigma",
    "limit_exp_p2": "expected upper limit for a background fluctuation of +2 sigma",
    "limit_reasons": "why a limit is missing",
}
"""What runs for limits have besides."""

TOY_COLUMNS: Mapping[str, str] = {
    "toys": "toys made with this signal strength, and as many without signal: CLs is by them",
    "toys_asked": "how many were asked for",
    "toys_failed": "toys of both kinds without a valid fit",
    "CLsb_obs": "CLs+b: fraction of toys with signal beyond the observed test statistic",
    "CLsb_obs_error": "its statistical standard deviation",
    "CLb_obs": "CLb: fraction of toys without signal beyond the observed test statistic",
    "CLb_obs_error": "its statistical standard deviation",
    "CLs_obs_error": "statistical standard deviation of CLs_obs",
    "CLs_exp_m2_error": "statistical standard deviation of CLs_exp_m2",
    "CLs_exp_m1_error": "statistical standard deviation of CLs_exp_m1",
    "CLs_exp_0_error": "statistical standard deviation of CLs_exp_0",
    "CLs_exp_p1_error": "statistical standard deviation of CLs_exp_p1",
    "CLs_exp_p2_error": "statistical standard deviation of CLs_exp_p2",
    "asymptotic_CLs_obs": "observed CLs by the asymptotic formulae",
    "asymptotic_CLs_exp_m2": "expected CLs by them, background fluctuation of -2 sigma",
    "asymptotic_CLs_exp_m1": "expected CLs by them, background fluctuation of -1 sigma",
    "asymptotic_CLs_exp_0": "median expected CLs by them",
    "asymptotic_CLs_exp_p1": "expected CLs by them, background fluctuation of +1 sigma",
    "asymptotic_CLs_exp_p2": "expected CLs by them, background fluctuation of +2 sigma",
}
"""What runs for toys have besides."""

FIT_COLUMNS: Mapping[str, str] = {
    "parameter": "name of the parameter",
    "bestfit": "its value at the best fit",
    "uncertainty": "its uncertainty from the inverse Hessian",
    "lower": "lower end of its profile-likelihood interval",
    "upper": "upper end of its profile-likelihood interval",
    "prefit": "centre of its constraint, or initial value",
    "prefit_uncertainty": "width of its constraint",
    "pull": "distance of best fit and constraint in widths of the constraint",
    "constraint": "uncertainty in widths of the constraint",
    "fixed": "whether it is held",
    "at_bound": "whether it is at a bound of its range",
}
"""What runs for fits have besides: a row for each hypothesis and parameter."""

RANKING_COLUMNS: Mapping[str, str] = {
    **FIT_COLUMNS,
    "postfit_up": "shift of the POI with the parameter at best fit plus uncertainty",
    "postfit_down": "shift of the POI with the parameter at best fit minus uncertainty",
    "prefit_up": "shift of the POI with the parameter at best fit plus width of the constraint",
    "prefit_down": "shift of the POI with the parameter at best fit minus that width",
}
"""What runs for rankings have besides: a row for each hypothesis and nuisance parameter."""

_CLS = ("CLs_obs", "CLs_exp_m2", "CLs_exp_m1", "CLs_exp_0", "CLs_exp_p1", "CLs_exp_p2")
_EXPECTED = _CLS[1:]
_NO_FIT = ("mu", "twice_delta_nll", *_CLS)


def columns_of(request: Request) -> dict[str, str]:
    """Return the columns of the table of a run, and their meaning."""
    match request:
        case FitRequest():
            besides = FIT_COLUMNS
        case RankingRequest():
            besides = RANKING_COLUMNS
        case LimitRequest():
            return {**COLUMNS, **LIMIT_COLUMNS}
        case ToysRequest():
            return {**COLUMNS, **TOY_COLUMNS}
        case _:
            return dict(COLUMNS)
    return {name: text for name, text in COLUMNS.items() if name not in _NO_FIT} | dict(besides)


def mass_columns(manifest: Manifest) -> list[str]:
    """Return the columns of the mass values: ``mass_`` and the patchset's label.

    What is not a letter, digit or underscore in a label becomes an underscore.
    """
    found: list[str] = []
    for label in manifest.pallet.labels:
        name = "mass_" + re.sub(r"\W+", "_", label)
        while name in found:
            name += "_"
        found.append(name)
    return found


def table_rows(
    manifest: Manifest, results: Mapping[str, HypothesisResult]
) -> Iterator[dict[str, Any]]:
    """Yield every row; hypotheses without a result have one with the status ``unfinished``.

    Where there is no number the value is None.
    """
    request = manifest.request
    masses = mass_columns(manifest)
    blank = dict.fromkeys(["name", *masses, *list(columns_of(request))[1:]])
    strengths = cls_strengths(request)
    for name in manifest.hypotheses:
        result = results.get(name)
        values = manifest.values.get(name, ()) if result is None else result.mass_hypotheses
        begun = {**blank, **dict(zip(masses, values, strict=False)), "name": name}
        if result is None:
            at: list[dict[str, Any]] = [{"mu": mu} for mu in strengths] or [{}]
            for fields in at:
                yield {**begun, **fields, "status": "unfinished"}
            continue
        begun |= {
            "muhat": result.muhat,
            "twice_nll": result.twice_nll,
            "fit_time": result.fit_time,
            "setup_time": result.setup_time,
            "engine": result.engine,
            "key": result.key,
            "neighbours": result.neighbours,
        }
        rows = _at_strengths(request, result, strengths) if strengths else _parameters(result)
        for row in rows:
            yield begun | row


def _at_strengths(
    request: Request, result: HypothesisResult, strengths: tuple[float, ...]
) -> Iterator[dict[str, Any]]:
    for mu in strengths:
        point = at_strength(request, result, mu)
        yield {
            "mu": mu,
            "status": point.status,
            "reason": point.reason,
            "CLs_obs": point.CLs_obs,
            **dict(zip(_EXPECTED, point.CLs_exp, strict=False)),
            "twice_delta_nll": point.twice_delta_nll,
            **_limits(result),
            **_toys(result),
        }


def _limits(result: HypothesisResult) -> dict[str, Any]:
    limit = result.limit
    if limit is None:
        return {}
    reasons = [f"{name}: {reason}" for name, reason in limit.reasons.items()]
    numbers = (limit.level, limit.observed, *limit.expected)
    return {
        **dict(zip(LIMIT_COLUMNS, numbers, strict=False)),
        "limit_reasons": "; ".join(reasons) or None,
    }


def _toys(result: HypothesisResult) -> dict[str, Any]:
    toys = result.toys
    if toys is None:
        return {}
    numbers = (
        toys.done,
        toys.asked,
        toys.failed,
        toys.CLsb_obs,
        toys.CLsb_obs_error,
        toys.CLb_obs,
        toys.CLb_obs_error,
        toys.CLs_obs_error,
        *toys.CLs_exp_error,
        toys.asymptotic.CLs_obs,
        *toys.asymptotic.CLs_exp,
    )
    return dict(zip(TOY_COLUMNS, numbers, strict=True))


def _parameters(result: HypothesisResult) -> list[dict[str, Any]]:
    judged = {"status": result.status, "reason": result.reason}
    if result.fit is not None:
        return [judged | _parameter(one) for one in result.fit.parameters]
    if result.ranking is not None:
        return [
            judged
            | _parameter(one.parameter)
            | {name: getattr(one, name) for name in RANKING_COLUMNS if name not in FIT_COLUMNS}
            for one in result.ranking.impacts
        ]
    return [judged]


def _parameter(parameter: FittedParameter) -> dict[str, Any]:
    fields = {name: getattr(parameter, name) for name in FIT_COLUMNS if name != "parameter"}
    return {"parameter": parameter.name, **fields}


_STARTS = {
    "arxiv": "https://arxiv.org/abs/",
    "doi": "https://doi.org/",
    "hepdata": "https://www.hepdata.net/record/",
    "inspire": "https://inspirehep.net/literature?q=",
}


def reference_url(key: str, value: str) -> str | None:
    """Return the address of a reference, or None where its kind is not known.

    Parameters
    ----------
    key, value
        An entry of a patchset's ``references``.

    Examples
    --------
    >>> from fitserve.export.rows import reference_url
    >>> reference_url("hepdata", "ins1755298")
    'https://www.hepdata.net/record/ins1755298'
    """
    if value.startswith("https://"):
        return value
    start = _STARTS.get(key.lower())
    return None if start is None else start + quote(value.removeprefix("arXiv:"), safe="/:.")
