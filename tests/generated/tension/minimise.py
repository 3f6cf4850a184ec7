"""Minimisation from many starts at once, and a second minimiser to confirm what it found.

Levenberg and Marquardt's method with first derivatives and bounds, all starts side by side;
then SciPy's L-BFGS-B from where they ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

if TYPE_CHECKING:
    from tension.likelihood import Array, Data, Likelihood

__all__ = ["Minima", "descend", "distinct", "polish"]

_ROUNDS = 300
_DONE = 1e-11
_STUCK = 1e12
# Two ends are one minimum if yields and constrained parameters differ by less, in their widths.
_SAME = 0.03


class Minima(NamedTuple):
    """Minima that differ, the lowest first.

    ``points`` (minima, parameters), ``values`` (minima,) of -2 log L, and ``hits`` (minima,),
    how many starts ended in each.
    """

    points: Array
    values: Array
    hits: Any


def descend(likelihood: Likelihood, data: Data, starts: Array, bounds: tuple[Array, Array]) -> Any:
    """Return where starts end, of shape (starts, parameters), and -2 log L there.

    Bounds are of the shape of the starts; a parameter between equal ones is held.
    """
    low, high = bounds
    points = np.clip(starts, low, high)
    value, gradient, hessian = likelihood.derivatives(points, data)
    damping = np.full(len(points), 1e-2)
    open_ = np.flatnonzero(np.isfinite(value))
    diagonal = np.arange(points.shape[1])
    for _ in range(_ROUNDS):
        if not open_.size:
            break
        x, g, h = points[open_], gradient[open_], hessian[open_]
        held = ((x <= low[open_]) & (g > 0)) | ((x >= high[open_]) & (g < 0))
        held |= low[open_] == high[open_]
        h = np.where(held[:, :, None] | held[:, None, :], 0.0, h)
        scale = h[:, diagonal, diagonal]
        damped = scale * (1 + damping[open_, None]) + 1e-9 * (1 + scale.max(axis=1, keepdims=True))
        h[:, diagonal, diagonal] = np.where(held, 1.0, damped)
        downhill = np.where(held, 0.0, -g)
        try:
            step = np.linalg.solve(h, downhill[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError:  # of one of them; more damping makes it regular
            step = downhill / np.abs(h[:, diagonal, diagonal])
        moved = np.clip(x + step, low[open_], high[open_])
        new = likelihood.derivatives(moved, data)
        gone = moved - x
        promised = (
            -(gone * g).sum(axis=1) - np.einsum("pi,pij,pj->p", gone, hessian[open_], gone) / 2
        )
        gain = (value[open_] - new[0]) / np.maximum(promised, 1e-300)
        lower = new[0] < value[open_]
        at = open_[lower]
        points[at] = moved[lower]
        value[at], gradient[at], hessian[at] = (part[lower] for part in new)
        slow = np.where(gain > 0.75, 0.2, np.where(gain > 0.25, 1.0, 3.0))
        damping[open_] = (damping[open_] * np.where(lower, slow, 6.0)).clip(1e-9)
        left = -np.where(held, 0.0, g * step).sum(axis=1) * (1 + damping[open_])
        done = (left < _DONE) | (damping[open_] > _STUCK)
        open_ = open_[~done]
    return points, value


def distinct(likelihood: Likelihood, points: Array, values: Array, weights: Any) -> Minima:
    """Return the minima among ends, the lowest of ends that are the same standing for all.

    ``weights`` says for how many starts each end counts.
    """
    order = [i for i in np.argsort(values, kind="stable") if np.isfinite(values[i])]
    expected = likelihood.expected(points).events
    with np.errstate(all="ignore"):
        features = np.concatenate([2 * np.sqrt(expected), points / likelihood.widths], axis=1)
    features = np.nan_to_num(features)
    kept: list[int] = []
    hits: list[int] = []
    for i in order:
        apart = [np.abs(features[i] - features[j]).max() for j in kept]
        if apart and min(apart) < _SAME:
            hits[int(np.argmin(apart))] += weights[i]
        else:
            kept.append(i)
            hits.append(weights[i])
    return Minima(points[kept], values[kept], np.array(hits))


def polish(
    likelihood: Likelihood, data: Data, start: Array, bounds: tuple[Array, Array]
) -> tuple[Array, float]:
    """Return a minimum and -2 log L there by SciPy's L-BFGS-B from a start."""
    free = np.flatnonzero(bounds[0] < bounds[1])
    if not free.size:
        return start, float(likelihood.value(start[None], data)[0])
    hessian = likelihood.derivatives(start[None], data)[2][0]
    unit = 1 / np.sqrt(np.maximum(hessian[free, free], 1e-6))
    base = float(likelihood.value(start[None], data)[0])

    def full(moved: Array) -> Array:
        point = start.copy()
        point[free] = np.clip(moved * unit, bounds[0][free], bounds[1][free])
        return point

    def objective(moved: Array) -> tuple[float, Array]:
        value, gradient, _ = likelihood.derivatives(full(moved)[None], data)
        return float(value[0]) - base, gradient[0, free] * unit

    minimum = minimize(
        objective,
        start[free] / unit,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(bounds[0][free] / unit, bounds[1][free] / unit, strict=True)),
        options={"ftol": 1e-14, "gtol": 1e-7, "maxiter": 500, "maxcor": 20},
    )
    if minimum.fun < 0:
        return full(minimum.x), base + float(minimum.fun)
    return start, base
