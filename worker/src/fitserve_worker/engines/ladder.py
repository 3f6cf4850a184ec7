"""The ladder of attempts: fits that are doubted are tried again, in another way each time.

As pyhf would do it, with a tighter tolerance, from a perturbed start, and with the other
optimizer. Every attempt is recorded.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import pyhf
from pyhf.optimize.opt_minuit import minuit_optimizer

from fitserve_contract import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fitserve_contract import EngineOptions, Status
    from fitserve_worker.engines.models import BuiltModel

__all__ = ["SEVERITY", "Climb", "Ladder", "Rung"]

SEVERITY: dict[Status, int] = {"ok": 0, "suspect": 1, "failed": 2}
"""From the best to the worst."""

# SLSQP's is a change of -2 log L (1e-6 by default); Minuit's scales its estimated distance
# to the minimum, 0.002 of it (0.1 by default).
_TIGHT = {"scipy": 1e-10, "minuit": 1e-3}


class Judged(Protocol):
    """What an attempt gives: its minimum of -2 log L, and what speaks against it."""

    @property
    def twice_nll(self) -> float:
        """Minimum of -2 log L for the observed data."""
        ...

    @property
    def problems(self) -> list[str]:
        """Reasons to doubt it."""
        ...

    @property
    def usable(self) -> bool:
        """Whether there are numbers at all."""
        ...


_Found = TypeVar("_Found", bound=Judged)


class _Minuit(minuit_optimizer):  # type: ignore[misc]  # pyhf has no types
    """Minuit as pyhf drives it, which asks a fit without a covariance for its correlations."""

    def _minimize(self, minimizer: Any, *args: Any, **options: Any) -> Any:
        try:
            return super()._minimize(minimizer, *args, **options)
        except AttributeError:
            if minimizer.covariance is None:
                message = "Minuit found no covariance"
                raise pyhf.exceptions.FailedMinimization(SimpleNamespace(message=message)) from None
            raise


_OPTIMIZERS = {"scipy": pyhf.optimize.scipy_optimizer, "minuit": _Minuit}


class Rung(NamedTuple):
    """One way to try: an optimizer, where it starts, and how close it is to come."""

    optimizer: str
    start: str
    tight: bool

    def make(self) -> Any:
        """Return pyhf's optimizer, with its usual tolerance or a tighter one."""
        kind = _OPTIMIZERS[self.optimizer]
        return kind(tolerance=_TIGHT[self.optimizer]) if self.tight else kind()

    def __str__(self) -> str:
        return f"{self.optimizer}, tight" if self.tight else self.optimizer


class Climb(NamedTuple, Generic[_Found]):
    """The attempts at one question and the best of their answers."""

    attempts: list[Attempt]
    best: _Found | None

    @property
    def status(self) -> Status:
        """Whether the best answer holds."""
        if self.best is None:
            return "failed"
        return "suspect" if self.best.problems else "ok"

    @property
    def reason(self) -> str | None:
        """What speaks against it."""
        if self.status == "ok":
            return None
        told = self.best.problems if self.best else self.attempts[-1].problems
        return "; ".join(told)


class Ladder:
    """The ways to try, in the order in which they are tried.

    Parameters
    ----------
    options
        The backend, and the optimizer to begin with.
    tight
        Leave out the attempt with the optimizer's usual tolerance.
    """

    def __init__(self, options: EngineOptions, *, tight: bool = False) -> None:
        self.backend = options.backend
        other = "minuit" if options.optimizer == "scipy" else "scipy"
        usual = [] if tight else [Rung(options.optimizer, "initial", tight=False)]
        self._rungs = (
            *usual,
            Rung(options.optimizer, "initial", tight=True),
            Rung(options.optimizer, "perturbed", tight=True),
            Rung(other, "initial", tight=True),
        )

    def prepare(self) -> None:
        """Set pyhf up for the first attempt; models are built for its backend."""
        pyhf.set_backend(self.backend, self._rungs[0].make())

    def climb(
        self, built: BuiltModel, seed: int, attempt: Callable[[Rung, list[float]], _Found]
    ) -> Climb[_Found]:
        """Try until an attempt shows no problem.

        Parameters
        ----------
        built
            Model and data.
        seed
            Of the perturbed start.
        attempt
            Answers the question, given a rung (pyhf is set up for it) and initial values of
            all parameters in the model's order.
        """
        attempts: list[Attempt] = []
        best: _Found | None = None
        for rung in self._rungs:
            pyhf.set_backend(self.backend, rung.make())
            begin = time.perf_counter()
            found, problems = _try(attempt, rung, _start(built, rung, seed))
            attempts.append(
                Attempt(
                    engine=str(rung),
                    start=rung.start,
                    seconds=time.perf_counter() - begin,
                    problems=problems,
                )
            )
            if found is not None and (best is None or _rank(found) < _rank(best)):
                best = found
            if not problems:
                break
        return Climb(attempts, best)


def _try(
    attempt: Callable[[Rung, list[float]], _Found], rung: Rung, start: list[float]
) -> tuple[_Found | None, list[str]]:
    """Make an attempt; what gives no numbers is no answer but a problem."""
    try:
        found = attempt(rung, start)
    except pyhf.exceptions.FailedMinimization:
        return None, ["the optimizer reports that it failed"]
    except (ValueError, ArithmeticError) as error:
        return None, [f"the fit broke: {error}"]
    return (found if found.usable else None), found.problems


def _rank(found: Judged) -> tuple[int, float]:
    return len(found.problems), found.twice_nll


def _start(built: BuiltModel, rung: Rung, seed: int) -> list[float]:
    """Return initial values; perturbed ones are the same every time for a hypothesis."""
    config = built.model.config
    initial = np.asarray(config.suggested_init(), dtype=float)
    if rung.start == "initial":
        return list(initial)
    low, high = np.asarray(config.suggested_bounds(), dtype=float).T
    width = np.minimum(high - low, 1.0)
    shift = np.random.default_rng(seed).uniform(-0.25, 0.25, len(initial)) * width
    shift[np.asarray(config.suggested_fixed(), dtype=bool)] = 0.0
    return _floats(np.clip(initial + shift, low, high))


def _floats(values: Sequence[float] | np.ndarray[Any, Any]) -> list[float]:
    return [float(value) for value in values]
