"""Results as a pandas data frame: see `fitserve.api.Run.to_dataframe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitserve.contract import LimitRequest, cls_strengths
from fitserve.errors import MissingExtraError
from fitserve.kinds.shown import at_strength

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from fitserve.contract import HypothesisResult, Request
    from fitserve.runs.records import Manifest

__all__ = ["to_frame"]

_EXPECTED = ("CLs_exp_m2", "CLs_exp_m1", "CLs_exp", "CLs_exp_p1", "CLs_exp_p2")
_LIMITS = ("limit_exp_m2", "limit_exp_m1", "limit_exp", "limit_exp_p1", "limit_exp_p2")


def to_frame(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> pd.DataFrame:
    """Return finished results with a row for each hypothesis and signal strength.

    Raises
    ------
    MissingExtraError
        pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("a data frame", "notebook") from error
    labels, request = manifest.pallet.labels, manifest.request
    rows = [row for found in results.values() for row in _rows(labels, request, found)]
    names = _columns(labels, limits=isinstance(request, LimitRequest))
    return pd.DataFrame.from_records(rows, columns=names).set_index("name")


def _columns(labels: Sequence[str], *, limits: bool) -> list[str]:
    of_limits = ["limit_level", "limit_obs", *_LIMITS] if limits else []
    rest = ["twice_delta_nll", "muhat", "status", "reason", "fit_time"]
    return ["name", *labels, "mu", "CLs_obs", *_EXPECTED, *of_limits, *rest]


def _rows(
    labels: Sequence[str], request: Request, found: HypothesisResult
) -> Iterator[dict[str, Any]]:
    row = {
        "name": found.name,
        **dict(zip(labels, found.mass_hypotheses, strict=False)),
        "muhat": found.muhat,
        "status": found.status,
        "reason": found.reason,
        "fit_time": found.fit_time,
    }
    if found.limit is not None:
        row |= {"limit_level": found.limit.level, "limit_obs": found.limit.observed}
        row |= dict(zip(_LIMITS, found.limit.expected, strict=True))
    strengths = cls_strengths(request)
    if not strengths:
        yield row
    for mu in strengths:
        point = at_strength(request, found, mu)
        yield row | {
            "mu": mu,
            "CLs_obs": point.CLs_obs,
            **dict(zip(_EXPECTED, point.CLs_exp, strict=True)),
            "twice_delta_nll": point.twice_delta_nll,
            "status": point.status,
            "reason": point.reason,
        }
