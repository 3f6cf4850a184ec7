"""CLs from the test statistic of pseudo-experiments ("toys").

Tasks answer with the test statistic of each toy, in parts. Here is which parts there are, and the
p-values that they make together: as pyhf defines them, with their errors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from fitserve.errors import ContractError
from fitserve.kinds.base import Kind, cls_text, fractions, of_strength
from fitserve_contract import (
    MAX_TOYS,
    HypothesisResult,
    MuPoint,
    ToyDistribution,
    ToyRange,
    ToysAnswer,
    ToysRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from fitserve_contract import Status, ToyValues

    Array = NDArray[Any]

__all__ = [
    "COLUMNS",
    "PValues",
    "Toys",
    "distribution",
    "edges_for",
    "fraction_error",
    "merged",
    "missing_toys",
    "p_values",
    "ranges",
]

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


# Of the normal distribution at -2, -1, 0, 1 and 2 standard deviations, with pyhf's digits.
_PERCENTILES = (2.27501319, 15.86552539, 50.0, 84.13447461, 97.72498681)
_BINS = 60
# The picture reaches to this percentile of both distributions, and to the observed value.
_UPPERMOST = 99.8


class PValues(NamedTuple):
    """p-values and their statistical standard deviations; None where there is no value.

    Observed ones are of a single value of the test statistic, expected ones for background
    fluctuations of -2 to +2 sigma.
    """

    CLsb_obs: float | None
    CLsb_obs_error: float | None
    CLb_obs: float | None
    CLb_obs_error: float | None
    CLs_obs: float | None
    CLs_obs_error: float | None
    CLsb_exp: list[float | None]
    CLb_exp: list[float | None]
    CLs_exp: list[float | None]
    CLs_exp_error: list[float | None]


def p_values(signal: Array, background: Array, observed: float) -> PValues:
    """Return the p-values of an observed value, and those expected without signal.

    Parameters
    ----------
    signal, background
        Test statistic of the toys with signal and without, of shape (toys,), no NaN.
    observed
        Of the observed data, rounded as those are.

    Notes
    -----
    With S and B the fractions of toys beyond the value, the variance of CLs = S / B is
    (var S + CLs^2 var B) / B^2. For an expected value B is what the percentile says; in place
    of its variance comes that of the place where it is, sqrt(p (1 - p) / n) in the fraction p
    of n background-only toys, times the slope of S.

    Examples
    --------
    >>> import numpy as np
    >>> values = p_values(np.array([0.0, 0.0, 1.0, 4.0]), np.array([2.0, 3.0, 5.0, 6.0]), 3.0)
    >>> values.CLsb_obs, values.CLb_obs, round(values.CLs_obs, 4)
    (0.25, 0.75, 0.3333)
    """
    import numpy as np

    if not (len(signal) and len(background)):
        blank: list[float | None] = [None] * 5
        return PValues(None, None, None, None, None, None, blank, blank, blank, blank)
    above_signal, above_background = np.sort(signal), np.sort(background)

    def beyond(ordered: Array, values: Any) -> Array:
        fractions: Array = 1 - np.searchsorted(ordered, values, side="left") / len(ordered)
        return fractions

    clsb = float(beyond(above_signal, observed))
    clb = float(beyond(above_background, observed))
    clsb_error = fraction_error(clsb, len(signal))
    clb_error = fraction_error(clb, len(background))
    cls = clsb / clb if clb > 0 else None
    cls_error = None if cls is None else math.hypot(clsb_error, cls * clb_error) / clb

    each_signal = beyond(above_signal, background)
    each_background = beyond(above_background, background)
    at = np.array(_PERCENTILES)
    clsb_exp = np.percentile(each_signal, at)
    clb_exp = np.percentile(each_background, at)
    cls_exp = np.percentile(each_signal / each_background, at)
    part = at / 100
    place = 100 * np.sqrt(part * (1 - part) / len(background))
    low, high = (np.percentile(each_signal, np.clip(at + s * place, 0, 100)) for s in (-1, 1))
    own = [fraction_error(float(value), len(signal)) for value in clsb_exp]
    exp_error = np.hypot(own, (high - low) / 2) / clb_exp
    return PValues(
        clsb,
        clsb_error,
        clb,
        clb_error,
        cls,
        cls_error,
        clsb_exp.tolist(),
        clb_exp.tolist(),
        cls_exp.tolist(),
        exp_error.tolist(),
    )


def fraction_error(fraction: float, toys: int) -> float:
    """Return the standard deviation of a fraction of toys.

    It is that of the posterior of a binomial probability with a flat prior: sqrt(p (1 - p) /
    n) where there are many toys on both sides, and not zero where there are none on one.

    Examples
    --------
    >>> round(fraction_error(0.25, 10_000), 6), round(fraction_error(0.0, 10_000), 6)
    (0.00433, 0.0001)
    """
    inside = fraction * toys
    return math.sqrt((inside + 1) * (toys - inside + 1) / ((toys + 2) ** 2 * (toys + 3)))


def edges_for(signal: Array, background: Array, observed: float) -> list[float]:
    """Return edges from zero of up to 60 intervals, of a width that is a round number."""
    import numpy as np

    tops = [
        float(np.percentile(values, _UPPERMOST)) for values in (signal, background) if len(values)
    ]
    top = 1.05 * max(*tops, observed, 1e-3) if tops else max(observed, 1.0)
    raw = top / _BINS
    scale = 10.0 ** math.floor(math.log10(raw))
    width = next(step * scale for step in (1, 2, 2.5, 5, 10) if step * scale >= raw)
    return [round(index * width, 12) for index in range(math.ceil(top / width) + 1)]


def distribution(values: Array, edges: list[float], failed: int) -> ToyDistribution:
    """Return the histogram of a test statistic.

    Examples
    --------
    >>> import numpy as np
    >>> distribution(np.array([0.0, 0.0, 0.5, 2.0, 3.0]), [0.0, 1.0, 2.0], failed=1)
    ToyDistribution(zero=2, counts=[1, 0], beyond=2, failed=1)
    """
    import numpy as np

    positive = values[values > 0]
    inside = np.searchsorted(edges, positive, side="right") - 1
    counts = np.bincount(inside, minlength=len(edges))
    return ToyDistribution(
        zero=int(len(values) - len(positive)),
        counts=counts[:-1].tolist(),
        beyond=int(counts[-1]),
        failed=failed,
    )


# A hypothesis is doubted where more than this part of its toys has no valid fit.
_FAILED = 0.01
_SEVERITY: tuple[Status, ...] = ("ok", "suspect", "failed")


def missing_toys(count: int, there: Iterable[ToyRange]) -> list[ToyRange]:
    """Return the ranges of toys that are in none of those that are done.

    Examples
    --------
    >>> from fitserve_contract import ToyRange
    >>> missing_toys(10, [ToyRange(first=6, count=2), ToyRange(first=0, count=3)])
    [ToyRange(first=3, count=3), ToyRange(first=8, count=2)]
    """
    gaps, at = [], 0
    for toys in sorted(there, key=lambda one: one.first):
        if toys.first > at:
            gaps.append(ToyRange(first=at, count=toys.first - at))
        at = max(at, toys.stop)
    if at < count:
        gaps.append(ToyRange(first=at, count=count - at))
    return gaps


def ranges(parts: Iterable[HypothesisResult]) -> list[ToyRange]:
    """Return which toys are in parts."""
    return [_values(part).toys for part in parts]


def merged(request: ToysRequest, parts: Sequence[HypothesisResult]) -> HypothesisResult:
    """Return the result of a hypothesis from its parts, in whatever order they came.

    Where toys are missing it is ``suspect``, and says how many there are.

    Raises
    ------
    ContractError
        A part does not have the toys that it states.
    """
    import numpy as np

    ordered = sorted(parts, key=lambda part: _values(part).toys.first)
    signal, background = (
        _joined(request, [(_values(part).toys, getattr(_values(part), side)) for part in ordered])
        for side in ("signal", "background")
    )
    there = missing_toys(request.toys, [_values(part).toys for part in ordered])
    done = request.toys - sum(toys.count for toys in there)
    good_signal = signal[np.isfinite(signal)]
    good_background = background[np.isfinite(background)]
    first = _values(ordered[0])
    # As the toys are, so that a toy of the same value is not beyond or short of it.
    observed = float(np.float32(first.observed))
    values = p_values(good_signal, good_background, observed)
    edges = edges_for(good_signal, good_background, observed)
    failed = 2 * done - len(good_signal) - len(good_background)
    answer = ToysAnswer(
        mu=request.mu,
        asked=request.toys,
        done=done,
        failed=failed,
        positive=sum(_values(part).positive for part in ordered),
        fits=sum(_values(part).fits for part in ordered),
        observed=observed,
        asymptotic=first.asymptotic,
        edges=edges,
        signal=distribution(good_signal, edges, done - len(good_signal)),
        background=distribution(good_background, edges, done - len(good_background)),
        **{name: getattr(values, name) for name in values._fields if name not in _OF_RESULT},
    )
    status, reason = _judged(ordered, answer, values.CLs_obs)
    return msgspec.structs.replace(
        ordered[0],
        status=status,
        reason=reason,
        CLs_obs=values.CLs_obs,
        CLs_exp=values.CLs_exp,
        fit_time=sum(part.fit_time for part in ordered),
        setup_time=sum(part.setup_time for part in ordered),
        points=[
            MuPoint(
                mu=request.mu,
                CLs_obs=values.CLs_obs,
                CLs_exp=values.CLs_exp,
                status=status,
                reason=reason,
            )
        ],
        toys=answer,
        toy_values=None,
    )


_OF_RESULT = ("CLs_obs", "CLs_exp")


def _values(part: HypothesisResult) -> ToyValues:
    if part.toy_values is None:
        raise ContractError("a part of toys has no test statistics", evidence=part.name)
    return part.toy_values


def _joined(request: ToysRequest, pieces: Iterable[tuple[ToyRange, bytes]]) -> NDArray[Any]:
    """Return the test statistic of all toys that there are, in the order of their numbers."""
    import numpy as np

    every = np.zeros(request.toys, dtype=np.float32)
    there = np.zeros(request.toys, dtype=bool)
    for toys, packed in pieces:
        values = np.frombuffer(packed, dtype="<f4")
        if len(values) != toys.count or toys.stop > request.toys:
            raise ContractError(
                "a worker answered with other toys than it states",
                evidence=f"{len(values)} for {toys.first} to {toys.stop - 1} of {request.toys}",
            )
        every[toys.first : toys.stop] = values
        there[toys.first : toys.stop] = True
    return every[there]


def _judged(
    parts: Sequence[HypothesisResult], answer: ToysAnswer, cls: float | None
) -> tuple[Status, str | None]:
    """Return the status of merged toys, and what speaks against them."""
    status = max((part.status for part in parts), key=_SEVERITY.index)
    reasons = dict.fromkeys(part.reason for part in parts if part.reason)
    doubts = []
    if answer.done < answer.asked:
        doubts.append(f"{answer.done} of {answer.asked} toys are done")
    if answer.failed > _FAILED * 2 * answer.done:
        doubts.append(f"{answer.failed} of {2 * answer.done} toys have no valid fit")
    if cls is None:
        doubts.append("no background-only toy is beyond the observed value: CLs is not defined")
    if doubts and status == "ok":
        status = "suspect"
    return status, "; ".join([*reasons, *doubts]) or None
