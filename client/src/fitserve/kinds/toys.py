"""CLs from the test statistic of pseudo-experiments ("toys")."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from fitserve.kinds.base import Kind, cls_text, fractions
from fitserve.kinds.shown import of_strength
from fitserve_contract import MAX_TOYS, ToysRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fitserve_contract import HypothesisResult, ToyRange, ToyValues

__all__ = ["COLUMNS", "Toys"]

COLUMNS: Mapping[str, str] = {
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
"""Columns of toys and their meaning."""

_IN_REPORT: Mapping[str, str] = {
    "toys": "toys",
    "toys_failed": "failed",
    "CLs_obs_error": "\u00b1 obs.",
    "CLs_exp_0_error": "\u00b1 median",
    "asymptotic_CLs_obs": "asympt. obs.",
    "asymptotic_CLs_exp_0": "asympt. median",
}

# Cost of a toy with signal and one without, on staus.
_TESTS_OF_TOY = 1.0
_FLOAT_BYTES = 4


class Toys(Kind[ToysRequest]):
    """Toys."""

    request = ToysRequest
    options = (
        click.option(
            "--toys",
            type=click.IntRange(min=1, max=MAX_TOYS),
            metavar="N",
            help="CLs by N pseudo-experiments with signal and N without, at one --mu.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(min=0, max=2**53 - 1),
            default=0,
            show_default=True,
            help="With --toys: decides which toys.",
        ),
    )
    flags = ("mu", "seed", "test_stat")
    answer = "toy_values"
    pictures = ("toys",)
    besides = COLUMNS
    in_report = _IN_REPORT

    def arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        if len(options["mu"]) > 1:
            raise click.UsageError("toys are made at one --mu: make a run for each")
        [mu] = options["mu"]
        return {**super().arguments(options), "toys": options["toys"], "mu": mu}

    def tests(self, request: ToysRequest, parameters: int) -> float:
        return _TESTS_OF_TOY * request.toys

    def problems(
        self, request: ToysRequest, result: HypothesisResult, toys: ToyRange | None
    ) -> Iterator[str]:
        yield from super().problems(request, result, toys)
        if result.toy_values:
            yield from _problems(result.toy_values, toys)

    def question(self, request: ToysRequest) -> tuple[str, str]:
        each = f"{request.toys} with and {request.toys} without signal"
        return "Toys", f"{each}, signal strength {request.mu:g}, seed {request.seed}"

    def titles(self, request: ToysRequest) -> list[str]:
        at = of_strength(request)
        toys = [f"toy CLs obs{at}", "+-", f"toy CLs exp{at}", "+-"]
        return [*toys, "asymptotic obs", "exp", "toys"]

    def cells(self, request: ToysRequest, result: HypothesisResult) -> list[str]:
        toys = result.toys
        if toys is None:
            return ["-"] * 7
        numbers = (
            result.CLs_obs,
            toys.CLs_obs_error,
            result.CLs_exp[2],
            toys.CLs_exp_error[2],
            toys.asymptotic.CLs_obs,
            toys.asymptotic.CLs_exp[2],
        )
        whole = toys.done == toys.asked
        done = str(toys.done) if whole else f"{toys.done} of {toys.asked}"
        return [*map(cls_text, numbers), done]

    def numbers(self, result: HypothesisResult) -> dict[str, Any]:
        toys = result.toys
        if toys is None:
            return {}
        values = (
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
        return dict(zip(COLUMNS, values, strict=True))


def _problems(values: ToyValues, toys: ToyRange | None) -> Iterator[str]:
    if values.toys != toys:
        yield f"toys {values.toys.first} to {values.toys.stop - 1} were not asked for"
    lengths = {len(values.signal), len(values.background)}
    if lengths != {_FLOAT_BYTES * values.toys.count}:
        yield "more or fewer test statistics than toys"
    if not 0 <= values.positive <= 2 * values.toys.count or values.fits < 0:
        yield "impossible numbers of fits"
    if not math.isfinite(values.observed) or values.observed < 0:
        yield f"a test statistic of {values.observed:g}"
    asymptotic = values.asymptotic
    yield from fractions("asymptotic CLs", [asymptotic.CLs_obs, *asymptotic.CLs_exp])
