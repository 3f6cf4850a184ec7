"""Tests of hypotheses, each at its own signal strengths, which are chosen one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_worker.kernel.asymptotics import asymptotic_cls
from fitserve_worker.kernel.hypotest import (
    deepened_together,
    free_fit,
    reference_value,
    without_signal,
)
from fitserve_worker.kernel.retries import SLACK, better, doubts
from fitserve_worker.kernel.starts import AMBIGUOUS, Cases, deepened, falling, fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.kernel import FloatArray, IntArray
    from fitserve_worker.kernel.arrays import Data
    from fitserve_worker.kernel.fits import Fits, Loaded
    from fitserve_worker.kernel.starts import SecondMinima, Tried

__all__ = ["Outcome", "Strengths"]

# A free fit that is closer than this to a tested signal strength ended there.
_NEAR = 1e-3


class Outcome(NamedTuple):
    """The test of a hypothesis at a signal strength.

    ``CLs_exp`` are the expected values for -2 to +2 sigma. ``twice_delta_nll`` is the rise of
    -2 log L of the observed data when the signal strength is held here, ``q_asimov`` that of the
    Asimov data.
    """

    CLs_obs: float
    CLs_exp: tuple[float, ...]
    twice_delta_nll: float
    q_asimov: float
    problems: tuple[str, ...]


class _Held(NamedTuple):
    """A fit with the signal strength held, on its own."""

    value: float
    x: FloatArray
    problems: tuple[str, ...]
    converged: bool = True
    positive: bool = True


class Strengths:
    """Hypotheses, and all fits made to them so far.

    Parameters
    ----------
    loaded
        The hypotheses.
    first
        The signal strength of each to begin with, of shape (hypotheses,).
    test_stat
        ``"qtilde"`` or ``"q"``.
    start
        Where the fits without signal start, of shape (columns,); by default where pyhf would.
    unit
        What signal strengths are in units of, of shape (hypotheses,), for the reasons to doubt
        fits.

    Attributes
    ----------
    null, free
        Fits to the observed data, one for each hypothesis: with the signal strength at zero
        and free.
    minima
        What other starts of the free fits led to.
    improved
        How often the free fit of each hypothesis was replaced by a lower one, which changes all
        its observed CLs, of shape (hypotheses,).
    iterations
        Gradients evaluated for each hypothesis, of shape (hypotheses,).
    edm
        The largest estimated distance to a minimum of the fits to each hypothesis.
    """

    def __init__(
        self,
        loaded: Loaded,
        first: FloatArray,
        test_stat: str,
        start: FloatArray | None = None,
        unit: FloatArray | None = None,
    ) -> None:
        self._loaded = loaded
        self._first = first
        self._test_stat = test_stat
        self._unit = np.ones(loaded.size) if unit is None else unit
        every = np.arange(loaded.size)
        self._initial = loaded.chunk.columns["init"][every]
        self.iterations = np.zeros(loaded.size, dtype=int)
        self.edm = np.zeros(loaded.size)
        self.improved = np.zeros(loaded.size, dtype=int)
        self._observed: list[dict[float, _Held]] = [{} for _ in every]
        self._asimov: list[dict[float, _Held]] = [{} for _ in every]

        data = loaded.observed
        begin = self._initial if start is None else np.broadcast_to(start, self._initial.shape)
        zero = np.zeros(loaded.size)
        null, of_null = without_signal(loaded, begin)
        self._count(every, null)
        cases = Cases(every, first, data)
        held, of_held = self._fit(cases, [null.x, self._initial])
        free = free_fit(loaded, every, data, [(zero, null), (first, held)])
        self._count(every, free)
        (null, held, free), seen = deepened_together(
            loaded, [0.0, first, np.nan], data, [null, held, free], [of_null, of_held]
        )
        self.null = self._nearer(every, null, data, zero, free)
        self.free = free
        at_zero, at_first, self.minima = seen
        self._asimov_data = loaded.asimov(self.null, every)
        for at in every:
            exact = _Held(0.0, self.null.x[at], ())
            self._asimov[at][0.0] = exact
        self._note(self._observed, Cases(every, zero, data), self.null, at_zero, AMBIGUOUS)
        self._null_problems = [self._observed[at][0.0].problems for at in every]
        some = np.flatnonzero(first != 0)
        self._note(self._observed, cases.take(some), held.take(some), at_first.take(some))

    def evaluate(self, which: IntArray, mu: FloatArray) -> None:
        """Fit hypotheses at signal strengths, all at once, to observed and Asimov data.

        Parameters
        ----------
        which, mu
            Index of the hypothesis and signal strength of each test, of shape (tests,).
        """
        # Where there are many minima the others start from the first one's. If each looked for its
        # own, neighbours would not fit together.
        first = (mu == self._first[which]) & self._loaded.rugged
        self._evaluate(which[first], mu[first], lead=True)
        self._evaluate(which[~first], mu[~first], lead=False)

    def _evaluate(self, which: IntArray, mu: FloatArray, *, lead: bool) -> None:
        sets = (self._observed, self._asimov)
        tests = list(zip(which.tolist(), mu.tolist(), strict=True))
        pairs = [
            [(at, strength) for at, strength in tests if strength not in made[at]] for made in sets
        ]
        # Below zero there is no CLs.
        pairs[1] = [(at, strength) for at, strength in pairs[1] if strength > 0]
        index = np.array([at for some in pairs for at, _ in some], dtype=int)
        if not index.size:
            return
        strength = np.array([mu for some in pairs for _, mu in some])
        split = len(pairs[0])
        observed, asimov = index[:split], index[split:]
        data = type(self._asimov_data)._make(
            np.concatenate([one[observed], other[asimov]])
            for one, other in zip(self._loaded.observed, self._asimov_data, strict=True)
        )
        begin = [
            self._between(made[at], mu)
            for made, some in zip(sets, pairs, strict=True)
            for at, mu in some
        ]
        starts = [np.stack(begin), self.null.x[index], self._initial[index]]
        cases = Cases(index, strength, data)
        fits, tried = self._fit(cases, starts)
        fits, seen = deepened(self._loaded, cases, fits, tried, lead=lead)
        first, rest = np.arange(split), np.arange(split, len(index))
        self._improve(observed, fits.take(first))
        of_observed = self._nearer(
            observed,
            fits.take(first),
            data.take(first),
            strength[:split],
            self.free.take(observed),
        )
        self._note(self._observed, cases.take(first), of_observed, seen.take(first))
        self._note(self._asimov, cases.take(rest), fits.take(rest), seen.take(rest))

    def tested(self, at: int, mu: float) -> bool:
        """Tell whether a hypothesis was tested at a signal strength."""
        return mu in self._observed[at] and (mu < 0 or mu in self._asimov[at])

    def outcome(self, at: int, mu: float) -> Outcome:
        """Return the test of a hypothesis at a signal strength that was evaluated.

        CLs is NaN below zero.
        """
        loaded = self._loaded
        observed = self._observed[at][mu]
        free = float(self.free.value[at])
        rise = 2 * (observed.value - free)
        muhat = self.free.x[at, loaded.chunk.poi[at]]
        compared = reference_value(free, self.null.value[at], muhat, self._test_stat)
        named = {
            "background": self._null_problems[at],
            "free": doubts(loaded, self.free, at) + self.minima.doubts(at),
            f"mu = {mu * self._unit[at]:.4g}": observed.problems,
        }
        q_asimov = np.nan
        if mu < 0:
            cls = np.full(6, np.nan)
        else:
            asimov = self._asimov[at][mu]
            q = 0.0 if muhat > mu else max(2 * (observed.value - float(compared)), 0.0)
            q_asimov = max(2 * asimov.value, 0.0)
            both = asymptotic_cls(np.array([q]), np.array([q_asimov]), self._test_stat)
            cls = np.array([both.observed[0], *both.expected[0]])
            named[f"Asimov, mu = {mu * self._unit[at]:.4g}"] = asimov.problems
        return Outcome(
            float(cls[0]),
            tuple(cls[1:].tolist()),
            rise,
            q_asimov,
            tuple(
                f"the fit with {name} {what}"
                for name, problems in named.items()
                for what in problems
            ),
        )

    def falling(self, at: int) -> list[str]:
        """Return the reasons to doubt the profile of a hypothesis, see `starts.falling`."""
        unit = self._unit[at]
        muhat = unit * float(self.free.x[at, self._loaded.chunk.poi[at]])
        profile = [(unit * mu, held.value) for mu, held in self._observed[at].items()]
        return falling(profile, (muhat, float(self.free.value[at])))

    def converged(self, at: int) -> bool:
        """Tell whether all fits to a hypothesis that count in the end converged."""
        return bool(self.free.converged[at]) and all(one.converged for one in self._held(at))

    def positive(self, at: int) -> bool:
        """Tell whether the Hessian was positive definite at the end of each of these fits."""
        return bool(self.free.positive[at]) and all(one.positive for one in self._held(at))

    def _held(self, at: int) -> list[_Held]:
        return [*self._observed[at].values(), *self._asimov[at].values()]

    def _fit(self, cases: Cases, starts: Sequence[FloatArray]) -> tuple[Fits, Tried]:
        fits, tried = fitted(self._loaded, cases, starts)
        self._count(cases.hypothesis, fits)
        return fits, tried

    def _count(self, which: IntArray, fits: Fits) -> None:
        np.add.at(self.iterations, which, fits.steps)
        np.maximum.at(self.edm, which, np.abs(fits.edm))

    def _note(
        self,
        made: list[dict[float, _Held]],
        cases: Cases,
        fits: Fits,
        seen: SecondMinima,
        close: float = 0.0,
    ) -> None:
        pairs = zip(cases.hypothesis.tolist(), cases.poi.tolist(), strict=True)
        for row, (at, strength) in enumerate(pairs):
            problems = doubts(self._loaded, fits, row, cases.data.events[row])
            made[at][strength] = _Held(
                float(fits.value[row]),
                fits.x[row],
                tuple(problems + seen.doubts(row, close)),
                bool(fits.converged[row]),
                bool(fits.positive[row]),
            )

    def _between(self, held: dict[float, _Held], mu: float) -> FloatArray:
        """Return a start: on the straight line through the two nearest fits around mu."""
        at = np.array(sorted(held))
        if len(at) == 1:
            return held[float(at[0])].x
        above = int(np.clip(np.searchsorted(at, mu), 1, len(at) - 1))
        low, high = float(at[above - 1]), float(at[above])
        # Not far beyond the fits.
        fraction = float(np.clip((mu - low) / (high - low), -1.0, 2.0))
        return (1 - fraction) * held[low].x + fraction * held[high].x

    def _nearer(self, which: IntArray, fixed: Fits, data: Data, mu: FloatArray, free: Fits) -> Fits:
        """Refit at mu where the free fit ended at mu too, and lower."""
        rows = np.arange(len(which))
        muhat = free.x[rows, self._loaded.chunk.poi[which]]
        again = np.flatnonzero((np.abs(muhat - mu) < _NEAR) & (free.value < fixed.value - SLACK))
        if not again.size:
            return fixed
        second = self._loaded.fit(which[again], free.x[again], data.take(again), mu[again])
        self._count(which[again], second)
        return fixed.replaced(again, better(fixed.take(again), second))

    def _improve(self, which: IntArray, fixed: Fits) -> None:
        """Fit freely from fits with the signal strength held that are lower than the free one."""
        poi = self._loaded.chunk.poi[which]
        columns = self._loaded.chunk.columns
        inside = fixed.x[np.arange(len(which)), poi]
        within = (inside >= columns["lower"][which, poi]) & (inside <= columns["upper"][which, poi])
        lower = np.flatnonzero(within & (fixed.value < self.free.value[which] - SLACK))
        for row in lower.tolist():
            at = which[row : row + 1]
            second = self._loaded.fit(at, fixed.x[row : row + 1], self._loaded.observed.take(at))
            self._count(at, second)
            lower_fit = better(self.free.take(at), second)
            if lower_fit.value[0] < self.free.value[at[0]]:
                self.free = self.free.replaced(at, lower_fit)
                self.improved[at] += 1
