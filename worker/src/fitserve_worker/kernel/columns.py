"""Which parameters a batch of hypotheses has, and which column of the fit each one gets.

The parameters of a fit are its columns: first those of histosys and normsys modifiers
(arranged so that those with histosys terms are contiguous, and those with normsys factors
too), then those that multiply yields. Two sorts need no column. A *local* parameter is the
only one of its set that acts on its bin, like a staterror's, and is minimised over in closed form
(`fitserve_worker.kernel.likelihood.minimum`). An *idle* one, a systematic without effect, stays at
the centre of its constraint.

Parameters that only the samples of a patch have get spare columns, which each hypothesis uses
for its own, so that patches whose parameters have different names share one program.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fitserve_worker.kernel.spec import Kind, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fitserve_worker.kernel.spec import Sample

__all__ = [
    "Columns",
    "Own",
    "Usage",
    "assign_columns",
    "is_local",
    "own_parameters",
    "pick_local",
    "power_of_two",
    "shared_shapefactors",
    "usage_of",
]

# Columns come in multiples of these, so that tasks of one analysis share a program even if their
# patches have different parameters.
_ALPHA_STEP = 8
_LINEAR_STEP = 2
_SMALL_LINEAR = 4


@dataclass
class Usage:
    """Where the parameters of some samples act.

    ``alphas`` are interpolation parameters, of which ``histosys`` and ``normsys`` change a
    yield; ``factors`` gives the kind of every other parameter, and ``channels`` counts the
    samples of each channel that a parameter set with one parameter per bin acts on.
    """

    alphas: set[str] = field(default_factory=set)
    histosys: set[str] = field(default_factory=set)
    normsys: set[str] = field(default_factory=set)
    factors: dict[str, Kind] = field(default_factory=dict)
    channels: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """All parameters."""
        return self.alphas | self.factors.keys()

    def kind(self, name: str) -> Kind:
        """Return the kind of a parameter."""
        return self.factors.get(name, Kind.ALPHA)

    def size(self, name: str, bins: Mapping[str, int]) -> int:
        """Return the number of parameters in a set.

        A shapefactor has as many as its first channel has bins, whichever channels share it.

        Raises
        ------
        UnsupportedModelError
            A shapefactor is shared with a channel of more bins than its first one.
        """
        kind = self.kind(name)
        if not kind.per_bin:
            return 1
        counts = [bins[channel] for channel in sorted(self.channels[name])]
        if kind is not Kind.SHAPEFACTOR:
            return sum(counts)
        if max(counts) > counts[0]:
            raise UnsupportedModelError(
                f"shapefactor {name!r} is shared with a channel of more bins than its first"
            )
        return counts[0]

    def offset(self, name: str, channel: str, bins: Mapping[str, int]) -> int:
        """Return the index in its set of the parameter of a channel's first bin."""
        if self.kind(name) is not Kind.STATERROR:
            return 0
        return sum(bins[before] for before in self.channels[name] if before < channel)

    def check(self, other: Usage) -> None:
        """Check that no name is used for two kinds of parameters, here and in ``other``.

        Raises
        ------
        UnsupportedModelError
            One is.
        """
        for name, kind in self.factors.items():
            if name in other.alphas or other.factors.get(name, kind) is not kind:
                raise UnsupportedModelError(f"{name!r} names parameters of two kinds")


def usage_of(samples: Iterable[Sample], onto: Usage | None = None) -> Usage:
    """Find the parameters of samples.

    Parameters
    ----------
    samples
        The samples.
    onto
        Parameters of other samples of the same model. They are only checked against the new ones,
        and are not part of the result.

    Raises
    ------
    UnsupportedModelError
        A name is used for two kinds of parameters, or a shapesys more than once.
    """
    usage = Usage()
    taken = onto or Usage()
    for sample in samples:
        for (names, data), neutral, moved in (
            (sample.normsys, 1.0, usage.normsys),
            (sample.histosys, sample.nominal, usage.histosys),
        ):
            usage.alphas.update(names)
            acts = (data != neutral).reshape(len(names), -1 if names else 0).any(axis=1)
            moved.update(itertools.compress(names, acts.tolist()))
        for name, kind, _ in sample.factors:
            again = name in usage.channels or name in taken.channels
            if kind is Kind.SHAPESYS and again:
                raise UnsupportedModelError(f"shapesys {name!r} is used more than once")
            if usage.factors.setdefault(name, kind) is not kind:
                raise UnsupportedModelError(f"{name!r} names parameters of two kinds")
            if kind.per_bin:
                usage.channels.setdefault(name, Counter())[sample.channel] += 1
    usage.check(usage)
    usage.check(taken)
    taken.check(usage)
    return usage


class Columns(NamedTuple):
    """The columns of a batch.

    The first ``histosys`` of the ``alphas`` columns may have histosys terms, the last
    ``normsys`` of them normsys factors. ``of`` gives the column of a parameter of the
    background by (name, index); ``spare_alphas`` and ``spare_linear`` are those that each
    hypothesis uses for its own.
    """

    alphas: int
    histosys: int
    normsys: int
    linear: int
    of: dict[tuple[str, int], int]
    spare_alphas: range
    spare_linear: range

    @property
    def total(self) -> int:
        """Number of columns."""
        return self.alphas + self.linear


class Own(NamedTuple):
    """Parameters that only the added samples of a hypothesis have.

    ``local`` gives the name of the local parameters of channels whose background has none.
    """

    alphas: list[str]
    linear: list[tuple[str, int]]
    local: dict[str, str]


def pick_local(usage: Usage, excluded: set[str], occupied: Iterable[str] = ()) -> dict[str, str]:
    """Choose for every channel the name of the parameters to minimise over in closed form.

    Of several candidates in a channel the one on the most samples is chosen. A set that is
    not chosen in all of its channels is not local at all.

    Parameters
    ----------
    usage
        The parameters to choose from.
    excluded
        Names that must not be chosen.
    occupied
        Channels that need no choice.
    """
    candidates: dict[str, list[tuple[int, bool, str]]] = defaultdict(list)
    for name, where in usage.channels.items():
        kind = usage.kind(name)
        if name in excluded or (kind is Kind.SHAPEFACTOR and len(where) > 1):
            continue
        for channel, samples in where.items():
            candidates[channel].append((samples, kind is Kind.STATERROR, name))
    chosen = {
        channel: max(names)[2] for channel, names in candidates.items() if channel not in occupied
    }
    return {channel: name for channel, name in chosen.items() if is_local(name, usage, chosen)}


def is_local(name: str, usage: Usage, local: Mapping[str, str]) -> bool:
    """Tell whether a parameter set is the local one in all of its channels."""
    return name in usage.channels and all(local.get(at) == name for at in usage.channels[name])


def own_parameters(
    added: Usage, background: Usage, local: Mapping[str, str], bins: Mapping[str, int], poi: str
) -> Own:
    """Return the parameters of a hypothesis that the background does not have.

    Parameters
    ----------
    added, background
        Parameters of the hypothesis' own samples, and of those it shares.
    local
        The background's local parameters, by channel.
    bins
        Number of bins of each channel.
    poi
        The parameter of interest, which is never local or idle.
    """
    new = added.names - background.names
    shared_or_idle = background.alphas | (added.alphas - added.histosys - added.normsys - {poi})
    mine = pick_local(added, {poi} | background.names, occupied=local)
    linear = [
        (name, index)
        for name in sorted(new & added.factors.keys())
        if not is_local(name, added, mine)
        for index in range(added.size(name, bins))
    ]
    return Own(alphas=sorted(added.alphas - shared_or_idle), linear=linear, local=mine)


def shared_shapefactors(background: Usage, added: Sequence[Usage]) -> set[str]:
    """Return the background's shapefactors that act on more than one channel."""
    where: dict[str, set[str]] = defaultdict(set)
    for usage in (background, *added):
        for name, channels in usage.channels.items():
            where[name].update(channels)
    return {
        name
        for name, channels in where.items()
        if background.factors.get(name) is Kind.SHAPEFACTOR and len(channels) > 1
    }


def assign_columns(
    background: Usage,
    added: Sequence[Usage],
    own: Sequence[Own],
    *,
    local: Mapping[str, str],
    bins: Mapping[str, int],
    poi: str,
    small: bool,
) -> Columns:
    """Give the parameters of a batch their columns.

    Parameters
    ----------
    background
        Parameters of the samples that all hypotheses share.
    added, own
        For each hypothesis the parameters of its samples, and those that are its own.
    local
        The background's local parameters, by channel.
    bins
        Number of bins of each channel.
    poi
        The parameter of interest.
    small
        Whether numbers of columns are to be powers of two, for programs that small models share.
    """
    shared = background.alphas
    histosys = shared & background.histosys.union(*(usage.histosys for usage in added))
    normsys = shared & background.normsys.union(*(usage.normsys for usage in added))
    only_histosys = sorted(histosys - normsys - {poi})
    only_normsys = sorted(normsys - histosys - {poi})
    # Any column may have both; only whole steps of those that have one are set apart.
    step = math.inf if small else _ALPHA_STEP
    first = int(len(only_histosys) // step) * _ALPHA_STEP
    last = int(len(only_normsys) // step) * _ALPHA_STEP
    both = sorted((histosys & normsys) | ({poi} & shared))
    middle = only_histosys[first:] + both + only_normsys[last:]
    spare = max((len(mine.alphas) for mine in own), default=0)
    rounded = power_of_two if small else _ceil
    alphas = rounded(first + len(middle) + spare + last, _ALPHA_STEP)
    of = {(name, 0): column for column, name in enumerate(only_histosys[:first] + middle)}
    spare_alphas = range(len(of), len(of) + spare)
    of |= {(name, 0): alphas - last + i for i, name in enumerate(only_normsys[:last])}
    linear = [
        (name, index)
        for name in sorted(background.factors)
        if not is_local(name, background, local)
        for index in range(background.size(name, bins))
    ]
    of |= {parameter: alphas + i for i, parameter in enumerate(linear)}
    spare = max((len(mine.linear) for mine in own), default=0)
    first_spare = alphas + len(linear)
    return Columns(
        alphas=alphas,
        histosys=alphas - last,
        normsys=alphas - first,
        linear=rounded(len(linear) + spare, _SMALL_LINEAR if small else _LINEAR_STEP),
        of=of,
        spare_alphas=spare_alphas,
        spare_linear=range(first_spare, first_spare + spare),
    )


def power_of_two(count: int, least: int) -> int:
    """Return the smallest ``least`` times a power of two that is not below a number.

    Examples
    --------
    >>> [power_of_two(count, 4) for count in (0, 4, 5, 30)]
    [4, 4, 8, 32]
    """
    power = least
    while power < count:
        power *= 2
    return power


def _ceil(count: int, step: int) -> int:
    return max(-(-count // step), 1) * step
