r"""Upper limits: where several curves of CLs fall to a threshold, and their fields of a result.

One evaluation gives the observed CLs and the five expected ones. Each is transformed to

.. math:: z_N(\mu) = \Phi^{-1}(1 - \mathrm{CLs}\,\Phi(N))

with N the number of standard deviations of the background's fluctuation (0 for the observed
CLs). By arXiv:1007.1727 (equations 65 and 89) z of an expected CLs is
:math:`\sqrt{q_{\mu,A}} - N`, which is a nearly straight line in mu and known at mu = 0. Steps
are therefore secants of z, kept inside a bracket that is halved where they do not shrink it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fitserve_contract import ABOVE_BOUND, UpperLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fitserve_contract import MuPoint

__all__ = [
    "FLUCTUATIONS",
    "Crossing",
    "Searching",
    "in_order",
    "judged",
    "limits_of",
    "search",
    "upper_limits",
    "z_of",
]

_NAMES = ("observed", "expected_m2", "expected_m1", "expected_0", "expected_p1", "expected_p2")
# CLs falls with the signal strength. Errors of good fits, 1e-3 in sqrt(q), make it rise by less.
_RISE = 1e-3
_Result = TypeVar("_Result")
Searching: TypeAlias = Generator[float, Sequence[float], _Result]
"""A search that yields signal strengths, is sent the six CLs there, and returns its result."""
FLUCTUATIONS = (0.0, -2.0, -1.0, 0.0, 1.0, 2.0)
"""Background fluctuations in standard deviations: the observed CLs, then the expected ones."""
# Relative width of the final bracket. The secant of z inside it is good to about 1e-5 of mu.
_TOLERANCE = 2e-2
_MOST = 40
# Each evaluation without a value has gone through the whole ladder of attempts.
_MOST_BROKEN = 8
_STEEPEST = 37.0
_SMALLEST = 1e-9


class Crossing(NamedTuple):
    """The upper limit of one curve.

    ``mu`` is None where there is none, and ``reason`` says why. ``ends`` are the evaluated
    signal strengths on both sides of it (zero is not evaluated). ``doubtful`` is true where
    CLs could not be computed, so that a limit may exist.
    """

    mu: float | None
    reason: str | None = None
    ends: tuple[float, ...] = ()
    doubtful: bool = False

    def times(self, unit: float) -> Crossing:
        """Return it in units of one, where it was sought in units of ``unit``."""
        mu = None if self.mu is None else unit * self.mu
        return self._replace(mu=mu, ends=tuple(unit * end for end in self.ends))


class _UndefinedError(Exception):
    """CLs has no value where it is needed."""

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = mu


def upper_limits(
    cls_at: Callable[[float], Sequence[float]],
    bounds: tuple[float, float],
    level: float = 0.95,
    unit: float = 1.0,
) -> list[Crossing]:
    """Find where each of six CLs curves falls to 1 - ``level``.

    Parameters
    ----------
    cls_at
        Returns the observed CLs and the expected ones for -2 to +2 sigma at a signal
        strength; NaN where they could not be computed. It is called once for a signal strength.
    bounds
        Bounds of the search. CLs is 1 at zero by definition; the search never goes below zero.
    level
        Confidence level.
    unit
        What signal strengths are in units of; crossings are in units of one.

    Returns
    -------
    list of Crossing
        In the order of `FLUCTUATIONS`.

    Examples
    --------
    >>> from scipy.special import ndtr
    >>> from fitserve_worker.engines.limits import FLUCTUATIONS, upper_limits
    >>> def cls(mu):  # of a counting experiment with sigma(mu) = 0.4 and muhat = 0
    ...     return [ndtr(n - mu / 0.4) / ndtr(n) for n in FLUCTUATIONS]
    >>> [round(crossing.mu, 3) for crossing in upper_limits(cls, (0, 10))]
    [0.784, 0.421, 0.565, 0.784, 1.091, 1.462]
    """
    searching = search(bounds, level, unit)
    mu = next(searching)
    while True:
        try:
            mu = searching.send(cls_at(mu))
        except StopIteration as done:
            return list(done.value)


def search(
    bounds: tuple[float, float], level: float = 0.95, unit: float = 1.0
) -> Searching[list[Crossing]]:
    """Search as `upper_limits` does, yielding the signal strengths to evaluate.

    For each, the six CLs must be sent back. So several searches can go on at a time, and their
    signal strengths can be evaluated together.

    Parameters
    ----------
    bounds, level, unit
        As for `upper_limits`, whose result is the value that this generator returns.

    Examples
    --------
    >>> searching = search((0, 10))
    >>> next(searching)
    1.0
    """
    made = _Search(max(0.0, bounds[0]), bounds[1], 1 - level, unit)
    yield from made.evaluate(made.first)
    crossings = []
    for curve in range(len(FLUCTUATIONS)):
        crossing = yield from made.crossing(curve)
        crossings.append(crossing)
    return crossings


class _Search:
    """The six curves so far; its generators yield signal strengths to evaluate."""

    def __init__(self, low: float, high: float, alpha: float, unit: float) -> None:
        self._low, self._high = low, high
        self._alpha = alpha
        self._unit = unit
        self._evaluated: dict[float, Sequence[float]] = {}
        self._broken = 0
        if low == 0:
            self._evaluated[0.0] = [1.0] * len(FLUCTUATIONS)
        self.first = min(max(1.0, low), high)

    def evaluate(self, mu: float) -> Searching[None]:
        if mu in self._evaluated:
            return
        if self._broken >= _MOST_BROKEN:
            raise _UndefinedError(mu)
        self._evaluated[mu] = yield mu
        self._broken += not all(map(math.isfinite, self._evaluated[mu]))

    def crossing(self, curve: int) -> Searching[Crossing]:
        found = yield from self._crossing(curve)
        return found.times(self._unit)

    def _crossing(self, curve: int) -> Searching[Crossing]:
        unit = self._unit
        try:
            above = yield from self._excluded(curve)
            if above is None:
                cls = self._evaluated[self._high][curve]
                how = "--mu-max looks further" if unit == 1 else "with the signal rescaled"
                return Crossing(
                    None, f"{ABOVE_BOUND} of {unit * self._high:g}: CLs is {cls:.3g} there ({how})"
                )
            below = yield from self._allowed(curve, above)
            if below is None:
                cls = self._evaluated[self._low][curve]
                return Crossing(
                    None, f"below the POI's bound of {unit * self._low:g}: CLs is {cls:.3g} there"
                )
            return (yield from self._narrowed(curve, below, above))
        except _UndefinedError as error:
            reason = f"CLs could not be computed near mu = {unit * error.mu:.4g}"
            return Crossing(None, reason, doubtful=True)

    def _value(self, curve: int, mu: float) -> float:
        return self._evaluated[mu][curve]

    def _z(self, curve: int, mu: float) -> float:
        return z_of(self._value(curve, mu), FLUCTUATIONS[curve])

    def _finite(self, curve: int) -> list[float]:
        return sorted(mu for mu, values in self._evaluated.items() if math.isfinite(values[curve]))

    def _excluded(self, curve: int) -> Searching[float | None]:
        """Return the smallest evaluated mu that is excluded, going up until there is one."""
        target = z_of(self._alpha, FLUCTUATIONS[curve])
        for _ in range(_MOST):
            finite = self._finite(curve)
            out = [mu for mu in finite if self._value(curve, mu) < self._alpha]
            if out:
                return out[0]
            last = finite[-1] if finite else self._low
            if last == self._high:
                return None
            broken = [mu for mu in self._evaluated if mu > last]
            if broken:
                yield from self._step_over(last, broken)
                continue
            yield from self.evaluate(min(self._high, self._beyond(curve, last, target)))
        raise _UndefinedError(max(self._evaluated))

    def _step_over(self, last: float, broken: list[float]) -> Searching[None]:
        """Go on beyond what could not be computed, or below it at the upper bound."""
        if max(broken) < self._high and len(broken) <= _MOST_BROKEN // 2:
            yield from self.evaluate(min(self._high, 1.5 * max(broken)))
            return
        nearest = min(broken)
        if nearest - last <= _TOLERANCE * nearest:
            raise _UndefinedError(nearest)
        yield from self.evaluate((last + nearest) / 2)

    def _beyond(self, curve: int, last: float, target: float) -> float:
        """Return a mu where z is likely to have passed the target, not too far away."""
        z, before = self._z(curve, last), -FLUCTUATIONS[curve]
        guess = last * (target - before) / (z - before) if z > before else math.inf
        return float(np.clip(1.05 * guess, 1.3 * last, 4 * last)) or self.first

    def _allowed(self, curve: int, above: float) -> Searching[float | None]:
        below = [mu for mu in self._finite(curve) if mu < above]
        if below:
            return below[-1]
        yield from self.evaluate(self._low)
        cls = self._value(curve, self._low)
        if math.isnan(cls):
            raise _UndefinedError(self._low)
        return self._low if cls >= self._alpha else None

    def _narrowed(self, curve: int, low: float, high: float) -> Searching[Crossing]:
        target = z_of(self._alpha, FLUCTUATIONS[curve])
        moved, same, widths = 0, 0, [high - low]
        for _ in range(_MOST):
            z_low, z_high = self._z(curve, low), self._z(curve, high)
            guess = low + (target - z_low) / (z_high - z_low) * (high - low)
            if high - low <= _TOLERANCE * high:
                return Crossing(guess, ends=tuple(mu for mu in (low, high) if mu > 0))
            slow = len(widths) > 3 and widths[-1] > widths[-4] / 2  # noqa: PLR2004 - steps
            if high <= _SMALLEST:
                raise _UndefinedError(high)
            if slow:
                at = high / 10 if low == 0 else (low + high) / 2
                widths = widths[-1:]
            else:
                # Aim a little beyond the guess, so that the far end comes near too.
                nudge = 2**same * _TOLERANCE / 4 * guess
                at = guess + nudge if guess - low < high - guess else guess - nudge
                at = float(np.clip(at, low + 0.01 * (high - low), high - 0.01 * (high - low)))
            at = yield from self._computed(curve, low, at, high)
            side = -1 if self._value(curve, at) >= self._alpha else 1
            same = same + 1 if side == moved else 0
            moved = side
            low, high = (at, high) if side < 0 else (low, at)
            widths.append(high - low)
        raise _UndefinedError(high)

    def _in_hole(self, curve: int, mu: float) -> bool:
        """Return whether CLs could not be computed at the nearest mu on both sides."""
        left = max((other for other in self._evaluated if other < mu), default=self._low)
        right = min((other for other in self._evaluated if other > mu), default=self._high)
        sides = (self._evaluated.get(left), self._evaluated.get(right))
        return all(side is not None and math.isnan(side[curve]) for side in sides)

    def _computed(self, curve: int, low: float, at: float, high: float) -> Searching[float]:
        """Return a mu inside the bracket where CLs can be computed, ``at`` if possible."""
        for mu in (at, (low + at) / 2, (at + high) / 2):
            if self._in_hole(curve, mu):
                continue
            yield from self.evaluate(mu)
            if math.isfinite(self._value(curve, mu)):
                return mu
        raise _UndefinedError(at)


def z_of(cls: float, fluctuation: float) -> float:
    """Return z of a CLs, as at the head of this module, as far as a double can tell."""
    from scipy.special import ndtr, ndtri

    return float(np.clip(-ndtri(cls * ndtr(fluctuation)), -_STEEPEST, _STEEPEST))


def in_order(evaluated: Iterable[float]) -> list[float]:
    """Return signal strengths as a result has them: the first one, then the others rising.

    Examples
    --------
    >>> in_order([1.0, 3.0, 0.5])
    [1.0, 0.5, 3.0]
    """
    first, *others = evaluated
    return [first, *sorted(others)]


def limits_of(crossings: Sequence[Crossing], level: float, rescaled: float = 1.0) -> UpperLimits:
    """Return the limits of a result.

    Parameters
    ----------
    crossings
        Where the six curves cross, in the order of
        `fitserve_worker.engines.limits.FLUCTUATIONS`.
    level
        Confidence level.
    rescaled
        What the signal was multiplied by.
    """
    return UpperLimits(
        level=level,
        observed=crossings[0].mu,
        expected=[crossing.mu for crossing in crossings[1:]],
        reasons={
            name: crossing.reason
            for name, crossing in zip(_NAMES, crossings, strict=True)
            if crossing.reason
        },
        rescaled=rescaled,
    )


def judged(
    crossings: Sequence[Crossing], points: Sequence[MuPoint], reasons: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the status and the reason of a result with limits.

    Parameters
    ----------
    crossings
        Where the six curves cross.
    points
        Everything that was evaluated, as `in_order`: first at 1 or the bound next to it.
    reasons
        Other reasons to doubt the limits.

    Returns
    -------
    dict
        ``status`` and ``reason`` of a `fitserve_contract.HypothesisResult`, and its CLs where 1
        is out of bounds.
    """
    fields = _doubts(crossings, points, reasons)
    if points[0].mu != 1.0:
        fields |= {"CLs_obs": None, "CLs_exp": [None] * (len(_NAMES) - 1)}
    return fields


def _doubts(
    crossings: Sequence[Crossing], points: Sequence[MuPoint], other: Iterable[str]
) -> dict[str, Any]:
    by_mu = {point.mu: point for point in points}
    computed = [by_mu[mu] for mu in sorted(by_mu) if by_mu[mu].CLs_obs is not None]
    if not computed:
        return {"status": "failed", "reason": points[0].reason}
    doubts = dict.fromkeys(other) | {
        f"{name}: {crossing.reason}": None
        for name, crossing in zip(_NAMES, crossings, strict=True)
        if crossing.doubtful
    }
    for mu in sorted({mu for crossing in crossings for mu in crossing.ends}):
        if by_mu[mu].status != "ok":
            doubts[f"at mu = {mu:.4g}: {by_mu[mu].reason}"] = None
    for name, values in (
        ("observed", [point.CLs_obs for point in computed]),
        ("median expected", [point.CLs_exp[2] for point in computed]),
    ):
        falling = [value for value in values if value is not None]
        if any(later > earlier + _RISE for earlier, later in itertools.pairwise(falling)):
            doubts[f"the {name} CLs does not fall with mu everywhere"] = None
    if not doubts:
        return {"status": "ok", "reason": None}
    return {"status": "suspect", "reason": "; ".join(doubts)}
