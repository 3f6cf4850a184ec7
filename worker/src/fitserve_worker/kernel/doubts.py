"""Reasons to doubt a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fitserve_worker.kernel.arraytypes import FloatArray
    from fitserve_worker.kernel.fits import Fits, Loaded

__all__ = ["doubts"]

# Expected events that stand for none at all: parameters of zero are not quite zero in a fit.
_NONE = 1e-30


def doubts(loaded: Loaded, fits: Fits, at: int, events: FloatArray | None = None) -> list[str]:
    """Return what speaks against a fit, in words that go on from "the fit".

    Parameters
    ----------
    loaded
        The hypotheses.
    fits
        Fits; one for each of them, unless ``events`` are given.
    at
        Which one to judge.
    events
        What it was made to, of shape (bins,); by default the observed events.
    """
    found = []
    if not fits.converged[at]:
        found.append("did not converge")
    if not fits.positive[at]:
        found.append("ended where the Hessian is not positive definite")
    made_to = loaded.observed.events[at] if events is None else events
    yields, data = fits.yields[at, loaded.slots], made_to[loaded.slots]
    if (yields < 0).any():
        found.append("expects less than no events in a bin")
    if ((np.abs(yields) < _NONE) & (data > 0)).any():
        found.append("expects nothing in a bin with events")
    beyond = loaded.discontinuous
    if beyond is not None and (np.abs(fits.x[at, beyond]) >= 1).any():
        found.append("ended beyond a jump of pyhf's code 2, at +-1")
    return found
