"""From a best fit, by either engine, to the fields of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_contract import (
    ChannelYields,
    Correlations,
    FittedParameter,
    Impact,
    RankingAnswer,
    SampleYields,
    Yields,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = [
    "Channel",
    "Solution",
    "correlations",
    "degenerate",
    "listed",
    "parameters",
    "ranked",
    "yields_by_channel",
]

# The most parameters that are named.
_NAMED = 10
# Correlations are rounded to this many decimals: more have no meaning, and there are many.
_DECIMALS = 5
# Parameters are degenerate where the smallest eigenvalue of their correlations is below this, or
# where a correlation is practically one and an uncertainty larger than the parameter's range.
# Parameters are named if their part of the direction, relative to the largest, is above this.
_FLAT = 1e-7
_ALIKE = 0.999
_PART = 0.2


class Solution(NamedTuple):
    """The minimum of -2 log L.

    Each array has shape (parameters,) but ``bounds``, (parameters, 2), and ``covariance``,
    (parameters, parameters), which is zero for parameters that are fixed or at a bound.
    ``centres`` and ``widths`` are those of the constraints, zero widths where there is none.
    ``intervals`` has the ends, by parameter, of the profile-likelihood intervals that were
    requested; None for an end beyond the bound.
    """

    names: Sequence[str]
    values: Array
    bounds: Array
    fixed: NDArray[np.bool_]
    at_bound: NDArray[np.bool_]
    covariance: Array
    centres: Array
    widths: Array
    intervals: Mapping[int, tuple[float | None, float | None]]

    @property
    def free(self) -> NDArray[np.intp]:
        """Indices of the parameters that have an uncertainty."""
        return np.flatnonzero(~self.fixed & ~self.at_bound)

    @property
    def uncertainties(self) -> Array:
        """Uncertainties of all parameters, zero where there is none, shape (parameters,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


def parameters(solution: Solution) -> list[FittedParameter]:
    """Return the parameters as a result has them."""
    made = []
    free = set(solution.free.tolist())
    sigmas = solution.uncertainties
    for index, name in enumerate(solution.names):
        fixed = bool(solution.fixed[index])
        value, centre = float(solution.values[index]), float(solution.centres[index])
        sigma = float(sigmas[index]) if index in free else None
        width = None if fixed else float(solution.widths[index]) or None
        lower, upper = solution.intervals.get(index, (None, None))
        made.append(
            FittedParameter(
                name=name,
                bestfit=value,
                uncertainty=sigma,
                prefit=centre,
                prefit_uncertainty=width,
                pull=(value - centre) / width if width else None,
                constraint=sigma / width if width and sigma is not None else None,
                lower=lower,
                upper=upper,
                fixed=fixed,
                at_bound=bool(solution.at_bound[index]),
            )
        )
    return made


def listed(names: Iterable[str]) -> str:
    """Return the names of parameters in one line, not too many of them.

    Examples
    --------
    >>> listed(["mu", "lumi"])
    'lumi, mu'
    """
    ordered = sorted(names)
    more = len(ordered) - _NAMED
    return ", ".join(ordered[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def correlations(solution: Solution) -> Correlations:
    """Return the correlation coefficients of the free parameters."""
    free, sigmas = solution.free, solution.uncertainties
    names = [solution.names[index] for index in free]
    if not (sigmas[free] > 0).all():
        return Correlations(names=[], lower=[])
    matrix = solution.covariance[np.ix_(free, free)] / np.outer(sigmas[free], sigmas[free])
    rounded = np.round(matrix, _DECIMALS).tolist()
    return Correlations(names=names, lower=[row[:count] for count, row in enumerate(rounded)])


def degenerate(solution: Solution) -> list[str]:
    """Return the reasons to doubt uncertainties: parameters that the data cannot tell apart.

    -2 log L is then flat along some direction. An exact Hessian only has rounding there, one from
    finite differences at least gives an uncertainty beyond the parameter's range.
    """
    free, sigmas = solution.free, solution.uncertainties
    if not free.size or not (sigmas[free] > 0).all():
        return []
    matrix = solution.covariance[np.ix_(free, free)] / np.outer(sigmas[free], sigmas[free])
    sizes, directions = np.linalg.eigh(matrix)
    low, high = solution.bounds[free].T
    beyond = sigmas[free] > high - low
    alike = np.abs(matrix - np.eye(len(free))) > _ALIKE
    if sizes[0] < _FLAT:
        part = np.abs(directions[:, 0])
        chosen = part > _PART * part.max()
    else:
        chosen = (beyond & alike.any(axis=1)) | (alike & beyond).any(axis=1)
    if not chosen.any():
        return []
    names = listed(solution.names[index] for index in free[chosen])
    return [f"the data do not tell {names} apart: their uncertainties are not determined"]


def ranked(
    solution: Solution,
    poi: int,
    shifts: Callable[[NDArray[np.int64], Array], Sequence[float | None]],
) -> tuple[RankingAnswer, list[str]]:
    """Rank the nuisance parameters by their impact on the parameter of interest.

    Parameters
    ----------
    solution
        The fit.
    poi
        Index of the parameter of interest.
    shifts
        Given indices of parameters and the values they are held at, (fits,), returns by how
        much each fit moves the parameter of interest; None for one that failed.

    Returns
    -------
    ranking
        The impacts, the largest after the fit first.
    problems
        Names of the parameters for which a fit failed.
    """
    fitted = parameters(solution)
    low, high = solution.bounds.T
    trials: list[tuple[int, str, float]] = []
    for index, parameter in enumerate(fitted):
        if index == poi or parameter.fixed:
            continue
        for name, width in (
            ("postfit", parameter.uncertainty),
            ("prefit", parameter.prefit_uncertainty),
        ):
            for end, step in (("up", width), ("down", -width if width else None)):
                if step:
                    value = np.clip(solution.values[index] + step, low[index], high[index])
                    trials.append((index, f"{name}_{end}", float(value)))
    moved = shifts(
        np.array([index for index, _, _ in trials], dtype=int),
        np.array([value for _, _, value in trials]),
    )
    by_parameter: dict[int, dict[str, float | None]] = {
        index: dict.fromkeys(("postfit_up", "postfit_down", "prefit_up", "prefit_down"))
        for index, parameter in enumerate(fitted)
        if index != poi and not parameter.fixed
    }
    broken: dict[str, None] = {}
    for (index, name, _), shift in zip(trials, moved, strict=True):
        by_parameter[index][name] = shift
        if shift is None:
            broken[solution.names[index]] = None
    impacts = [Impact(parameter=fitted[index], **ends) for index, ends in by_parameter.items()]
    impacts.sort(key=_size, reverse=True)
    return RankingAnswer(poi=fitted[poi], impacts=impacts), list(broken)


def _size(impact: Impact) -> float:
    return max(abs(impact.postfit_up or 0.0), abs(impact.postfit_down or 0.0))


class Channel(NamedTuple):
    """A channel: its bins of the model, and the rows of its samples' yields."""

    name: str
    bins: slice
    samples: Sequence[tuple[str, int]]


def yields_by_channel(
    channels: Sequence[Channel],
    observed: Array,
    before: tuple[Array, Array],
    after: tuple[Array, Array],
) -> list[ChannelYields]:
    """Return the yields of channels.

    Parameters
    ----------
    channels
        The channels, in order.
    observed
        Observed events, of shape (bins,).
    before, after
        Yields before and after the fit and their uncertainties, each (rows, bins); the last
        row is the sum of samples.
    """

    def yields(row: int, bins: slice) -> Yields:
        return Yields(
            prefit=before[0][row, bins].tolist(),
            prefit_uncertainty=before[1][row, bins].tolist(),
            postfit=after[0][row, bins].tolist(),
            postfit_uncertainty=after[1][row, bins].tolist(),
        )

    return [
        ChannelYields(
            name=channel.name,
            data=observed[channel.bins].tolist(),
            total=yields(-1, channel.bins),
            samples=[
                SampleYields(name=name, yields=yields(row, channel.bins))
                for name, row in channel.samples
            ],
        )
        for channel in channels
    ]
