"""Pseudo-experiments ("toys"): which of them a task makes, and what comes of them.

A task answers the values of the test statistic of its toys, as 32-bit floats in the order of
the toys: 4 bytes for each toy of a hypothesis, 80 kB for 10,000 toys of both hypotheses and
8 MB for a million. Counts of toys beyond the observed value would be smaller, but they give no
expected CLs: pyhf's is a percentile over the background-only toys of CLs at the value of each,
for which both distributions are needed as they are. A histogram would give it within its bins,
and then only where all tasks agreed on the bins beforehand. A 32-bit float is good to 6e-8 of
the value, far below the accuracy of a fit.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["AsymptoticCLs", "Band", "ToyDistribution", "ToyRange", "ToyValues", "ToysAnswer"]


Band = Annotated[list[float | None], msgspec.Meta(min_length=5, max_length=5)]
"""Values for background fluctuations of -2, -1, 0, +1, +2 sigma."""


class ToyRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Toys ``first`` to ``first`` + ``count`` - 1 of those that a request asks for.

    Examples
    --------
    >>> from fitserve.contract import ToyRange
    >>> ToyRange(first=500, count=250).stop
    750
    """

    first: Annotated[int, msgspec.Meta(ge=0)]
    count: Annotated[int, msgspec.Meta(ge=1)]

    @property
    def stop(self) -> int:
        """The number after that of the last toy."""
        return self.first + self.count


class AsymptoticCLs(msgspec.Struct, frozen=True, kw_only=True):
    """CLs by the asymptotic formulae (arXiv:1007.1727), expected ones for -2 to +2 sigma."""

    CLs_obs: float | None
    CLs_exp: Band


class ToyValues(msgspec.Struct, frozen=True, kw_only=True):
    """The test statistic of some toys, as a worker answers it.

    ``signal`` and ``background`` are little-endian 32-bit floats, one for each toy of
    ``toys`` made with the tested signal strength and without signal; NaN where a fit failed.
    ``observed`` is the test statistic of the observed data. ``positive`` toys were fitted with
    expected events kept above zero, where the likelihood has no minimum otherwise. ``fits``
    counts the fits of toys.
    """

    toys: ToyRange
    observed: float
    asymptotic: AsymptoticCLs
    signal: bytes
    background: bytes
    positive: int
    fits: int


class ToyDistribution(msgspec.Struct, frozen=True, kw_only=True):
    """How the test statistic of toys is distributed.

    ``counts`` has a number for each interval between the ``edges`` of `ToysAnswer`, with the
    lower edge in it and not the upper one. ``zero`` toys have a test statistic of exactly
    zero, and are not in ``counts``; ``beyond`` are above the last edge; ``failed`` have no
    test statistic.
    """

    zero: int
    counts: list[int]
    beyond: int
    failed: int


class ToysAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """CLs by toys at signal strength ``mu``; CLs itself is in the fields of the hypothesis.

    ``done`` toys with and as many without signal, of the ``asked`` ones, are in it. ``failed``
    of all these have no test statistic, ``positive`` were fitted with expected events kept above
    zero, and ``fits`` is the number of fits. CLs+b and CLb are the fractions of toys with a test
    statistic of at least the ``observed`` one. Expected values are for background
    fluctuations of -2, -1, 0, +1, +2 sigma: percentiles over the background-only toys of the
    p-value at each, as pyhf has them. What ends with ``_error`` is the statistical standard
    deviation. ``asymptotic`` is for comparison.
    """

    mu: float
    asked: int
    done: int
    failed: int
    positive: int
    fits: int
    observed: float
    CLsb_obs: float | None
    CLsb_obs_error: float | None
    CLb_obs: float | None
    CLb_obs_error: float | None
    CLs_obs_error: float | None
    CLsb_exp: Band
    CLb_exp: Band
    CLs_exp_error: Band
    asymptotic: AsymptoticCLs
    edges: list[float]
    signal: ToyDistribution
    background: ToyDistribution
