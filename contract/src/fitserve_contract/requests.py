"""Requests about a signal hypothesis: one tagged structure for each kind.

Also the bounds of the parameter of interest (POI), which measurement and request set.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

__all__ = [
    "MAX_STRENGTHS",
    "MAX_TOYS",
    "NORMFACTOR_BOUNDS",
    "EngineOptions",
    "FitRequest",
    "HypotestRequest",
    "LimitRequest",
    "ModelOptions",
    "RankingRequest",
    "Request",
    "ScanRequest",
    "ToysRequest",
    "allowed",
    "cls_strengths",
    "kind_of",
    "poi_bounds",
    "refusal",
    "widened",
]

MAX_TOYS = 10_000_000
"""The most toys of a hypothesis that may be requested."""

MAX_STRENGTHS = 10_000
"""The most signal strengths in a request."""

_Strengths = Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_STRENGTHS)]


class ModelOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a workspace becomes a statistical model.

    ``measurement`` and ``poi`` of None mean the workspace's first measurement and its own
    parameter of interest (POI). ``mu_max`` raises the POI's upper bound, which is pyhf's 10
    where the measurement has none; a higher bound stays. The interpolation codes are numbered as
    in CERN-OPEN-2012-016 and pyhf.
    """

    measurement: str | None = None
    poi: str | None = None
    # Not in the JSON where it is not set: requests without it keep their digests.
    mu_max: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | msgspec.UnsetType = msgspec.UNSET
    normsys: Literal["code1", "code4"] = "code4"
    histosys: Literal["code0", "code2", "code4p"] = "code4p"


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which engine fits, and how pyhf is set up where it fits."""

    engine: Literal["auto", "kernel", "pyhf"] = "auto"
    backend: Literal["numpy", "jax"] = "numpy"
    optimizer: Literal["scipy", "minuit"] = "scipy"


class HypotestRequest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="hypotest"
):
    """Observed and expected CLs at each signal strength in ``mu``.

    ``test_stat`` is q-tilde or q of arXiv:1007.1727, equations 16 and 14.
    """

    mu: _Strengths = (1.0,)
    test_stat: Literal["qtilde", "q"] = "qtilde"
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()


class LimitRequest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="limit"
):
    """Observed and expected upper limits on the signal strength.

    The limit is where CLs falls to 1 - ``level``. It is sought between zero and the POI's upper
    bound. Where it is above that, the signal is multiplied by a number for the fits, unless
    ``mu_max`` of `ModelOptions` says where to end. CLs at a signal strength of 1 is evaluated too,
    where that is within the bounds.
    """

    level: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.95
    test_stat: Literal["qtilde", "q"] = "qtilde"
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()


class ScanRequest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="scan"
):
    """The profile likelihood ratio and CLs at each signal strength in ``mu``.

    CLs is given for signal strengths that are not negative.
    """

    mu: _Strengths
    test_stat: Literal["qtilde", "q"] = "qtilde"
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()


class FitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="fit"):
    """The maximum-likelihood fit: parameters, their covariance, and the yields.

    ``intervals`` asks for profile-likelihood intervals (MINOS) of every free parameter too.
    ``background_only`` is a fit of the workspace without any patch, its signal strength at
    zero if it has one.
    """

    intervals: bool = False
    background_only: bool = False
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()


class RankingRequest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="ranking"
):
    """The impact of each nuisance parameter on the parameter of interest."""

    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()


class ToysRequest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="toys"
):
    """CLs at a signal strength from the test statistic of pseudo-experiments ("toys").

    There are ``toys`` of them with this signal strength and as many without signal. Their
    nuisance parameters are those fitted to the observed data with the signal strength held;
    events and auxiliary data are both drawn. ``seed`` decides all of them, on any worker.
    """

    toys: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOYS)]
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**53)] = 0
    mu: float = 1.0
    test_stat: Literal["qtilde", "q"] = "qtilde"
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()


Request = HypotestRequest | LimitRequest | ScanRequest | FitRequest | RankingRequest | ToysRequest
"""Any request; its ``type`` in JSON tells which."""


def kind_of(request: Request) -> str:
    """Return the kind of a request, as ``type`` in JSON has it.

    Examples
    --------
    >>> from fitserve_contract import LimitRequest, kind_of
    >>> kind_of(LimitRequest())
    'limit'
    """
    return str(request.__struct_config__.tag)


def cls_strengths(request: Request) -> tuple[float, ...]:
    """Return the signal strengths at which the answer has CLs for every hypothesis.

    Examples
    --------
    >>> from fitserve_contract import HypotestRequest, LimitRequest, RankingRequest, cls_strengths
    >>> cls_strengths(HypotestRequest(mu=(0.5, 1.0)))
    (0.5, 1.0)
    >>> cls_strengths(LimitRequest())
    (1.0,)
    >>> cls_strengths(RankingRequest())
    ()
    """
    match request:
        case HypotestRequest() | ScanRequest():
            return request.mu
        case LimitRequest():
            return (1.0,)
        case ToysRequest():
            return (request.mu,)
        case _:
            return ()


def refusal(
    request: Request, poi: str, low: float, high: float, *, fixed: bool = False
) -> tuple[str, str] | None:
    """Say why a request cannot be answered: cause and evidence; None if it can be.

    The client checks this before it sends anything, and every engine before it fits.

    Parameters
    ----------
    request
        The request.
    poi, low, high, fixed
        Name of the parameter of interest, its bounds, and whether the measurement holds it.

    Examples
    --------
    >>> from fitserve_contract import HypotestRequest, refusal
    >>> refusal(HypotestRequest(mu=(12.0,)), "mu", 0.0, 10.0)
    ("the signal strength 12 is outside the bounds of 'mu'", 'the bounds are 0 to 10')
    >>> refusal(HypotestRequest(mu=(2.0,)), "mu", 0.0, 10.0)
    """
    bounds = f"the bounds are {low:g} to {high:g}"
    if isinstance(request, FitRequest) and not request.background_only:
        return None
    if fixed and not isinstance(request, FitRequest):
        return f"the parameter of interest '{poi}' cannot vary", "the measurement holds it fixed"
    if not isinstance(request, RankingRequest) and not low <= 0 <= high:
        return f"the parameter of interest '{poi}' cannot be 0, as without a signal", bounds
    if isinstance(request, LimitRequest):
        return None if high > 0 else (f"there is no room for an upper limit on '{poi}'", bounds)
    for value in cls_strengths(request):
        if not (math.isfinite(value) and low <= value <= high):
            return f"the signal strength {value:g} is outside the bounds of '{poi}'", bounds
    return None


def allowed(struct: type[msgspec.Struct], field: str) -> tuple[str, ...]:
    """Return the texts that a field of a structure may have, in the order declared.

    Examples
    --------
    >>> from fitserve_contract import EngineOptions, allowed
    >>> allowed(EngineOptions, "backend")
    ('numpy', 'jax')
    """
    return get_args(get_type_hints(struct)[field])


NORMFACTOR_BOUNDS = (0.0, 10.0)
"""pyhf's bounds of a normalisation factor that the measurement does not bound."""


def poi_bounds(measurement: dict[str, Any], options: ModelOptions) -> tuple[float, float]:
    """Return the bounds of the POI: those of the measurement or pyhf's, and ``mu_max``.

    Examples
    --------
    >>> from fitserve_contract import ModelOptions, poi_bounds
    >>> measurement = {"name": "main", "config": {"poi": "mu", "parameters": []}}
    >>> poi_bounds(measurement, ModelOptions())
    (0.0, 10.0)
    >>> poi_bounds(measurement, ModelOptions(mu_max=100))
    (0.0, 100)
    """
    poi = options.poi or measurement["config"]["poi"]
    low, high = NORMFACTOR_BOUNDS
    for parameter in measurement["config"]["parameters"]:
        if parameter["name"] == poi and "bounds" in parameter:
            low, high = map(float, parameter["bounds"][0])
            break
    return low, high if options.mu_max is msgspec.UNSET else max(high, options.mu_max)


def widened(measurement: dict[str, Any], options: ModelOptions) -> dict[str, Any]:
    """Return a measurement that bounds the POI by ``mu_max``, where the request has one.

    If anything changes it is a copy.
    """
    if options.mu_max is msgspec.UNSET:
        return measurement
    config = measurement["config"]
    poi = options.poi or config["poi"]
    own: dict[str, Any] = {"name": poi}
    others = []
    for parameter in config["parameters"]:
        if parameter["name"] == poi:
            own |= parameter
        else:
            others.append(parameter)
    own["bounds"] = [list(poi_bounds(measurement, options))]
    return {**measurement, "config": {**config, "parameters": [*others, own]}}
