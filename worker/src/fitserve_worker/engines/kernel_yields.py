"""Expected events by channel, bin and sample from the fit kernel, before and after a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitserve_worker.engines.solution import Channel, yields_by_channel
from fitserve_worker.kernel.covariance import Covariance
from fitserve_worker.kernel.patches import sample_names

if TYPE_CHECKING:
    from fitserve.contract import ChannelYields
    from fitserve_worker.engines.kernel_solution import Fitted
    from fitserve_worker.engines.solution import Solution
    from fitserve_worker.kernel import FloatArray

__all__ = ["channel_yields"]


def channel_yields(fitted: Fitted, found: Solution) -> list[ChannelYields]:
    """Return the yields of all channels, in the model's order.

    Uncertainties are linear, as those of `fitserve_worker.engines.yields.channel_yields`:
    V = J C J^T with C the covariance of the parameters and J the derivatives of the yields,
    taken over plus and minus one standard deviation of each parameter. In a local parameter
    yields are straight lines.
    """
    piece = fitted.piece
    known = fitted.best.covariance
    if known is None:
        raise ValueError("yields after a fit need its covariance")
    column, at = (place[place >= 0] for place in fitted.places)
    in_column, in_bin = fitted.where
    prefit = Covariance(*(np.zeros_like(part) for part in known))
    prefit.columns[column, column] = found.widths[in_column] ** 2
    prefit.local[at, at] = found.widths[in_bin] ** 2
    member = piece.members[fitted.at]
    slots = piece.batch.sample_slots(member)
    order = sample_names(piece.work.workspace, _patch(fitted))
    layout = piece.batch.layout
    return yields_by_channel(
        [
            Channel(name, layout.bin_range(name), [(one, slots[name, one]) for one in order[name]])
            for name, _ in layout.channels
        ],
        piece.loaded.observed.events[fitted.at, piece.loaded.slots],
        _propagated(fitted, found, found.centres, prefit),
        _propagated(fitted, found, found.values, known),
    )


def _patch(fitted: Fitted) -> list[dict[str, object]]:
    name = fitted.piece.batch.members[fitted.piece.members[fitted.at]].name
    return next(one.patch for one in fitted.piece.work.hypotheses if one.name == name)


def _propagated(
    fitted: Fitted, found: Solution, values: FloatArray, covariance: Covariance
) -> tuple[FloatArray, FloatArray]:
    """Return yields and uncertainties, both (slots + 1, model bins); the last row is the sum."""
    shape = fitted.piece.batch.shape
    x, local = fitted.parameters.split(values, shape.columns, shape.bins)
    low, high = (
        fitted.parameters.split(ends, shape.columns, shape.bins)[0] for ends in found.bounds.T
    )
    sigma = np.sqrt(np.maximum(np.diag(covariance.columns), 0.0))
    ends = np.stack([np.clip(x + sigma, low, high), np.clip(x - sigma, low, high)])
    ends[:, sigma == 0] = x[sigma == 0]
    of = fitted.piece.loaded.sample_yields(fitted.at, x, local, ends)
    variance = np.maximum(np.diag(covariance.local), 0.0)

    def uncertainty(by_column: FloatArray, by_local: FloatArray) -> FloatArray:
        of_columns = np.sum((covariance.columns @ by_column) * by_column, axis=0)
        between = 2 * by_local * np.sum(covariance.mixed * by_column, axis=0)
        total: FloatArray = of_columns + between + by_local**2 * variance
        return np.sqrt(np.maximum(total, 0.0))

    sigmas = [uncertainty(of.by_column[:, row], of.by_local[row]) for row in range(len(of.yields))]
    sigmas.append(uncertainty(of.by_column.sum(axis=1), of.by_local.sum(axis=0)))
    return np.vstack([of.yields, of.yields.sum(axis=0)]), np.stack(sigmas)
