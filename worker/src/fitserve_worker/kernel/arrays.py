"""The arrays that fits work on: where samples lie in them, data, and bounds.

A channel is cut into blocks of ``width`` bins. Every block has one row for each of its samples.
Modifiers of a whole sample (normsys, normfactor, lumi) are computed once in a row, those that act
bin by bin (histosys) for each of the row's bins. Rows are ordered by (sample slot, block), so that
the sum over samples is a sum over the leading axis.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fitserve_worker.kernel import BoolArray, DeviceArray, FloatArray, IntArray
    from fitserve_worker.kernel.spec import Sample

__all__ = [
    "Bounds",
    "Data",
    "Layout",
    "LocalUse",
    "SampleArrays",
    "SampleTable",
    "Shape",
    "bytes_per_fit",
    "bytes_per_hypothesis",
    "choose_width",
]

LocalUse = Literal["none", "some", "all"]
"""On how many of the samples local parameters act."""
# Inverse of the matrix of value, first and second derivative of sum_i a_i x^i at +1 and -1,
# as in pyhf.interpolators.code4 with alpha_0 = 1.
_CODE4 = np.array(
    [
        [15 / 16, -15 / 16, -7 / 16, -7 / 16, 1 / 16, -1 / 16],
        [3 / 2, 3 / 2, -9 / 16, 9 / 16, 1 / 16, 1 / 16],
        [-5 / 8, 5 / 8, 5 / 8, 5 / 8, -1 / 8, 1 / 8],
        [-3 / 2, -3 / 2, 7 / 8, -7 / 8, -1 / 8, -1 / 8],
        [3 / 16, -3 / 16, -3 / 16, -3 / 16, 1 / 16, -1 / 16],
        [1 / 2, 1 / 2, -5 / 16, 5 / 16, 1 / 16, 1 / 16],
    ]
)
_WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class Shape(NamedTuple):
    """What one compiled program is made for; hashable.

    ``slots`` and ``added_slots`` are samples per block, of the background and of a
    hypothesis. ``alphas``, ``histosys``, ``normsys`` and ``linear`` are numbers of columns
    (see `fitserve_worker.kernel.columns.Columns`), ``poisson`` says that a column has a
    Poisson constraint.
    """

    slots: int
    added_slots: int
    blocks: int
    width: int
    alphas: int
    histosys: int
    normsys: int
    linear: int
    normsys_code: str
    histosys_code: str
    local: LocalUse
    poisson: bool

    @property
    def columns(self) -> int:
        """Parameters of a fit."""
        return self.alphas + self.linear

    @property
    def bins(self) -> int:
        """Bin positions, including those that pad a block."""
        return self.blocks * self.width

    @property
    def kinked(self) -> BoolArray | None:
        """Columns in which a yield may have a kink at zero (codes 0 and 1), if there are any."""
        column = np.arange(self.columns)
        histosys = (self.histosys_code == "code0") & (column < self.histosys)
        first = self.alphas - self.normsys
        normsys = (self.normsys_code == "code1") & (column >= first) & (column < self.alphas)
        kinked: BoolArray = histosys | normsys
        return kinked if kinked.any() else None


class SampleArrays(NamedTuple):
    """Samples in rows; a batch has one more leading axis.

    ======================  ==================  ===============================================
    ``nominal``             (rows, width)       yields
    ``up``, ``down``        (rows, width, H)    histosys: hi - nominal and nominal - lo
    ``poly``                (6, rows, N)        normsys: coefficients of code 4 within +-1;
                                                (0, rows, N) for code 1
    ``log_hi``, ``log_lo``  (rows, N)           normsys: logarithms of hi and lo
    ``linear``              (rows, L)           whether a linear column multiplies the row
    ``local``               (rows,)             1 where the bin's local parameter does, else 0
    ======================  ==================  ===============================================
    """

    nominal: DeviceArray
    up: DeviceArray
    down: DeviceArray
    poly: DeviceArray
    log_hi: DeviceArray
    log_lo: DeviceArray
    linear: DeviceArray
    local: DeviceArray


class Data(NamedTuple):
    """The data of fits, with the fit as first axis.

    ``events`` (fits, bins), and the auxiliary data of the constraints: ``mean`` and ``counted``
    of the columns (fits, columns) and of the local parameters (fits, bins).
    """

    events: FloatArray
    mean: FloatArray
    counted: FloatArray
    local_mean: FloatArray
    local_counted: FloatArray

    def take(self, which: IntArray | BoolArray) -> Data:
        """Return the data of some of the fits."""
        return Data._make(array[which] for array in self)


class Bounds(NamedTuple):
    """The bounds of fits, with the fit as first axis; a parameter is held by equal bounds.

    ``lower`` and ``upper`` (fits, columns), and those of local parameters (fits, bins).
    """

    lower: DeviceArray
    upper: DeviceArray
    local_lower: DeviceArray
    local_upper: DeviceArray

    def take(self, which: IntArray | BoolArray) -> Bounds:
        """Return the bounds of some of the fits."""
        return Bounds._make(array[which] for array in self)


class SampleTable:
    """Collects samples of a batch, then makes their arrays.

    Parameters
    ----------
    layout
        Where channels lie.
    shape
        Numbers of columns and the interpolation codes.
    slots
        Samples per block.
    batch
        Number of hypotheses.
    """

    def __init__(self, layout: Layout, shape: Shape, *, slots: int, batch: int) -> None:
        self._layout = layout
        self._shape = shape
        rows = slots * layout.blocks
        self._nominal = np.zeros((batch, rows, layout.width))
        self._up = np.zeros((batch, rows, layout.width, shape.histosys))
        self._down = np.zeros_like(self._up)
        self._lo = np.ones((batch, rows, shape.normsys))
        self._hi = np.ones_like(self._lo)
        self._linear = np.zeros((batch, rows, shape.linear), dtype=bool)
        self._local = np.zeros((batch, rows))

    def add(
        self,
        hypothesis: int,
        slot: int,
        sample: Sample,
        columns: Mapping[str, int],
        linear: Mapping[str, int],
        *,
        local: bool,
    ) -> None:
        """Enter a sample.

        Parameters
        ----------
        hypothesis, slot
            Position in the batch, and among the samples of the channel.
        sample
            The sample.
        columns
            Column of each interpolation parameter that has one.
        linear
            For each of the sample's parameters that multiply it in a column of their own:
            the column, or that of the parameter of the channel's first bin.
        local
            Whether the channel's local parameters act on it.
        """
        layout, shape = self._layout, self._shape
        blocks = layout.block_range(sample.channel)
        first = slot * layout.blocks
        rows = slice(first + blocks.start, first + blocks.stop)
        self._nominal[hypothesis, rows] = layout.fold(sample.nominal)
        self._local[hypothesis, rows] = local

        names, factors = sample.normsys
        into = _lookup(columns, names) - (shape.alphas - shape.normsys)
        which = np.flatnonzero(into >= 0)
        if which.size:
            factors, into = factors[which], into[which]
            self._lo[hypothesis, rows, into] = factors[:, 0, None]
            self._hi[hypothesis, rows, into] = factors[:, 1, None]

        names, shapes = sample.histosys
        into = _lookup(columns, names)
        which = np.flatnonzero((into >= 0) & (into < shape.histosys))
        if which.size:
            shapes, into = layout.fold(shapes[which]), into[which]
            nominal = layout.fold(sample.nominal)
            self._up[hypothesis, rows][:, :, into] = (shapes[:, 1] - nominal).transpose(1, 2, 0)
            self._down[hypothesis, rows][:, :, into] = (nominal - shapes[:, 0]).transpose(1, 2, 0)

        for name, kind, _ in sample.factors:
            column = linear.get(name)
            if column is None:
                continue
            column -= shape.alphas
            if kind.per_bin:
                # Only blocks of one bin have such columns.
                bins = np.arange(rows.stop - rows.start)
                self._linear[hypothesis, rows.start + bins, column + bins] = True
            else:
                self._linear[hypothesis, rows, column] = True

    def arrays(self) -> SampleArrays:
        """Return the arrays of the batch."""
        log_hi, log_lo = np.log(self._hi), np.log(self._lo)
        if self._shape.normsys_code == "code4":
            ends = np.stack(
                [
                    self._hi - 1.0,
                    self._lo - 1.0,
                    log_hi * self._hi,
                    -log_lo * self._lo,
                    log_hi**2 * self._hi,
                    log_lo**2 * self._lo,
                ],
                axis=1,
            )
            poly = (_CODE4 @ ends.reshape(len(ends), 6, -1)).reshape(ends.shape)
        else:
            poly = np.zeros((log_hi.shape[0], 0, *log_hi.shape[1:]))
        return SampleArrays(
            nominal=self._nominal,
            up=self._up,
            down=self._down,
            poly=poly,
            log_hi=log_hi,
            log_lo=log_lo,
            linear=self._linear,
            local=self._local,
        )


def _lookup(columns: Mapping[str, int], names: tuple[str, ...]) -> IntArray:
    """Return the columns of parameters, and -1 of those without one."""
    return np.fromiter(map(columns.get, names, itertools.repeat(-1)), np.int64, len(names))


class Layout:
    """Blocks of bins.

    Parameters
    ----------
    channels
        (name, number of bins) in the order of the model's bins.
    width
        Bins in a block.
    room
        The least number of blocks; those that no channel needs stay empty.

    Attributes
    ----------
    blocks, bins
        Number of blocks, and of bins of the model.
    slots
        The position of every bin in the flattened (blocks, width), of shape (bins,).

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

    def spread(self, values: FloatArray) -> FloatArray:
        """Return values of all bins, (..., bins), as (..., blocks * width)."""
        spread = np.zeros((*values.shape[:-1], self.blocks * self.width))
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


def bytes_per_hypothesis(shape: Shape) -> int:
    """Return the size of one hypothesis' own `SampleArrays`."""
    rows = shape.added_slots * shape.blocks
    numbers = rows * (shape.width * (1 + 2 * shape.histosys) + 8 * shape.normsys)
    return 8 * math.ceil(numbers + rows * (1 + shape.linear / 8))


def bytes_per_fit(shape: Shape) -> int:
    """Return about how much memory a fit takes.

    That is for matrices of columns, the Jacobian of the bins, the factors of the Hessian, and the
    interpolated variations of all rows.
    """
    rows = (shape.slots + shape.added_slots) * shape.blocks
    matrices = shape.columns * (4 * shape.columns + 6 * shape.bins)
    return 8 * (matrices + rows * (2 * shape.width * shape.histosys + 4 * shape.normsys))
