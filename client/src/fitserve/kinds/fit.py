"""The maximum-likelihood fit: parameters, their covariance, and the yields."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import click

from fitserve.kinds.base import (
    FIT_COLUMNS,
    ROUNDING,
    Detail,
    Kind,
    cls_text,
    parameter_row,
    parameter_texts,
    width_problems,
)
from fitserve_contract import FitRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve_contract import FitAnswer, FittedParameter, HypothesisResult, ToyRange

__all__ = ["KERNEL_TESTS_OF_FIT", "TESTS_OF_FIT", "Fit"]

TESTS_OF_FIT = 4.0
"""Cost of a fit by Minuit with its Hessian, in units of CLs at one signal strength, on staus."""
KERNEL_TESTS_OF_FIT = 7.0
"""Cost of a fit by the kernel with its Hessian and yields, on the published pallets."""
# Cost of the interval of one parameter: by pyhf on the bundled example, by the kernel.
_INTERVAL = 0.4
_KERNEL_INTERVAL = 0.45


class Fit(Kind[FitRequest]):
    """A fit."""

    request = FitRequest
    options = (
        click.option("--fit", is_flag=True, help="Best fit, pulls, correlations and yields."),
        click.option(
            "--intervals",
            is_flag=True,
            help="With --fit: profile-likelihood intervals of every parameter too.",
        ),
        click.option(
            "--background-only",
            is_flag=True,
            help="With --fit: the workspace without a signal, instead of the hypotheses.",
        ),
    )
    flags = ("intervals", "background_only")
    answer = "fit"
    pictures = ("pulls", "correlations", "yields")
    besides = FIT_COLUMNS
    has_cls = False

    def tests(self, request: FitRequest, parameters: int) -> float:
        return TESTS_OF_FIT + request.intervals * _INTERVAL * parameters

    def kernel_tests(self, request: FitRequest, parameters: int) -> float:
        return KERNEL_TESTS_OF_FIT + request.intervals * _KERNEL_INTERVAL * parameters

    def problems(
        self, request: FitRequest, result: HypothesisResult, toys: ToyRange | None
    ) -> Iterator[str]:
        yield from super().problems(request, result, toys)
        if result.fit:
            yield from _problems(result.fit)

    def question(self, request: FitRequest) -> tuple[str, str]:
        of = "the background-only workspace" if request.background_only else "each hypothesis"
        how = ", with profile-likelihood intervals" if request.intervals else ""
        return "Maximum-likelihood fit", f"of {of}{how}"

    def titles(self, request: FitRequest) -> list[str]:
        ends = ["interval from", "to"] if request.intervals else []
        return ["mu-hat", "Hessian +-", *ends, "-2 log L"]

    def cells(self, request: FitRequest, result: HypothesisResult) -> list[str]:
        poi = _poi(result)
        numbers = [poi.uncertainty, poi.lower, poi.upper] if poi else [None] * 3
        return [
            cls_text(result.muhat),
            *map(cls_text, numbers if request.intervals else numbers[:1]),
            cls_text(result.twice_nll),
        ]

    def rows(self, request: FitRequest, result: HypothesisResult) -> Iterator[dict[str, Any]]:
        judged = {"status": result.status, "reason": result.reason}
        if result.fit is None:
            yield judged
            return
        for one in result.fit.parameters:
            yield judged | parameter_row(one)

    def detail(self, request: FitRequest, result: HypothesisResult, most: int) -> Detail | None:
        if result.fit is None:
            return None
        bounds = request.intervals
        titles = ["parameter", "best fit", "\u00b1", "pull", "constraint"]
        rows = [parameter_texts(one, intervals=bounds) for one in result.fit.parameters[:most]]
        return Detail(result.name, [*titles, *(["from", "to"] if bounds else [])], rows)


def _poi(result: HypothesisResult) -> FittedParameter | None:
    fit = result.fit
    if fit is None or fit.poi is None:
        return None
    return next((one for one in fit.parameters if one.name == fit.poi), None)


def _problems(fit: FitAnswer) -> Iterator[str]:
    names = {parameter.name for parameter in fit.parameters}
    if len(names) < len(fit.parameters):
        yield "a parameter twice"
    yield from width_problems(fit.parameters)
    correlations = fit.correlations
    if not names.issuperset(correlations.names):
        yield "correlations of other parameters than were fitted"
    if [len(row) for row in correlations.lower] != list(range(len(correlations.names))):
        yield "more or fewer correlations than pairs of parameters"
    if any(abs(value) > 1 + ROUNDING for value in itertools.chain(*correlations.lower)):
        yield "a correlation outside -1 to 1"
    for channel in fit.channels:
        for yields in (channel.total, *(sample.yields for sample in channel.samples)):
            lengths = {
                len(yields.prefit),
                len(yields.prefit_uncertainty),
                len(yields.postfit),
                len(yields.postfit_uncertainty),
            }
            if lengths != {len(channel.data)}:
                yield f"yields of channel '{channel.name}' for other bins than it has"
            if min([*yields.prefit_uncertainty, *yields.postfit_uncertainty], default=0) < 0:
                yield f"uncertainties of channel '{channel.name}' below zero"
