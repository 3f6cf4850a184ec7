"""Pseudo-data ("toys") that depend on nothing but their number.

Toy number t of a hypothesis has the uniform random numbers t D ... (t + 1) D - 1 of one stream
of the counter-based generator Philox (Salmon et al., SC11). D is the number of bins and
auxiliary measurements of the model, rounded up to a multiple of four, since one count of the
counter gives four numbers. The key of the stream is a digest of the seed, the hypothesis, and
whether the toys have signal. So any worker can make any toy without the others, and all workers
make the same ones. Each bin and each auxiliary measurement has its own random number, which the
inverse of its distribution function turns into a count or a value. Slightly different parameters,
fitted by another engine, therefore give slightly different toys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_contract import digest, patch_content

if TYPE_CHECKING:
    from typing import Literal

    from numpy.typing import NDArray

    from fitserve_contract import Hypothesis, ModelOptions, ToyRange

    FloatArray = NDArray[np.float64]

__all__ = ["Law", "Sampler", "poisson_quantiles", "stream_key"]

# Uniform numbers are multiples of 2^-53; zero would give a normal variable of minus infinity.
_LEAST = 2.0**-54
_PER_COUNT = 4
# Above this mean a Poisson variable is a rounded normal one: its skewness is 1e-4.
_NORMAL_ABOVE = 1e8
# The table of a Poisson distribution reaches this many standard deviations and this many counts
# further to each side; less than 2^-53 is beyond.
_REACH = 10.0, 40.0


class Law(NamedTuple):
    """What toys are drawn from: a model at one point of its parameters, in pyhf's order.

    ``rates`` (bins,) are the expected events. ``centres`` (auxiliary,) are the means of the
    auxiliary data, ``widths`` (auxiliary,) the standard deviations of normal ones, and zero for
    counts.
    """

    rates: FloatArray
    centres: FloatArray
    widths: FloatArray


def stream_key(
    seed: int,
    workspace_digest: str,
    hypothesis: Hypothesis,
    options: ModelOptions,
    what: Literal["signal", "background"],
) -> int:
    """Return the 128-bit key of the stream of random numbers of a hypothesis' toys.

    Neither the name of the hypothesis nor the engine enters.
    """
    text = digest(["toys", seed, workspace_digest, patch_content(hypothesis.patch), options, what])
    return int(text[:32], 16)


class Sampler:
    """Draws the toys of a law.

    Parameters
    ----------
    law
        What they are drawn from.
    key
        Key of the stream of random numbers, see `stream_key`.

    Examples
    --------
    >>> import numpy as np
    >>> from fitserve_contract import ToyRange
    >>> law = Law(np.array([3.0, 50.0]), np.array([1.0]), np.array([0.1]))
    >>> sampler = Sampler(law, key=7)
    >>> events, auxiliary = sampler.draw(ToyRange(first=0, count=4))
    >>> events.shape, auxiliary.shape
    ((4, 2), (4, 1))
    >>> bool((sampler.draw(ToyRange(first=3, count=1))[0] == events[3]).all())
    True
    """

    def __init__(self, law: Law, key: int) -> None:
        self._law = law
        self._key = key
        self._size = len(law.rates) + len(law.centres)
        self._counts = np.flatnonzero(law.widths == 0)
        rates = np.concatenate([law.rates, law.centres[self._counts]])
        self._tables = [_Table(float(rate)) for rate in rates]

    def draw(self, toys: ToyRange) -> tuple[FloatArray, FloatArray]:
        """Return events (toys, bins) and auxiliary data (toys, auxiliary)."""
        from scipy.special import ndtri

        bins = len(self._law.rates)
        uniform = self._uniform(toys)
        auxiliary = self._law.centres + self._law.widths * ndtri(uniform[:, bins:])
        columns = np.concatenate([np.arange(bins), bins + self._counts])
        drawn = [
            table.quantiles(uniform[:, column])
            for table, column in zip(self._tables, columns, strict=True)
        ]
        events = np.stack(drawn[:bins], axis=1)
        for index, values in zip(self._counts, drawn[bins:], strict=True):
            auxiliary[:, index] = values
        return events, auxiliary

    def _uniform(self, toys: ToyRange) -> FloatArray:
        """Return the random numbers of toys, between zero and one, (toys, size)."""
        counts = -(-self._size // _PER_COUNT)
        generator = np.random.Generator(
            np.random.Philox(key=self._key, counter=toys.first * counts)
        )
        uniform = generator.random((toys.count, counts * _PER_COUNT))[:, : self._size]
        return np.maximum(uniform, _LEAST)


def poisson_quantiles(mean: float, uniform: FloatArray) -> FloatArray:
    """Return the least counts whose distribution functions are above the given numbers.

    Parameters
    ----------
    mean
        Mean of the Poisson distribution; zero or less gives no events.
    uniform
        Numbers between zero and one, of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> poisson_quantiles(0.7, np.array([0.0, 0.49, 0.5, 0.9])).tolist()
    [0.0, 0.0, 1.0, 2.0]
    """
    return _Table(mean).quantiles(uniform)


class _Table:
    """The distribution function of a Poisson variable where it is neither zero nor one."""

    def __init__(self, mean: float) -> None:
        from scipy.special import pdtr

        self._mean = mean
        if 0 < mean <= _NORMAL_ABOVE:
            reach = _REACH[0] * np.sqrt(mean) + _REACH[1]
            self._low = max(0.0, np.floor(mean - reach))
            self._function = pdtr(np.arange(self._low, np.ceil(mean + reach)), mean)

    def quantiles(self, uniform: FloatArray) -> FloatArray:
        from scipy.special import ndtri

        if self._mean <= 0:
            return np.zeros(uniform.shape)
        if self._mean > _NORMAL_ABOVE:
            near: FloatArray = np.round(self._mean + np.sqrt(self._mean) * ndtri(uniform))
            return near
        counts: FloatArray = self._low + np.searchsorted(self._function, uniform, side="right")
        return counts
