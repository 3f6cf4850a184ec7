"""Reasons to doubt a fit, which of two fits is better, and retries of those that fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.kernel import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.arrays import Bounds, Data
    from fitserve_worker.kernel.fits import Fits, Loaded

__all__ = ["SLACK", "better", "doubts", "persistent", "sound"]

SLACK = 1e-7
"""Fits may differ by this much in -log L in the wrong direction."""
# Fewer expected events count as none: parameters of zero are not quite zero in a fit.
_NONE = 1e-30


def sound(fits: Fits) -> BoolArray:
    """Tell which fits ended at a minimum, of shape (fits,)."""
    return fits.converged & fits.positive


def better(first: Fits, second: Fits) -> Fits:
    """Return the sound one of each two fits, or the lower one if both or neither are sound."""
    lower = (second.value < first.value - SLACK) | ~np.isfinite(first.value)
    takes = np.where(sound(first) == sound(second), lower, sound(second))
    return first.replaced(np.flatnonzero(takes), second.take(takes))


def persistent(
    loaded: Loaded,
    hypothesis: IntArray,
    starts: Sequence[FloatArray],
    data: Data,
    bounds: Bounds,
    *,
    exact: bool = False,
) -> Fits:
    """Fit from the first start, and from the others where it does not converge.

    A kink at zero may have a minimum on either side of it: each is tried.

    Parameters
    ----------
    loaded
        The hypotheses.
    hypothesis
        Index of the hypothesis of each fit, of shape (fits,).
    starts
        Where to start, each of shape (fits, columns).
    data, bounds
        The data and the bounds of each fit.
    exact
        Whether the parameters, not only the minimum, enter results.
    """

    def refit(fits: Fits, which: IntArray, start: FloatArray) -> Fits:
        second = loaded.fit_between(
            hypothesis[which], start[which], data.take(which), bounds.take(which), exact=exact
        )
        return fits.replaced(which, better(fits.take(which), second))

    fits = loaded.fit_between(hypothesis, starts[0], data, bounds, exact=exact)
    for start in starts[1:]:
        again = np.flatnonzero(~sound(fits))
        if not again.size:
            break
        fits = refit(fits, again, start)
    if loaded.kinked is not None:
        fits = refit(fits, np.arange(len(hypothesis)), np.where(loaded.kinked, -fits.x, fits.x))
    return fits


def doubts(loaded: Loaded, fits: Fits, at: int, events: FloatArray | None = None) -> list[str]:
    """Return the reasons to doubt a fit, each the end of a sentence that begins "the fit".

    Parameters
    ----------
    loaded
        The hypotheses.
    fits
        Fits; one for each of them, unless ``events`` are given.
    at
        Index of the fit to judge.
    events
        The fitted events, of shape (bins,); by default the observed ones.
    """
    reasons = []
    if not fits.converged[at]:
        reasons.append("did not converge")
    if not fits.positive[at]:
        reasons.append("ended where the Hessian is not positive definite")
    made_to = loaded.observed.events[at] if events is None else events
    yields, data = fits.yields[at, loaded.slots], made_to[loaded.slots]
    if (yields < 0).any():
        reasons.append("expects negative events in a bin")
    if ((np.abs(yields) < _NONE) & (data > 0)).any():
        reasons.append("expects nothing in a bin with events")
    beyond = loaded.discontinuous
    if beyond is not None and (np.abs(fits.x[at, beyond]) >= 1).any():
        reasons.append("ended beyond a jump of pyhf's code 2, at +-1")
    return reasons
