"""Answers about a signal hypothesis, by asymptotic formulae or pseudo-experiments."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = [
    "ABOVE_BOUND",
    "KERNEL_DOUBT",
    "NOT_FOR_THE_KERNEL",
    "AsymptoticCLs",
    "Attempt",
    "Band",
    "ChannelYields",
    "Correlations",
    "FitAnswer",
    "FittedParameter",
    "HypothesisResult",
    "Impact",
    "MuPoint",
    "RankingAnswer",
    "SampleYields",
    "Status",
    "ToyDistribution",
    "ToyRange",
    "ToyValues",
    "ToysAnswer",
    "UpperLimits",
    "Verification",
    "Yields",
]

Band = Annotated[list[float | None], msgspec.Meta(min_length=5, max_length=5)]
"""Values for background fluctuations of -2, -1, 0, +1, +2 sigma."""


class ToyRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Toys ``first`` to ``first`` + ``count`` - 1 of those that a request asks for.

    Examples
    --------
    >>> from fitserve_contract import ToyRange
    >>> ToyRange(first=500, count=250).stop
    750
    """

    first: Annotated[int, msgspec.Meta(ge=0)]
    count: Annotated[int, msgspec.Meta(ge=1)]

    @property
    def stop(self) -> int:
        """The number after the last toy's."""
        return self.first + self.count


class AsymptoticCLs(msgspec.Struct, frozen=True, kw_only=True):
    """CLs by the asymptotic formulae (arXiv:1007.1727), expected ones for -2 to +2 sigma."""

    CLs_obs: float | None
    CLs_exp: Band


class ToyValues(msgspec.Struct, frozen=True, kw_only=True):
    """The test statistic of some toys, as a worker returns it.

    ``signal`` and ``background`` are little-endian 32-bit floats, one for each toy of
    ``toys`` made with the tested signal strength and without signal; NaN where a fit failed.
    ``observed`` is the test statistic of the observed data. ``positive`` toys were fitted with
    expected events kept above zero, where the likelihood has no minimum otherwise. ``fits``
    counts the fits of toys.
    """

    toys: ToyRange
    observed: float
    asymptotic: AsymptoticCLs
    signal: bytes
    background: bytes
    positive: int
    fits: int


class ToyDistribution(msgspec.Struct, frozen=True, kw_only=True):
    """How the test statistic of toys is distributed.

    ``counts`` has a number for each interval between the ``edges`` of `ToysAnswer`, which includes
    its lower edge. ``zero`` toys have a test statistic of exactly zero, and are not in ``counts``;
    ``beyond`` are above the last edge; ``failed`` have no test statistic.
    """

    zero: int
    counts: list[int]
    beyond: int
    failed: int


class ToysAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """CLs by toys at signal strength ``mu``; CLs itself is in the fields of the hypothesis.

    It is made of ``done`` toys with signal and as many without, of the ``asked`` ones. ``failed``
    of all these have no test statistic, ``positive`` were fitted with expected events kept above
    zero, and ``fits`` is the number of fits. CLs+b and CLb are the fractions of toys with a test
    statistic of at least the ``observed`` one. Expected values are for background
    fluctuations of -2, -1, 0, +1, +2 sigma: percentiles over the background-only toys of the
    p-value at each, as in pyhf. Fields that end with ``_error`` are statistical standard
    deviations. ``asymptotic`` is for comparison.
    """

    mu: float
    asked: int
    done: int
    failed: int
    positive: int
    fits: int
    observed: float
    CLsb_obs: float | None
    CLsb_obs_error: float | None
    CLb_obs: float | None
    CLb_obs_error: float | None
    CLs_obs_error: float | None
    CLsb_exp: Band
    CLb_exp: Band
    CLs_exp_error: Band
    asymptotic: AsymptoticCLs
    edges: list[float]
    signal: ToyDistribution
    background: ToyDistribution


Status = Literal["ok", "suspect", "failed"]
"""``ok``: the numbers hold. ``suspect``: there are numbers, and a reason to doubt them.
``failed``: there are no numbers, and there is a reason."""

NOT_FOR_THE_KERNEL = "not for the kernel"
"""In diagnostics: why pyhf fitted although it was not requested."""

KERNEL_DOUBT = "kernel doubt"
"""In diagnostics: why the kernel doubted its own answer, so that pyhf answered too."""


ABOVE_BOUND = "above the POI's bound"
"""Begins the reason why there is no limit where CLs does not fall far enough."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try at the fits of one hypothesis; ``problems`` is empty for a good one."""

    engine: str
    start: str
    seconds: float
    problems: list[str] = []


class MuPoint(msgspec.Struct, frozen=True, kw_only=True):
    """CLs at one signal strength; expected values for -2, -1, 0, +1, +2 sigma, as pyhf.

    ``twice_delta_nll`` is -2 log L of the observed data, minimised at this signal strength,
    less its minimum over all signal strengths. ``q_asimov`` is the same for the Asimov data of
    the background-only hypothesis: the expected CLs follow from it alone.
    """

    mu: float
    CLs_obs: float | None
    CLs_exp: Band
    status: Status = "ok"
    reason: str | None = None
    twice_delta_nll: float | None = None
    q_asimov: float | None = None


class UpperLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Upper limits on the signal strength at confidence level ``level``.

    ``expected`` is for background fluctuations of -2, -1, 0, +1, +2 sigma. A limit that was
    not found is None, and ``reasons`` says why, under ``observed``, ``expected_m2``,
    ``expected_m1``, ``expected_0``, ``expected_p1`` or ``expected_p2``. Where the limits are
    beyond the bounds of the parameter of interest, or far from one, the signal was multiplied by
    ``rescaled`` for the fits. The limits are those on the signal as it was sent.
    """

    level: float
    observed: float | None
    expected: Band
    reasons: dict[str, str] = {}
    rescaled: float = 1.0


class FittedParameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter after the fit; one for each bin of a modifier that has several.

    ``prefit`` and ``prefit_uncertainty`` are the centre and width of its constraint (no
    constraint: its initial value, and None). ``uncertainty`` is from the inverse Hessian;
    None where the parameter is fixed or at a bound of its range. ``pull`` is (``bestfit`` -
    ``prefit``) / ``prefit_uncertainty``, ``constraint`` is ``uncertainty`` /
    ``prefit_uncertainty``. ``lower`` and ``upper`` are the ends of the interval in which -2 log L,
    minimised over all other parameters, is less than 1 above its minimum; None where they were
    not requested or are beyond a bound.
    """

    name: str
    bestfit: float
    uncertainty: float | None
    prefit: float
    prefit_uncertainty: float | None
    pull: float | None = None
    constraint: float | None = None
    lower: float | None = None
    upper: float | None = None
    fixed: bool = False
    at_bound: bool = False


class Correlations(msgspec.Struct, frozen=True, kw_only=True):
    """Correlation coefficients of the free parameters ``names``.

    ``lower`` has, for each parameter, those with the parameters before it in ``names``.
    """

    names: list[str]
    lower: list[list[float]]


class Yields(msgspec.Struct, frozen=True, kw_only=True):
    """Expected events in each bin and their uncertainties, before and after the fit.

    Uncertainties are propagated linearly from those of the parameters: the constraints,
    uncorrelated, before the fit, and the fit's covariance after it.
    """

    prefit: list[float]
    prefit_uncertainty: list[float]
    postfit: list[float]
    postfit_uncertainty: list[float]


class SampleYields(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one sample in the bins of a channel."""

    name: str
    yields: Yields


class ChannelYields(msgspec.Struct, frozen=True, kw_only=True):
    """The observed and expected events of a channel in each bin, and those of its samples."""

    name: str
    data: list[float]
    total: Yields
    samples: list[SampleYields]


class FitAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A maximum-likelihood fit; ``poi`` is None for a model without parameter of interest."""

    poi: str | None
    parameters: list[FittedParameter]
    correlations: Correlations
    channels: list[ChannelYields]


class Impact(msgspec.Struct, frozen=True, kw_only=True):
    """How far a nuisance parameter moves the parameter of interest.

    ``postfit_up`` and ``postfit_down`` are the shifts of the best-fit POI where the nuisance
    parameter is held at its best fit plus and minus its uncertainty; ``prefit_up`` and
    ``prefit_down`` where it is held at its best fit plus and minus the width of its constraint.
    None where there is no such width or no such fit.
    """

    parameter: FittedParameter
    postfit_up: float | None
    postfit_down: float | None
    prefit_up: float | None
    prefit_down: float | None


class RankingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Impacts, the largest after the fit first; ``poi`` is the fitted parameter of interest."""

    poi: FittedParameter
    impacts: list[Impact]


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """A second answer, by pyhf, to compare a hypothesis' CLs with.

    ``engine`` is how pyhf was set up and ``points`` what it found, at the signal strengths
    that were verified. ``largest`` is the greatest difference of an observed or expected CLs from
    pyhf's, ``wrong_by`` that from CLs by the lower of the two minima of each fit; above
    ``tolerance`` it makes the hypothesis suspect. The two differ where a fit of pyhf stopped above
    a known minimum, and ``above`` says in words which. Both are None where pyhf has no number.
    ``reason`` is why pyhf's own fits are doubted, if they are.
    """

    engine: str
    largest: float | None
    wrong_by: float | None
    tolerance: float
    points: list[MuPoint]
    seconds: float
    above: str | None = None
    reason: str | None = None


class HypothesisResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one hypothesis.

    ``CLs_obs`` and ``CLs_exp`` are at the first mu of the request, which ``points`` begins with.
    They are null where the request is not for CLs; for limits they are at a signal strength of 1.
    ``limit``, ``fit`` and ``ranking`` answer requests of these kinds, ``verification`` is a second
    answer by pyhf if that was requested. ``toys`` answers a request for toys, ``toy_values`` is a
    worker's answer to a part of it. ``fit_time`` is the wall time of all its fits in seconds,
    ``setup_time`` that of building its model. ``muhat`` and ``twice_nll`` belong to the free fit
    to the observed data, ``twice_nll_background`` to that without signal. ``key`` is
    `fitserve_contract.hypothesis_key`. ``host`` and ``device`` say where it was fitted.
    ``neighbours`` says how its CLs jumps relative to the hypotheses around it, where it does: the
    client finds that once it has them all, and changes nothing else in the result.
    """

    name: str
    key: str
    mass_hypotheses: tuple[float | str, ...]
    status: Status
    reason: str | None
    CLs_obs: float | None
    CLs_exp: Band
    fit_time: float
    setup_time: float
    engine: str
    points: list[MuPoint]
    muhat: float | None = None
    twice_nll: float | None = None
    twice_nll_background: float | None = None
    host: str = ""
    device: str = ""
    attempts: list[Attempt] = []
    diagnostics: dict[str, float | int | bool | str | None] = {}
    limit: UpperLimits | None = None
    fit: FitAnswer | None = None
    ranking: RankingAnswer | None = None
    verification: Verification | None = None
    neighbours: str | None = None
    toys: ToysAnswer | None = None
    toy_values: ToyValues | None = None
