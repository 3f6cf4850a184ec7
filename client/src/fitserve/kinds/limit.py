"""Observed and expected upper limits on the signal strength."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fitserve.kinds.base import LIMITS, Cell, Kind, above_bound, level_text, limit_text
from fitserve_contract import LimitRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fitserve_contract import HypothesisResult, ToyRange

__all__ = ["COLUMNS", "Limit"]

COLUMNS: Mapping[str, str] = {
    "limit_level": "confidence level of the limits",
    "limit_obs": "observed upper limit on the signal strength",
    "limit_exp_m2": "expected upper limit for a background fluctuation of -2 sigma",
    "limit_exp_m1": "expected upper limit for a background fluctuation of -1 sigma",
    "limit_exp_0": "median expected upper limit",
    "limit_exp_p1": "expected upper limit for a background fluctuation of +1 sigma",
    "limit_exp_p2": "expected upper limit for a background fluctuation of +2 sigma",
    "limit_reasons": "why a limit is missing",
    "limit_rescaled": "what the signal was multiplied by for the fits; the limits are without it",
}
"""Columns of limits and their meaning."""

# Cost of the six limits of a hypothesis: by pyhf on the bundled example, by the kernel on the
# published pallets (4.6 staus, 3.6 1Lbb).
_TESTS = 16
_KERNEL_TESTS = 4.5
_TESTS_TO_VERIFY = 3
_IN_REPORT: Mapping[str, str] = {
    "limit_obs": "limit obs.",
    "limit_exp_m2": "limit \u22122\u03c3",
    "limit_exp_m1": "limit \u22121\u03c3",
    "limit_exp_0": "limit median",
    "limit_exp_p1": "limit +1\u03c3",
    "limit_exp_p2": "limit +2\u03c3",
}
_SHOWN = ("observed", "expected_0", "expected_m1", "expected_p1")


class Limit(Kind[LimitRequest]):
    """Upper limits."""

    request = LimitRequest
    options = (
        click.option("--limit", is_flag=True, help="Observed and expected upper limits on mu."),
        click.option(
            "--level",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            default=0.95,
            show_default=True,
            help="With --limit: the confidence level.",
        ),
    )
    flags = ("level", "test_stat")
    answer = "limit"
    pictures = ("limits", "scan")
    besides = COLUMNS
    in_report = _IN_REPORT
    verifiable = True

    def tests(self, request: LimitRequest, parameters: int) -> float:
        return _TESTS

    def kernel_tests(self, request: LimitRequest, parameters: int) -> float:
        return _KERNEL_TESTS

    def tests_to_verify(self, request: LimitRequest) -> int:
        return _TESTS_TO_VERIFY

    def problems(
        self, request: LimitRequest, result: HypothesisResult, toys: ToyRange | None
    ) -> Iterator[str]:
        limit = result.limit
        if limit is None:
            return
        if limit.level != request.level:
            yield f"limits at level {limit.level:g} instead of {request.level:g}"
        for value in (limit.observed, *limit.expected):
            if value is not None and value < 0:
                yield f"an upper limit of {value:g} on the signal strength"

    def question(self, request: LimitRequest) -> tuple[str, str]:
        return "Upper limits", f"on the signal strength, at {level_text(request.level)}"

    def titles(self, request: LimitRequest) -> list[str]:
        return ["limit obs", "limit exp", "-1 sigma", "+1 sigma"]

    def cells(self, request: LimitRequest, result: HypothesisResult) -> list[str]:
        return [limit_text(result, name) for name in _SHOWN]

    def numbers(self, result: HypothesisResult) -> dict[str, Any]:
        limit = result.limit
        if limit is None:
            return {}
        reasons = [f"{name}: {reason}" for name, reason in limit.reasons.items()]
        values = (limit.level, limit.observed, *limit.expected)
        return {
            **dict(zip(COLUMNS, values, strict=False)),
            "limit_reasons": "; ".join(reasons) or None,
            "limit_rescaled": limit.rescaled,
        }

    def report_cells(self, result: HypothesisResult | None) -> list[Cell]:
        cells = super().report_cells(result)
        if result is None:
            return cells
        bounds = [above_bound(result, name) for name in LIMITS]
        return [
            cell if bound is None else Cell(f"> {bound:.4g}", bound)
            for cell, bound in zip(cells, bounds, strict=True)
        ]
