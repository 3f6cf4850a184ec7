"""Batches: hypotheses that share background samples, channels and parameter of interest.

`compile_hypotheses` sorts the hypotheses of a task into batches.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_worker.kernel.arrays import (
    Layout,
    SampleArrays,
    SampleTable,
    Shape,
    bytes_per_hypothesis,
    choose_width,
)
from fitserve_worker.kernel.columns import (
    assign_columns,
    is_local,
    own_parameters,
    pick_local,
    power_of_two,
    shared_shapefactors,
)
from fitserve_worker.kernel.constraints import (
    Parameters,
    Placement,
    Vectors,
    poisson_constant,
    pyhf_order,
)
from fitserve_worker.kernel.parameters import StatErrors
from fitserve_worker.kernel.patches import Background, resolve
from fitserve_worker.kernel.spec import Kind, UnsupportedModelError, most_same_sided

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from fitserve_contract import Hypothesis, ModelOptions
    from fitserve_worker.kernel import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.columns import Own, Usage
    from fitserve_worker.kernel.parameters import ParameterSet
    from fitserve_worker.kernel.patches import Member, Patched, Reader, Structure
    from fitserve_worker.kernel.spec import Sample

__all__ = ["Batch", "Chunk", "Compilation", "compile_hypotheses"]

# Most bytes of the arrays of the hypotheses that are on the device at a time.
_CHUNK_BYTES = 256 * 1024**2
# Models of no more bins and parameters are padded to a few sizes, so that they share compiled
# programs: to compile one takes seconds, their fits less than a millisecond.
_SMALL_BINS = 64
_SMALL_PARAMETERS = 48
# The least sizes to pad to: blocks, samples of the background in a channel, and those added.
_BLOCKS, _SLOTS, _ADDED = 8, 4, 1
# Each choice of the sides of systematics may be a minimum where together they move a bin to the
# same side up and down by more than this, in standard deviations of its events: 2.6 in the
# published staus analysis, which has such minima, and 1.0 in 1Lbb, which does not.
_RUGGED = 1.5
# Batches have no more hypotheses than this, so that their memory does not grow with the pallet.
_LARGEST = 512


class Chunk(NamedTuple):
    """Arrays of some hypotheses of a batch, with the hypothesis as leading axis.

    ``columns`` and ``local`` hold init, lower, upper, precision, mean, rate and counted of the
    parameters, of shape (hypotheses, columns) and (hypotheses, bins); ``data`` are the
    observed events (hypotheses, bins). ``poi`` is the column of the parameter of interest
    (-1 in a model without one, where that is allowed), ``constant`` the part of -log L that the
    fit's objective leaves out.
    """

    samples: SampleArrays
    columns: dict[str, FloatArray]
    local: dict[str, FloatArray]
    data: FloatArray
    poi: IntArray
    constant: FloatArray


class _Places(NamedTuple):
    """Where the parameters of a hypothesis are: columns, and local parameters of channels."""

    columns: Mapping[str, int]
    local: Mapping[str, str]


_Labels = tuple[list[tuple[int, str]], list[tuple[int, str]]]
"""Names of parameters with their columns, and of local parameters with their bins, in order."""


class Batch:
    """Hypotheses with the same structure, compiled.

    Parameters
    ----------
    structure
        What they have in common.
    reader
        The reader that made the members; it has the background.
    members
        The hypotheses.
    options
        Interpolation codes.

    Attributes
    ----------
    shape
        What the compiled program is made for.
    members
        The hypotheses, in the order of every array's leading axis.
    poi
        Name of the parameter of interest.
    layout
        Where channels and bins lie.
    small
        Whether the model is padded to a size that small models share.
    rugged
        Whether the background may have many minima: its systematics can move a bin one way with
        their parameters on either side of zero, and far in terms of the bin's events.
    """

    def __init__(
        self,
        structure: Structure,
        reader: Reader,
        members: Sequence[Member],
        options: ModelOptions,
    ) -> None:
        self.members = members
        self.poi = structure.poi
        self._bins = reader.bins
        self._background = reader.background
        self._usage = reader.usage
        usages = [member.usage for member in members]
        self._local = pick_local(self._usage, {self.poi, *shared_shapefactors(self._usage, usages)})
        # Signals of an array have one usage together.
        owns = {
            id(usage): own_parameters(usage, self._usage, self._local, self._bins, self.poi)
            for usage in {id(one): one for one in usages}.values()
        }
        self._own = [owns[id(usage)] for usage in usages]
        self.small = self._is_small()
        self.rugged = most_same_sided(self._background) > _RUGGED
        self.columns = assign_columns(
            self._usage,
            usages,
            self._own,
            local=self._local,
            bins=self._bins,
            poi=self.poi,
            small=self.small,
        )
        places = {key: self._place(own) for key, own in owns.items()}
        self._places = [places[id(usage)] for usage in usages]
        self._labelled: tuple[_Places | None, _Labels] = None, ([], [])
        bins = sum(self._bins.values())
        self.layout = (
            Layout(structure.channels, 1, power_of_two(bins, _BLOCKS))
            if self.small
            else Layout(structure.channels, self._width())
        )
        self.shape = self._shape(options)
        self._base: dict[int, Vectors] = {}
        self._on_device: SampleArrays | None = None

    def _is_small(self) -> bool:
        shared = sum(
            self._usage.size(name, self._bins)
            for name in self._usage.names
            if not is_local(name, self._usage, self._local)
        )
        own = max((len(one.alphas) + len(one.linear) for one in self._own), default=0)
        bins = sum(self._bins.values())
        return bins <= _SMALL_BINS and shared + own <= _SMALL_PARAMETERS

    def _place(self, own: Own) -> _Places:
        columns = {name: column for (name, index), column in self.columns.of.items() if not index}
        columns |= dict(zip(own.alphas, self.columns.spare_alphas, strict=False))
        for (name, index), column in zip(own.linear, self.columns.spare_linear, strict=False):
            if not index:
                columns[name] = column
        return _Places(columns, {**self._local, **own.local})

    def _width(self) -> int:
        # A column that acts on a single bin needs rows of single bins.
        if any(usage.kind(name).per_bin for usage, name in self._column_names()):
            return 1
        return choose_width(self._bins.values(), self.columns.total, self.columns.histosys)

    def _column_names(self) -> Iterable[tuple[Usage, str]]:
        for name, _ in self.columns.of:
            yield self._usage, name
        for member, own in zip(self.members, self._own, strict=True):
            for name, _ in own.linear:
                yield member.usage, name

    def _shape(self, options: ModelOptions) -> Shape:
        columns = self.columns
        everything: list[tuple[Iterable[Sample], Mapping[str, str]]] = [
            (self._background, self._local)
        ]
        everything += [
            (member.samples, places.local)
            for member, places in zip(self.members, self._places, strict=True)
        ]
        acted = {_acts(sample, local) for samples, local in everything for sample in samples}
        kinds = {usage.kind(name) for usage, name in self._column_names()}
        slots = _most_in_a_channel(self._background)
        added = max((_most_in_a_channel(m.samples) for m in self.members), default=1)
        return Shape(
            slots=power_of_two(slots, _SLOTS) if self.small else slots,
            added_slots=power_of_two(added, _ADDED) if self.small else added,
            blocks=self.layout.blocks,
            width=self.layout.width,
            alphas=columns.alphas,
            histosys=columns.histosys,
            normsys=columns.normsys,
            linear=columns.linear,
            normsys_code=options.normsys,
            histosys_code=options.histosys,
            local="some" if len(acted) > 1 or self.small else "all" if True in acted else "none",
            poisson=Kind.SHAPESYS in kinds or self.small,
        )

    @property
    def slots(self) -> IntArray:
        """Positions of the model's bins in arrays of bins."""
        return self.layout.slots

    @property
    def device_slots(self) -> IntArray:
        """Positions that programs use for the model's bins: all of them in a small model."""
        return np.arange(self.shape.bins) if self.small else self.layout.slots

    def capacity(self, largest: int) -> int:
        """Return how many hypotheses to have on the device at once.

        The number is always the same for a shape, since programs are compiled for it.
        """
        return max(1, min(largest, _CHUNK_BYTES // bytes_per_hypothesis(self.shape)))

    def background_arrays(self) -> SampleArrays:
        """Return the arrays of the shared samples."""
        table = SampleTable(self.layout, self.shape, slots=self.shape.slots, batch=1)
        columns = {name: column for (name, index), column in self.columns.of.items() if not index}
        self._enter(table, 0, self._background, self._usage, _Places(columns, self._local))
        return SampleArrays(*(array[0] for array in table.arrays()))

    def on_device(self) -> SampleArrays:
        """Return the arrays of the shared samples on the device."""
        if self._on_device is None:
            import jax

            self._on_device = jax.device_put(self.background_arrays())
        return self._on_device

    def chunk(self, members: Sequence[int], capacity: int) -> Chunk:
        """Return the arrays of some hypotheses, padded to ``capacity`` of them."""
        table = SampleTable(self.layout, self.shape, slots=self.shape.added_slots, batch=capacity)
        vectors = []
        for position, index in enumerate(members):
            member, places = self.members[index], self._places[index]
            self._enter(table, position, member.samples, member.usage, places)
            vectors.append(self._vectors(member, places))
        vectors += [vectors[0]] * (capacity - len(members))
        observed = np.stack([self.members[index].observed for index in members])
        data = np.zeros((capacity, self.shape.bins))
        data[: len(members)] = self.layout.spread(observed)
        poi = [self._places[index].columns.get(self.poi, -1) for index in members]
        constant = [
            vector.constant + poisson_constant(counts)
            for vector, counts in zip(vectors, observed, strict=False)
        ]
        return Chunk(
            samples=table.arrays(),
            columns=_stack([vector.columns for vector in vectors]),
            local=_stack([vector.local for vector in vectors]),
            data=data,
            poi=np.array(poi + poi[:1] * (capacity - len(members))),
            constant=np.array(constant),
        )

    def alone(self, member: int, events: FloatArray, capacity: int) -> Chunk:
        """Return the arrays of a hypothesis' background alone, padded to ``capacity``.

        Staterrors are as wide as without the samples that the hypothesis adds.

        Parameters
        ----------
        member
            The hypothesis.
        events
            Events to add to the bins, whatever the parameters are, of shape (several, bins).
        capacity
            How many there are in the arrays.
        """
        one = self.members[member]
        columns = {name: column for (name, index), column in self.columns.of.items() if not index}
        vectors = Vectors(self.shape.columns, self.shape.bins)
        sets = dict(one.common)
        for name, widths in StatErrors(self._background).widths():
            fixed = one.sets[name].fixed | widths.fixed
            sets[name] = replace(one.sets[name], scale=widths.sigma, fixed=fixed)
        for made in sets.values():
            vectors.enter(made, self.placement(made, self._usage, _Places(columns, self._local)))
        table = SampleTable(self.layout, self.shape, slots=self.shape.added_slots, batch=capacity)
        samples = table.arrays()
        first = samples.nominal[: len(events), : self.layout.blocks]
        first[:] = self.layout.spread(events).reshape(first.shape)
        data = np.zeros((capacity, self.shape.bins))
        data[:] = self.layout.spread(one.observed)
        return Chunk(
            samples=samples,
            columns=_stack([vectors.columns] * capacity),
            local=_stack([vectors.local] * capacity),
            data=data,
            poi=np.full(capacity, columns.get(self.poi, -1)),
            constant=np.full(capacity, vectors.constant + poisson_constant(one.observed)),
        )

    def parameters(self, member: int) -> Parameters:
        """Return the parameters of a hypothesis, as pyhf names and orders them."""
        hypothesis, places = self.members[member], self._places[member]
        placed = []
        for name in pyhf_order([*self._background, *hypothesis.samples]):
            made = hypothesis.sets.get(name) or hypothesis.common[name]
            usage = self._usage if name in self._usage.names else hypothesis.usage
            placed.append((made, self.placement(made, usage, places)))
        return Parameters(placed)

    def sample_slots(self, member: int) -> dict[tuple[str, str], int]:
        """Return the slots of a hypothesis' samples, by channel and sample name.

        Those of the background come first, as in `fitserve_worker.kernel.rows.Rows`.
        """
        slots = {}
        for samples, first in (
            (self._background, 0),
            (self.members[member].samples, self.shape.slots),
        ):
            taken: Counter[str] = Counter()
            for sample in samples:
                slots[sample.channel, sample.name] = first + taken[sample.channel]
                taken[sample.channel] += 1
        return slots

    def names_at(self, member: int, columns: BoolArray, bins: BoolArray) -> list[str]:
        """Return the names of parameters, as pyhf has them, given their places.

        Parameters
        ----------
        member
            The hypothesis.
        columns, bins
            Which columns, (columns,), and which bins' local parameters, (bins,).
        """
        places = self._places[member]
        # Signals of an array have the same places; many of their fits end at some bound.
        if places is not self._labelled[0]:
            self._labelled = places, self._labels(places, self.members[member].usage)
        of_columns, of_bins = self._labelled[1]
        return [label for column, label in of_columns if columns[column]] + [
            label for slot, label in of_bins if bins[slot]
        ]

    def _labels(self, places: _Places, own: Usage) -> _Labels:
        def several(name: str, wheres: Iterable[int], offset: int) -> Iterable[tuple[int, str]]:
            usage = self._usage if name in self._usage.names else own
            per_bin = usage.kind(name).per_bin
            for index, where in enumerate(wheres):
                yield where, f"{name}[{offset + index}]" if per_bin else name

        of_columns: list[tuple[int, str]] = []
        of_bins: list[tuple[int, str]] = []
        for name, first in places.columns.items():
            usage = self._usage if name in self._usage.names else own
            of_columns += several(name, range(first, first + usage.size(name, self._bins)), 0)
        for channel, name in places.local.items():
            usage = self._usage if name in self._usage.names else own
            wheres = self.layout.slots[self.layout.bin_range(channel)].tolist()
            of_bins += several(name, wheres, usage.offset(name, channel, self._bins))
        return of_columns, of_bins

    def _enter(
        self,
        table: SampleTable,
        position: int,
        samples: Iterable[Sample],
        usage: Usage,
        places: _Places,
    ) -> None:
        slots: Counter[str] = Counter()
        for sample in samples:
            linear = {
                name: places.columns[name] + usage.offset(name, sample.channel, self._bins)
                for name, _, _ in sample.factors
                if name in places.columns
            }
            table.add(
                position,
                slots[sample.channel],
                sample,
                places.columns,
                linear,
                local=_acts(sample, places.local),
            )
            slots[sample.channel] += 1

    def _vectors(self, member: Member, places: _Places) -> Vectors:
        base = self._base.get(id(member.common))
        if base is None:
            base = Vectors(self.shape.columns, self.shape.bins)
            for made in member.common.values():
                base.enter(made, self.placement(made, self._usage, places))
            self._base[id(member.common)] = base
        vectors = base.copy()
        for made in member.sets.values():
            usage = self._usage if made.name in self._usage.names else member.usage
            vectors.enter(made, self.placement(made, usage, places))
        return vectors

    def placement(self, made: ParameterSet, usage: Usage, places: _Places) -> Placement:
        """Return where a parameter set is."""
        if made.name in places.columns:
            return Placement(columns=places.columns[made.name] + np.arange(len(made)))
        if not made.kind.per_bin:
            return Placement()
        bins = [
            np.arange(self.layout.bin_range(channel).start, self.layout.bin_range(channel).stop)
            for channel in sorted(usage.channels[made.name])
        ]
        return Placement(slots=self.layout.slots[np.concatenate(bins)])


def _acts(sample: Sample, local: Mapping[str, str]) -> bool:
    name = local.get(sample.channel)
    return name is not None and any(name == factor for factor, _, _ in sample.factors)


def _most_in_a_channel(samples: Iterable[Sample]) -> int:
    return max(Counter(sample.channel for sample in samples).values(), default=1)


def _stack(entries: Sequence[object]) -> dict[str, FloatArray]:
    fields = ("init", "lower", "upper", "precision", "mean", "rate", "counted")
    return {name: np.stack([getattr(entry, name) for entry in entries]) for name in fields}


class Compilation(NamedTuple):
    """Batches, and the reason for each hypothesis that is in none of them."""

    batches: list[Batch]
    unsupported: dict[str, str]


def compile_hypotheses(
    workspace: dict[str, Any] | Background,
    hypotheses: Iterable[Hypothesis],
    options: ModelOptions,
    *,
    may_lack_poi: bool = False,
) -> Compilation:
    """Compile hypotheses into batches of those that differ in numbers only.

    Parameters
    ----------
    workspace
        The background-only workspace, or a `Background` made of it with the same options, which
        saves reading it again.
    hypotheses
        Patches for the workspace.
    options
        Measurement, parameter of interest and interpolation codes.
    may_lack_poi
        Whether to compile models without the parameter of interest too.
    """
    hypotheses = list(hypotheses)
    unsupported: dict[str, str] = {}
    try:
        background = (
            workspace if isinstance(workspace, Background) else Background(workspace, options)
        )
    except UnsupportedModelError as error:
        return Compilation([], {hypothesis.name: error.reason for hypothesis in hypotheses})
    groups: dict[Structure, list[tuple[str, Patched]]] = defaultdict(list)
    for hypothesis in hypotheses:
        try:
            patched = resolve(background, hypothesis.patch)
        except UnsupportedModelError as error:
            unsupported[hypothesis.name] = error.reason
        else:
            groups[patched.structure].append((hypothesis.name, patched))
    batches = []
    for structure, group in groups.items():
        members, refused = _read(background, structure, group, may_lack_poi=may_lack_poi)
        unsupported |= refused
        for first in range(0, len(members), _LARGEST):
            part = members[first : first + _LARGEST]
            batches.append(Batch(structure, background.reader(structure), part, options))
    return Compilation(batches, unsupported)


def _read(
    background: Background,
    structure: Structure,
    group: list[tuple[str, Patched]],
    *,
    may_lack_poi: bool,
) -> tuple[list[Member], dict[str, str]]:
    try:
        reader = background.reader(structure)
    except UnsupportedModelError as error:
        return [], {name: error.reason for name, _ in group}
    members, refused = [], {}
    for name, patched in group:
        try:
            members.append(reader.read(name, patched, may_lack_poi=may_lack_poi))
        except UnsupportedModelError as error:
            refused[name] = error.reason
    return members, refused
