"""Compare each result with its neighbours in the plane of the mass values.

CLs changes smoothly from one signal hypothesis to the next: the signal changes a little, the
data and the background do not. A value that jumps against all its neighbours, and by more than
the others do against theirs, may be a wrong fit or a wrong signal, or an edge of the grid where
the kinematics change. Such a value is therefore fitted by pyhf too, reported, and left as it is.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fitserve.kinds.base import at_strength
from fitserve_contract import cls_strengths

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fitserve_contract import HypothesisResult, Request

__all__ = ["Jump", "find_jumps", "judged"]

# A plane is fitted through this many neighbours, weighted with their closeness; a value that jumps
# lies on the same side of what each of the nearest predicts.
_NEIGHBOURS = 6
_NEAREST = 4
_LEAST_POINTS = 10
# Jumps count from this significance on, and from this many times the usual distance. On the
# published grids no value is beyond 0.5 (observed less expected) and 1.2 (expected), which are
# 4.7 and 4.2 times the usual one.
_LEAST = 0.5
_UNUSUAL = 7.0
# CLs of 1e-7 and 1e-12 are both excluded, and neither is known that well.
_MOST = 5.0
# Median distances of a normal distribution are this part of its width.
_MEDIAN = 0.6745
# Of the fit by least absolute distances: distances below the second are as good as zero.
_ROUNDS = 12
_SMALL = 0.01
# Of the range of the grid; nothing is nearer.
_SAME_PLACE = 1e-6
# On a regular grid several are equally near: the nearest are chosen among this many.
_LOOKED_AT = 16
# They are looked for around so many at a time, more than twice as many.
_CELL = 64


class Jump(NamedTuple):
    """A CLs that jumps.

    Attributes
    ----------
    mu
        The signal strength.
    what
        ``"expected"``, or ``"observed"`` for the observed CLs relative to the expected one.
    cls, neighbours
        The CLs, and what its neighbours predict.
    sigma
        By how much it jumps against the neighbour that agrees best, as a significance.
    usual
        Width of the distribution of distances from the neighbours in the run.
    """

    mu: float
    what: str
    cls: float
    neighbours: float
    sigma: float
    usual: float

    def __str__(self) -> str:
        beside = " and the expected CLs" if self.what == "observed" else ""
        return (
            f"at mu = {self.mu:g} the {self.what} CLs of {self.cls:.3g} jumps against all its "
            f"neighbours: they{beside} predict {self.neighbours:.3g} "
            f"({abs(self.sigma):.1f} sigma, the others scatter by {self.usual:.2g})"
        )


def find_jumps(request: Request, results: Mapping[str, HypothesisResult]) -> dict[str, Jump]:
    """Return the jumps of a run by hypothesis, at most one of each.

    Mass values are the coordinates; hypotheses that differ in one that is no number are not
    neighbours. Two numbers of each hypothesis are looked at, as significances (the quantile of
    the normal distribution): the median expected CLs, and the difference of the observed CLs
    from it, in which the strength of the signal largely cancels. Each is compared with what a
    plane through its nearest neighbours predicts.

    Parameters
    ----------
    request
        It says at which signal strengths there are CLs.
    results
        By hypothesis; those without CLs are left out. With fewer than ten there is no usual
        distance, and nothing is reported.
    """
    jumps: dict[str, Jump] = {}
    for mu in cls_strengths(request):
        if mu <= 0:
            continue
        for group in _groups(request, results, mu):
            for name, jump in _jumps_of(group, mu):
                jumps.setdefault(name, jump)
    return jumps


def judged(result: HypothesisResult, jump: Jump | None) -> HypothesisResult:
    """Return a result with a description of its jump against its neighbours, or with none.

    Its status, its reason and every number stay as they are: a grid may have an edge, where
    right values jump.
    """
    text = None if jump is None else str(jump)
    second = result.verification
    if text and second is not None and second.largest is not None:
        same = second.largest <= second.tolerance
        text += "; pyhf finds the same: look at the signal itself" if same else ""
    return msgspec.structs.replace(result, neighbours=text)


class _Place(NamedTuple):
    """A hypothesis in the mass plane, with its CLs."""

    name: str
    at: tuple[float, ...]
    observed: float
    expected: float


def _groups(
    request: Request, results: Mapping[str, HypothesisResult], mu: float
) -> Iterable[list[_Place]]:
    """Return the hypotheses with CLs, in groups of the same mass values that are no numbers."""
    groups: dict[tuple[object, ...], list[_Place]] = {}
    for name, result in results.items():
        point = at_strength(request, result, mu)
        if point.CLs_obs is None or point.CLs_exp[2] is None:
            continue
        at: list[float] = []
        words: list[object] = [len(result.mass_hypotheses)]
        for value in result.mass_hypotheses:
            number = _number(value)
            if math.isfinite(number):
                at.append(number)
            else:
                words.append(value)
        place = _Place(name, tuple(at), point.CLs_obs, point.CLs_exp[2])
        groups.setdefault(tuple(words), []).append(place)
    return groups.values()


def _number(value: float | str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _significance(cls: float) -> float:
    if not 0 < cls < 1:
        return -_MOST if cls >= 1 else _MOST
    return max(-_MOST, min(_MOST, -NormalDist().inv_cdf(cls)))


def _jumps_of(group: Sequence[_Place], mu: float) -> Iterable[tuple[str, Jump]]:
    import numpy as np

    points = np.array([place.at for place in group], dtype=float)
    if len(group) < _LEAST_POINTS or not points.size:
        return
    spans = np.ptp(points, axis=0)
    if not spans.any():
        return
    points = points[:, spans > 0] / spans[spans > 0]
    observed = np.array([_significance(place.observed) for place in group])
    expected = np.array([_significance(place.expected) for place in group])
    for what, values in (("expected", expected), ("observed", observed - expected)):
        for index, sigma, usual in _outliers(points, values):
            cls: float = getattr(group[index], what)
            predicted = NormalDist().cdf(sigma - _significance(cls))
            yield group[index].name, Jump(mu, what, cls, predicted, sigma, usual)


def _outliers(
    points: NDArray[np.float64], values: NDArray[np.float64]
) -> Iterable[tuple[int, float, float]]:
    """Yield the values that jump, with by how much and what is usual.

    Those that jump further than any of their neighbours are set apart before the others are
    judged: they are neighbours too. At the end those that were set apart are judged once more,
    against those that were not.
    """
    import numpy as np

    left, changed = np.arange(len(points)), np.arange(len(points))
    distances, jumps = np.zeros(len(points)), np.zeros(len(points))
    chosen = np.zeros((len(points), _NEIGHBOURS), dtype=np.intp)
    apart: list[int] = []
    least = np.inf
    usual = 0.0
    while len(left) >= _LEAST_POINTS:
        chosen[changed] = _nearest(points, left, changed)
        distances[changed], jumps[changed] = _compare(points, values, changed, chosen[changed])
        usual = float(np.median(np.abs(distances[left]))) / _MEDIAN
        least = max(_LEAST, _UNUSUAL * usual)
        sizes = np.abs(jumps)
        over = left[sizes[left] >= least]
        worst = over[sizes[over] >= sizes[chosen[over]].max(axis=1)]
        if not worst.size:
            break
        apart += worst.tolist()
        left = np.setdiff1d(left, worst, assume_unique=True)
        # The others keep their neighbours.
        changed = left[np.isin(chosen[left], worst).any(axis=1)]
    if not apart or not left.size:
        return
    # Among good neighbours only: one that was wrong may have been the reason.
    rows = np.array(apart)
    _, again = _compare(points, values, rows, _nearest(points, left, rows))
    for index, jump in zip(apart, again.tolist(), strict=True):
        if abs(jump) >= least:
            yield index, jump, usual


def _nearest(
    points: NDArray[np.float64], among: NDArray[np.intp], rows: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return the neighbours of some of the points, the nearest first.

    Of those at the same distance that with the lower number comes first, as far as so many are
    looked at.

    Parameters
    ----------
    points
        Of shape (n, d).
    among
        Points that may be neighbours; no point is its own neighbour.
    rows
        Points whose neighbours are returned.
    """
    import numpy as np

    count = min(len(among), _LOOKED_AT)
    nearest = np.empty((len(points), count), dtype=np.intp)
    columns = np.ascontiguousarray(points[among].T)
    for cell, some in _cells(points, among, rows):
        # The nearest of a cell bound how far away the nearest of all are.
        own = np.partition(_squares(points, some, cell), count - 1, axis=1)[:, count - 1]
        reach = 1.000001 * np.sqrt(own.max())
        low, high = points[some].min(axis=0) - reach, points[some].max(axis=0) + reach
        inside = (columns >= low[:, None]) & (columns <= high[:, None])
        near = among[inside.all(axis=0)]
        order = np.argpartition(_squares(points, some, near), count - 1, axis=1)[:, :count]
        nearest[some] = near[order]
    nearest = nearest[rows]
    distance = np.sqrt(((points[nearest] - points[rows][:, None]) ** 2).sum(axis=2))
    distance[nearest == rows[:, None]] = np.inf
    order = np.lexsort((nearest, distance), axis=1)[:, :_NEIGHBOURS]
    return np.take_along_axis(nearest, order, axis=1)


def _cells(
    points: NDArray[np.float64], among: NDArray[np.intp], rows: NDArray[np.intp]
) -> Iterable[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield points that are close together, and the rows of the same place; all of both."""
    import numpy as np

    if len(among) <= _CELL:
        # Many may be at one place.
        for start in range(0, len(rows), _CELL):
            yield among, rows[start : start + _CELL]
        return
    axis = np.ptp(points[among], axis=0).argmax()
    halves = np.array_split(among[np.argsort(points[among, axis], kind="stable")], 2)
    below = points[rows, axis] < points[halves[1][0], axis]
    for half, some in zip(halves, (rows[below], rows[~below]), strict=True):
        if some.size:
            yield from _cells(points, half, some)


def _squares(
    points: NDArray[np.float64], rows: NDArray[np.intp], others: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the squared distances of some points from others, of shape (rows, others)."""
    squares: NDArray[np.float64] = sum(
        (points[others, axis] - points[rows, axis][:, None]) ** 2 for axis in range(points.shape[1])
    )
    return squares


def _compare(
    points: NDArray[np.float64],
    values: NDArray[np.float64],
    rows: NDArray[np.intp],
    chosen: NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare some of the values with their neighbours.

    A value jumps if it lies on the same side of what each of the nearest neighbours, moved to its
    place along the plane, predicts; it jumps by the smallest of these distances.

    Parameters
    ----------
    points, values
        Of shape (n, d) and (n,).
    rows
        Which of them.
    chosen
        The neighbours of each, as `_nearest` returns them.

    Returns
    -------
    tuple
        For each row its distance from the plane through its neighbours, and how far it jumps.
    """
    import numpy as np

    away = points[chosen] - points[rows][:, None]
    distance = np.sqrt((away**2).sum(axis=2))
    closeness = 1 / np.maximum(distance, _SAME_PLACE)
    near, own = values[chosen], values[rows]
    terms = np.concatenate([np.ones((*near.shape, 1)), away], axis=2)
    weights, plane = closeness, np.zeros(terms.shape[::2])
    for _ in range(_ROUNDS):
        weighted = terms * weights[:, :, None]
        # Where neighbours lie on a line there are many planes, and any will do.
        inverse = np.linalg.pinv(weighted.transpose(0, 2, 1) @ terms, rcond=1e-9, hermitian=True)
        plane = np.einsum("nij,nkj,nk->ni", inverse, weighted, near)
        # Least absolute distances: one neighbour that is wrong does not tilt the plane.
        left_over = np.abs(near - np.einsum("nkj,nj->nk", terms, plane))
        weights = closeness / np.maximum(left_over, _SMALL)
    moved = near - np.einsum("nkj,nj->nk", away, plane[:, 1:])
    against = (own[:, None] - moved)[:, :_NEAREST]
    same_side = (against > 0).all(axis=1) | (against < 0).all(axis=1)
    least = np.take_along_axis(against, np.abs(against).argmin(axis=1)[:, None], axis=1)[:, 0]
    return own - plane[:, 0], np.where(same_side, least, 0.0)
