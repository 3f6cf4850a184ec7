"""The ladder of attempts: doubtful fits are repeated, in another way each time.

First as pyhf would do it, then with a tighter tolerance, from a perturbed start, and with the
other optimizer. Every attempt is recorded.
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
    from collections.abc import Callable

    from fitserve_contract import EngineOptions, Status
    from fitserve_worker.engines.models import BuiltModel

__all__ = ["SEVERITY", "Climb", "Ladder", "Rung"]

SEVERITY: dict[Status, int] = {"ok": 0, "suspect": 1, "failed": 2}
"""From the best to the worst."""

# SLSQP's is a change of -2 log L (1e-6 by default); Minuit's scales its estimated distance
# to the minimum, 0.002 of it (0.1 by default).
_TIGHT = {"scipy": 1e-10, "minuit": 1e-3}


class Judged(Protocol):
    """The answer of an attempt: its minimum of -2 log L, and the reasons to doubt it."""

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


_Answer = TypeVar("_Answer", bound=Judged)


class _Minuit(minuit_optimizer):  # type: ignore[misc]  # pyhf has no types
    """pyhf's Minuit, which fails where a fit has no covariance to take correlations from."""

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
    """One way to fit: an optimizer, its start, and whether its tolerance is tight."""

    optimizer: str
    start: str
    tight: bool

    def make(self) -> Any:
        """Return pyhf's optimizer, with its usual tolerance or a tighter one."""
        kind = _OPTIMIZERS[self.optimizer]
        return kind(tolerance=_TIGHT[self.optimizer]) if self.tight else kind()

    def __str__(self) -> str:
        return f"{self.optimizer}, tight" if self.tight else self.optimizer


class Climb(NamedTuple, Generic[_Answer]):
    """The attempts at one question and the best of their answers."""

    attempts: list[Attempt]
    best: _Answer | None

    @property
    def status(self) -> Status:
        """Whether the best answer holds."""
        if self.best is None:
            return "failed"
        return "suspect" if self.best.problems else "ok"

    @property
    def reason(self) -> str | None:
        """The reasons to doubt it."""
        if self.status == "ok":
            return None
        reasons = self.best.problems if self.best else self.attempts[-1].problems
        return "; ".join(reasons)


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
        self, built: BuiltModel, seed: int, attempt: Callable[[Rung, list[float]], _Answer]
    ) -> Climb[_Answer]:
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
        best: _Answer | None = None
        for rung in self._rungs:
            pyhf.set_backend(self.backend, rung.make())
            begin = time.perf_counter()
            answer, problems = _try(attempt, rung, _start(built, rung, seed))
            attempts.append(
                Attempt(
                    engine=str(rung),
                    start=rung.start,
                    seconds=time.perf_counter() - begin,
                    problems=problems,
                )
            )
            if answer is not None and (best is None or _rank(answer) < _rank(best)):
                best = answer
            if not problems:
                break
        return Climb(attempts, best)


def _try(
    attempt: Callable[[Rung, list[float]], _Answer], rung: Rung, start: list[float]
) -> tuple[_Answer | None, list[str]]:
    """Make an attempt; one without numbers has no answer but a problem."""
    try:
        answer = attempt(rung, start)
    except pyhf.exceptions.FailedMinimization:
        return None, ["the optimizer reports that it failed"]
    except (ValueError, ArithmeticError) as error:
        return None, [f"the fit broke: {error}"]
    return (answer if answer.usable else None), answer.problems


def _rank(answer: Judged) -> tuple[int, float]:
    return len(answer.problems), answer.twice_nll


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
    perturbed: list[float] = np.clip(initial + shift, low, high).tolist()
    return perturbed
