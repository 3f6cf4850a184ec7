"""Fits that are tried again from other starts where they fail, and which of two to believe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.kernel.arraytypes import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.fits import Bounds, Data, Fits, Loaded

__all__ = ["SLACK", "better", "persistent", "sound"]

SLACK = 1e-7
"""Fits may differ by this much in -log L in the wrong direction."""


def sound(fits: Fits) -> BoolArray:
    """Tell which fits ended at a minimum, of shape (fits,)."""
    return fits.converged & fits.positive


def better(first: Fits, second: Fits) -> Fits:
    """Return of each two fits the sound one, or the lower one if both are or neither is."""
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
    """Fit from the first start, and from the others where that does not converge.

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
        What each fit is made to, and between what.
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
