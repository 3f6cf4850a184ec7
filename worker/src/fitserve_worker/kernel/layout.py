"""Where channels and bins lie in the kernel's arrays.

A channel is cut into blocks of ``width`` bins. Every block has one row for each of its
samples: what acts on a whole sample (normsys, normfactor, lumi) is computed once in a row,
what acts bin by bin (histosys) for each of the row's bins. Rows are ordered by (sample slot,
block), so that the sum over samples is a sum over the leading axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve_worker.kernel.arraytypes import FloatArray, IntArray

__all__ = ["Layout", "choose_width"]

_WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class Layout:
    """Blocks of bins.

    Parameters
    ----------
    channels
        (name, number of bins) in the order of the model's bins.
    width
        Bins in a block.
    room
        Blocks there are at least; those that no channel needs stay empty.

    Attributes
    ----------
    blocks, bins
        Number of blocks, and of bins of the model.
    slots
        For every bin its position in the flattened (blocks, width), of shape (bins,).

    Examples
    --------
    >>> layout = Layout((("CR", 1), ("SR", 3)), width=2)
    >>> layout.blocks, layout.slots.tolist()
    (3, [0, 2, 3, 4])
    """

    def __init__(self, channels: tuple[tuple[str, int], ...], width: int, room: int = 0) -> None:
        self.channels = channels
        self.width = width
        self._blocks: dict[str, slice] = {}
        self._bins: dict[str, slice] = {}
        blocks = bins = 0
        slots: list[IntArray] = []
        for name, count in channels:
            needed = -(-count // width)
            self._blocks[name] = slice(blocks, blocks + needed)
            self._bins[name] = slice(bins, bins + count)
            slots.append(blocks * width + np.arange(count))
            blocks += needed
            bins += count
        self.blocks = max(blocks, room)
        self.bins = bins
        self.slots = np.concatenate(slots)

    def block_range(self, channel: str) -> slice:
        """Return the blocks of a channel."""
        return self._blocks[channel]

    def bin_range(self, channel: str) -> slice:
        """Return the bins of a channel."""
        return self._bins[channel]

    def fold(self, values: FloatArray) -> FloatArray:
        """Return values of one channel's bins, (..., bins), as (..., blocks, width)."""
        count = values.shape[-1]
        needed = -(-count // self.width)
        padded = np.zeros((*values.shape[:-1], needed * self.width))
        padded[..., :count] = values
        return padded.reshape(*values.shape[:-1], needed, self.width)

    def spread(self, values: FloatArray, fill: float = 0.0) -> FloatArray:
        """Return values of all bins, (..., bins), as (..., blocks * width)."""
        spread = np.full((*values.shape[:-1], self.blocks * self.width), fill)
        spread[..., self.slots] = values
        return spread


def choose_width(counts: Iterable[int], parameters: int, histosys: int) -> int:
    """Return the block width for which an evaluation costs the least.

    Parameters
    ----------
    counts
        Numbers of bins of the channels.
    parameters, histosys
        Parameters in the Hessian, and those of them with histosys modifiers.

    Notes
    -----
    A row costs its normsys factors and its share of the Hessian's matrix product, a bin in
    a row its histosys terms; a wide block wastes bins, a narrow one repeats rows.

    Examples
    --------
    >>> choose_width([1, 1, 1, 1, 1, 3, 3, 3], parameters=100, histosys=90)
    3
    >>> choose_width([1, 1, 30], parameters=5, histosys=500)
    1
    """
    counts = list(counts)

    def cost(width: int) -> float:
        blocks = sum(-(-count // width) for count in counts)
        return blocks * (2 * parameters**2 + 60 * parameters + width * (40 + 12 * histosys))

    candidates = [width for width in _WIDTHS if width <= max(*counts, 1)]
    return min(candidates, key=cost)
