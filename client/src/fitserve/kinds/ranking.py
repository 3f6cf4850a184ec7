"""The impact of each nuisance parameter on the parameter of interest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fitserve.kinds.base import (
    FIT_COLUMNS,
    Detail,
    Kind,
    cls_text,
    number_text,
    parameter_row,
    parameter_texts,
    width_problems,
)
from fitserve.kinds.fit import KERNEL_TESTS_OF_FIT, TESTS_OF_FIT
from fitserve_contract import RankingRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fitserve_contract import HypothesisResult, ToyRange

__all__ = ["COLUMNS", "Ranking"]

_SHIFTS: Mapping[str, str] = {
    "postfit_up": "shift of the POI with the parameter at best fit plus uncertainty",
    "postfit_down": "shift of the POI with the parameter at best fit minus uncertainty",
    "prefit_up": "shift of the POI with the parameter at best fit plus width of the constraint",
    "prefit_down": "shift of the POI with the parameter at best fit minus that width",
}
COLUMNS: Mapping[str, str] = {**FIT_COLUMNS, **_SHIFTS}
"""Columns of a ranked parameter and their meaning."""

# Cost of the impact of one parameter: by pyhf on the bundled example, by the kernel on the
# published pallets.
_IMPACT = 0.2
_KERNEL_IMPACT = 0.35


class Ranking(Kind[RankingRequest]):
    """A ranking of nuisance parameters."""

    request = RankingRequest
    options = (click.option("--ranking", is_flag=True, help="Impacts of the nuisance parameters."),)
    answer = "ranking"
    pictures = ("ranking",)
    besides = COLUMNS
    has_cls = False

    def tests(self, request: RankingRequest, parameters: int) -> float:
        return TESTS_OF_FIT + _IMPACT * parameters

    def kernel_tests(self, request: RankingRequest, parameters: int) -> float:
        return KERNEL_TESTS_OF_FIT + _KERNEL_IMPACT * parameters

    def problems(
        self, request: RankingRequest, result: HypothesisResult, toys: ToyRange | None
    ) -> Iterator[str]:
        yield from super().problems(request, result, toys)
        if result.ranking:
            impacts = result.ranking.impacts
            yield from width_problems([result.ranking.poi, *(one.parameter for one in impacts)])

    def question(self, request: RankingRequest) -> tuple[str, str]:
        return "Ranking", "impact of each nuisance parameter on the parameter of interest"

    def titles(self, request: RankingRequest) -> list[str]:
        return ["mu-hat", "Hessian +-", "largest impact", "of"]

    def cells(self, request: RankingRequest, result: HypothesisResult) -> list[str]:
        ranking = result.ranking
        if ranking is None:
            return ["-"] * 4
        shown = [cls_text(ranking.poi.bestfit), cls_text(ranking.poi.uncertainty)]
        if not ranking.impacts:
            return [*shown, "-", "-"]
        first = ranking.impacts[0]
        shifts = [abs(one) for one in (first.postfit_up, first.postfit_down) if one is not None]
        return [*shown, cls_text(max(shifts, default=None)), first.parameter.name]

    def rows(self, request: RankingRequest, result: HypothesisResult) -> Iterator[dict[str, Any]]:
        judged = {"status": result.status, "reason": result.reason}
        if result.ranking is None:
            yield judged
            return
        for one in result.ranking.impacts:
            shifts = {name: getattr(one, name) for name in _SHIFTS}
            yield judged | parameter_row(one.parameter) | shifts

    def detail(self, request: RankingRequest, result: HypothesisResult, most: int) -> Detail | None:
        if result.ranking is None:
            return None
        titles = ["parameter", "best fit", "\u00b1", "pull"]
        shifts = ["postfit up", "postfit down", "prefit up", "prefit down"]
        rows = [
            [
                *parameter_texts(one.parameter)[:4],
                *(number_text(getattr(one, name)) for name in _SHIFTS),
            ]
            for one in result.ranking.impacts[:most]
        ]
        return Detail(result.name, [*titles, *shifts], rows)
