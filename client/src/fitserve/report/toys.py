"""What the table of a report has of toys, beside CLs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.contract import ToysRequest

if TYPE_CHECKING:
    from fitserve.contract import HypothesisResult, Request

__all__ = ["toy_columns", "toy_numbers"]

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
