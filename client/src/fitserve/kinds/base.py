"""The base class of kinds of question, what most of them share, and which number is shown.

Where there is room for one of several numbers, tables, counts, contours, reports and exports take
the signal strength and the confidence level from here, so that they agree and can say which.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec

from fitserve_contract import ABOVE_BOUND, LimitRequest, MuPoint, Request, cls_strengths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from fitserve_contract import FittedParameter, HypothesisResult, ToyRange

__all__ = [
    "CLS_COLUMNS",
    "FIT_COLUMNS",
    "LIMITS",
    "ROUNDING",
    "TEST_STATS",
    "Beyond",
    "Cell",
    "Detail",
    "Kind",
    "OfStrengths",
    "above_bound",
    "at_strength",
    "beyond_bound",
    "cls_text",
    "confidence_level",
    "exclusion_words",
    "fractions",
    "level_text",
    "limit_text",
    "number_cell",
    "number_text",
    "of_strength",
    "parameter_row",
    "parameter_texts",
    "rescaled_signals",
    "shown_strength",
    "width_problems",
]

TEST_STATS = {"qtilde": "q-tilde", "q": "q"}
"""Names of the test statistics for a reader."""
ROUNDING = 1e-6
"""Error that is allowed for a fraction or a correlation."""

# Cost of each further signal strength for the kernel, on the published pallets.
_KERNEL_STRENGTH = 0.4

CLS_COLUMNS: Mapping[str, str] = {
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
"""Columns of CLs and their meaning; those of the mass values follow the name."""

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
"""Columns of a fitted parameter and their meaning."""

_CLS = ("CLs_obs", "CLs_exp_m2", "CLs_exp_m1", "CLs_exp_0", "CLs_exp_p1", "CLs_exp_p2")
_NO_CLS = {
    name: text for name, text in CLS_COLUMNS.items() if name not in {"mu", "twice_delta_nll", *_CLS}
}

AnyRequest = TypeVar("AnyRequest", bound=Request)
LIMITS = ("observed", "expected_m2", "expected_m1", "expected_0", "expected_p1", "expected_p2")
"""Names of the limits of a hypothesis, as in ``reasons`` of `fitserve_contract.UpperLimits`."""

_FLUCTUATIONS = (0.0, -2.0, -1.0, 0.0, 1.0, 2.0)
_LEVEL = 0.95
# An extrapolation is uncertain, and to search a little further costs nothing.
_ROOM = 1.5
_FURTHEST = 1000.0


def shown_strength(request: Request) -> float | None:
    """Return the signal strength that is shown: of those with CLs the nearest to 1.

    A hypothesis as published has a signal strength of 1. None is for requests without CLs.

    Examples
    --------
    >>> from fitserve_contract import FitRequest, HypotestRequest
    >>> shown_strength(HypotestRequest(mu=(0.5, 1.0, 2.0)))
    1.0
    >>> shown_strength(FitRequest()) is None
    True
    """
    return min(cls_strengths(request), key=lambda mu: abs(mu - 1), default=None)


def confidence_level(request: Request) -> float:
    """Return the level of exclusion: that of a request for limits, and 0.95 of all others."""
    return request.level if isinstance(request, LimitRequest) else _LEVEL


def level_text(level: float) -> str:
    """Return a confidence level as titles and tables have it.

    Examples
    --------
    >>> level_text(0.95)
    '95% CL'
    """
    return f"{100 * level:g}% CL"


def exclusion_words(request: Request) -> str:
    """Return the level and signal strength of exclusion in words.

    Examples
    --------
    >>> exclusion_words(LimitRequest(level=0.9))
    '90% CL, mu = 1'
    """
    mu = shown_strength(request)
    level = level_text(confidence_level(request))
    return level if mu is None else f"{level}, mu = {mu:g}"


def of_strength(request: Request) -> str:
    """Return the signal strength for the title of CLs; it is empty where that is 1 only.

    Examples
    --------
    >>> from fitserve_contract import HypotestRequest
    >>> of_strength(HypotestRequest(mu=(0.5, 2.0))), of_strength(HypotestRequest())
    (' (mu = 0.5)', '')
    """
    mu = shown_strength(request)
    return "" if mu is None or cls_strengths(request) == (1.0,) else f" (mu = {mu:g})"


def at_strength(request: Request, result: HypothesisResult, mu: float) -> MuPoint:
    """Return the CLs of a hypothesis at a signal strength that was asked for.

    Its status is that of this signal strength, where there are several.
    """
    point = next((one for one in result.points if math.isclose(one.mu, mu)), None)
    several = len(cls_strengths(request)) > 1
    if point is not None:
        judged = {"status": result.status, "reason": result.reason}
        return point if several else msgspec.structs.replace(point, **judged)
    # A result that failed as a whole has a reason and no points.
    if not several or result.status == "failed":
        return MuPoint(
            mu=mu,
            CLs_obs=result.CLs_obs,
            CLs_exp=result.CLs_exp,
            status=result.status,
            reason=result.reason,
        )
    return MuPoint(
        mu=mu,
        CLs_obs=None,
        CLs_exp=[None] * 5,
        status="failed",
        reason="there is no result at this signal strength",
    )


def limit_text(result: HypothesisResult, name: str) -> str:
    """Return one of `LIMITS` as a table has it: ``> 10`` where it is above the POI's bound."""
    limit = result.limit
    if limit is None:
        return "-"
    value = dict(zip(LIMITS, (limit.observed, *limit.expected), strict=True))[name]
    if value is not None:
        return f"{value:.4g}"
    bound = above_bound(result, name)
    return "-" if bound is None else f"> {bound:.4g}"


def above_bound(result: HypothesisResult, name: str) -> float | None:
    """Return the POI's upper bound where one of `LIMITS` is above it, else None."""
    limit = result.limit
    if limit is None or not limit.reasons.get(name, "").startswith(ABOVE_BOUND):
        return None
    # The search ended there.
    return max(point.mu for point in result.points)


class Beyond(NamedTuple):
    """Hypotheses with limits above the POI's upper bound.

    ``bound`` is the bound (the lowest, where they differ), ``mu_max`` one up to which all limits
    are likely to be found.
    """

    names: list[str]
    bound: float
    mu_max: float

    def __str__(self) -> str:
        count = len(self.names)
        limits = "1 hypothesis has limits" if count == 1 else f"{count} hypotheses have limits"
        return (
            f"{limits} above {self.bound:g}, the upper bound of the parameter of interest; "
            f"to look further: fitserve run PALLET --limit --mu-max {self.mu_max:g}"
        )


def beyond_bound(results: Iterable[HypothesisResult]) -> Beyond | None:
    """Return which hypotheses have limits above the bound, None where none has."""
    bounds: list[float] = []
    names, furthest = [], 0.0
    for one in results:
        above = [name for name in LIMITS if above_bound(one, name) is not None]
        # Where the signal was rescaled, another bound would not help.
        if above and one.limit is not None and one.limit.rescaled == 1:
            bounds.append(max(point.mu for point in one.points))
            names.append(one.name)
            furthest = max(furthest, _furthest(one, above))
    return Beyond(names, min(bounds), _rounded_up(_ROOM * furthest)) if names else None


def rescaled_signals(results: Iterable[HypothesisResult]) -> str | None:
    """Say of how many hypotheses the signal was rescaled, None if of none."""
    count = sum(one.limit is not None and one.limit.rescaled != 1 for one in results)
    if not count:
        return None
    signals = "the signal of 1 hypothesis was" if count == 1 else f"{count} signals were"
    return (
        f"{signals} rescaled for the fits, as limits are beyond the bounds of the parameter of "
        "interest or far from 1; the limits are those on the signal as it was given"
    )


def _furthest(result: HypothesisResult, above: Sequence[str]) -> float:
    """Extrapolate to the greatest limit: z of CLs is nearly straight in mu, and known at zero."""
    last = max(result.points, key=lambda point: point.mu)
    level = result.limit.level if result.limit else _LEVEL
    normal, steps = NormalDist(), [1.0]
    curves = zip(LIMITS, _FLUCTUATIONS, (last.CLs_obs, *last.CLs_exp), strict=True)
    for name, sigma, cls in curves:
        if name in above and cls is not None:
            share = normal.cdf(sigma)
            target = sigma - normal.inv_cdf((1 - level) * share)
            risen = sigma - normal.inv_cdf(min(cls, 1.0) * share)
            steps.append(target / risen if risen > 0 else _FURTHEST)
    return last.mu * min(max(steps), _FURTHEST)


def _rounded_up(value: float) -> float:
    """Return the next number with one digit.

    Examples
    --------
    >>> _rounded_up(147.0)
    200.0
    """
    unit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(round(value / unit, 9)) * unit


class Cell(NamedTuple):
    """One cell of a report's table: what is shown, and what it is sorted by."""

    text: str
    key: float | str


class Detail(NamedTuple):
    """The numbers of one hypothesis: titles of the columns, and rows of as many cells."""

    name: str
    titles: list[str]
    rows: list[list[str]]


class Kind(ABC, Generic[AnyRequest]):
    """One kind of question.

    Attributes
    ----------
    request
        The contract's type.
    options
        Options of the command line that are its own, in the order in which `--help` has them.
    flags
        Names of all options that can be given with it.
    answer
        The part of a result that answers it; a result without it has failed.
    pictures
        What `fitserve plot` draws of it.
    besides
        Columns that its table has besides those of CLs, with their meaning.
    in_report
        Which of its columns a report's table has, with their titles there.
    has_cls
        Whether its table has a row for each signal strength, and not for each parameter.
    excludes
        Whether it excludes hypotheses, at one signal strength.
    verifiable
        Whether pyhf can verify its answers.
    """

    request: type[AnyRequest]
    options: ClassVar[Sequence[Callable[[Any], Any]]] = ()
    flags: ClassVar[tuple[str, ...]] = ()
    answer: ClassVar[str | None] = None
    pictures: ClassVar[tuple[str, ...]] = ()
    besides: ClassVar[Mapping[str, str]] = {}
    in_report: ClassVar[Mapping[str, str]] = {}
    has_cls: ClassVar[bool] = True
    excludes: ClassVar[bool] = True
    verifiable: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Its name in options and in JSON."""
        return str(self.request.__struct_config__.tag)

    def arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of `fitserve.make_request` that options stand for.

        Raises
        ------
        click.UsageError
            They exclude each other.
        """
        return {name: options[name] for name in self.flags}

    # How long it takes.

    @abstractmethod
    def tests(self, request: AnyRequest, parameters: int) -> float:
        """Return the cost for pyhf, in units of CLs at one signal strength.

        ``parameters`` is the number of free parameters.
        """

    def kernel_tests(self, request: AnyRequest, parameters: int) -> float:
        """Return the cost for the kernel, in units of its CLs at one signal strength."""
        return self.tests(request, parameters)

    def tests_to_verify(self, request: AnyRequest) -> int:
        """Return at how many signal strengths pyhf verifies an answer."""
        return sum(mu > 0 for mu in cls_strengths(request))

    # What an answer must hold.

    def problems(
        self, request: AnyRequest, result: HypothesisResult, toys: ToyRange | None
    ) -> Iterator[str]:
        """Yield what is wrong with a result whose parts are those of this kind."""
        if result.points:
            yield "signal strengths that were not asked for"

    # What is shown of it.

    @abstractmethod
    def question(self, request: AnyRequest) -> tuple[str, str]:
        """Return the question as a name and a value."""

    def settings(self, request: AnyRequest) -> list[tuple[str, str]]:
        """Return the settings of a request, besides model and engine, as names and values."""
        statistic = getattr(request, "test_stat", None)
        statistics = [] if statistic is None else [("Test statistic", TEST_STATS[statistic])]
        return [self.question(request), *statistics]

    @abstractmethod
    def titles(self, request: AnyRequest) -> list[str]:
        """Return the titles of the numbers in the table of a run."""

    @abstractmethod
    def cells(self, request: AnyRequest, result: HypothesisResult) -> list[str]:
        """Return the numbers of a hypothesis, one for each of `titles`."""

    @property
    def columns(self) -> dict[str, str]:
        """Columns of an exported table, and their meaning."""
        return {**(CLS_COLUMNS if self.has_cls else _NO_CLS), **self.besides}

    def rows(self, request: AnyRequest, result: HypothesisResult) -> Iterator[dict[str, Any]]:
        """Yield the rows of an exported table, without the columns that are the same in all."""
        for mu in cls_strengths(request):
            point = at_strength(request, result, mu)
            yield {
                "mu": mu,
                "status": point.status,
                "reason": point.reason,
                "CLs_obs": point.CLs_obs,
                **dict(zip(_CLS[1:], point.CLs_exp, strict=False)),
                "twice_delta_nll": point.twice_delta_nll,
                **self.numbers(result),
            }

    def numbers(self, result: HypothesisResult) -> dict[str, Any]:
        """Return the values of `besides` for one hypothesis."""
        return {}

    def report_cells(self, result: HypothesisResult | None) -> list[Cell]:
        """Return the values of `in_report` for one hypothesis; they are empty without a result."""
        numbers = self.numbers(result) if result else {}
        return [number_cell(numbers.get(name)) for name in self.in_report]

    def detail(self, request: AnyRequest, result: HypothesisResult, most: int) -> Detail | None:
        """Return the numbers of one hypothesis for a report, in no more than ``most`` rows."""

    def __repr__(self) -> str:
        return f"<kind {self.name}>"


class OfStrengths(Kind[AnyRequest]):
    """A kind that asks for CLs at the signal strengths ``mu`` of its request."""

    verifiable = True

    def tests(self, request: AnyRequest, parameters: int) -> float:
        return len(cls_strengths(request))

    def kernel_tests(self, request: AnyRequest, parameters: int) -> float:
        return 1 + _KERNEL_STRENGTH * (len(cls_strengths(request)) - 1)

    def problems(
        self, request: AnyRequest, result: HypothesisResult, toys: ToyRange | None
    ) -> Iterator[str]:
        strengths = cls_strengths(request)
        answered = tuple(point.mu for point in result.points)
        # A signal strength that was requested twice may be answered once.
        allowed = [strengths, tuple(dict.fromkeys(strengths))]
        if answered not in [*allowed, *([()] if result.status == "failed" else [])]:
            yield f"signal strengths {_few(answered)} instead of {_few(strengths)}"
        elif answered:
            first = result.points[0]
            if [first.CLs_obs, *first.CLs_exp] != [result.CLs_obs, *result.CLs_exp]:
                yield "its CLs is not that of the first signal strength"


def _few(strengths: Sequence[float]) -> str:
    listed = ", ".join(f"{mu:g}" for mu in strengths[:3])
    return f"{listed} ..." if len(strengths) > 3 else listed or "none"  # noqa: PLR2004


def fractions(what: str, values: Iterable[float | None]) -> Iterator[str]:
    """Yield the values that are not between 0 and 1."""
    for value in values:
        if value is not None and not -ROUNDING <= value <= 1 + ROUNDING:
            yield f"{what} is {value:g}, outside 0 to 1"


def width_problems(parameters: Iterable[FittedParameter]) -> Iterator[str]:
    """Yield what is wrong with the widths of fitted parameters."""
    for one in parameters:
        if min(one.uncertainty or 0, one.prefit_uncertainty or 0, one.constraint or 0) < 0:
            yield f"an uncertainty of parameter '{one.name}' below zero"


def cls_text(value: float | None) -> str:
    """Return a number as a table on the terminal has it."""
    return "-" if value is None else f"{value:.4g}"


def number_text(value: float | None) -> str:
    """Return a number as a report has it."""
    return "\N{EN DASH}" if value is None else f"{value:.4g}"


def number_cell(value: float | None) -> Cell:
    """Return a number as a report's table has it."""
    return Cell(number_text(value), "" if value is None else value)


def parameter_row(parameter: FittedParameter) -> dict[str, Any]:
    """Return a fitted parameter as `FIT_COLUMNS` has it."""
    fields = {name: getattr(parameter, name) for name in FIT_COLUMNS if name != "parameter"}
    return {"parameter": parameter.name, **fields}


def parameter_texts(one: FittedParameter, *, intervals: bool = False) -> list[str]:
    """Return name, best fit, uncertainty, pull and constraint, and the ends of the interval."""
    numbers = [one.bestfit, one.uncertainty, one.pull, one.constraint]
    ends = [one.lower, one.upper] if intervals else []
    return [one.name, *map(number_text, [*numbers, *ends])]
