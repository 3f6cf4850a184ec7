"""Samples and their modifiers, read from the JSON of a workspace into arrays.

Nothing is assumed to be valid: what is missing, of the wrong shape or unknown raises
`UnsupportedModelError`, and pyhf then gives the reason to the user.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve_worker.kernel import FloatArray, IntArray

__all__ = [
    "Kind",
    "Sample",
    "SamplePlaces",
    "UnsupportedModelError",
    "most_same_sided",
    "numbers",
    "read_sample",
]


class UnsupportedModelError(Exception):
    """The kernel does not fit this model; the reason says why, for the reference engine.

    It never reaches a user: whoever calls the kernel hands the hypothesis to pyhf, which
    either knows how to fit it or says what is wrong with it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Kind(IntEnum):
    """Types of parameters, in the order in which pyhf builds the parameters of a model.

    ``ALPHA`` is the nuisance parameter of histosys and normsys modifiers, which may share it.
    """

    ALPHA = 0
    LUMI = 1
    NORMFACTOR = 2
    SHAPEFACTOR = 4
    SHAPESYS = 5
    STATERROR = 6

    @property
    def per_bin(self) -> bool:
        """Whether a modifier of this kind has one parameter for every bin."""
        return self >= Kind.SHAPEFACTOR


class Sample(NamedTuple):
    """One sample of one channel.

    ``nominal`` has shape (bins,). ``normsys`` is (names, array (modifiers, 2) of lo and hi),
    ``histosys`` is (names, array (modifiers, 2, bins) of lo_data and hi_data). ``factors``
    names the modifiers that multiply by parameters, with their kind and, for shapesys and
    staterror, their absolute uncertainties of shape (bins,).
    """

    channel: str
    name: str
    nominal: FloatArray
    normsys: tuple[tuple[str, ...], FloatArray]
    histosys: tuple[tuple[str, ...], FloatArray]
    factors: list[tuple[str, Kind, FloatArray | None]]


_FACTORS = {
    "lumi": Kind.LUMI,
    "normfactor": Kind.NORMFACTOR,
    "shapefactor": Kind.SHAPEFACTOR,
    "shapesys": Kind.SHAPESYS,
    "staterror": Kind.STATERROR,
}
_WITH_UNCERTAINTY = (Kind.SHAPESYS, Kind.STATERROR)


def read_sample(channel: str, spec: Any) -> Sample:
    """Read a sample from its JSON.

    Of several modifiers with the same name and type the last one counts, as in pyhf.

    Raises
    ------
    UnsupportedModelError
        Something is missing, of the wrong type or shape, or an unknown kind of modifier.
    """
    try:
        return _read(channel, spec)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        name = spec.get("name") if isinstance(spec, dict) else None
        raise UnsupportedModelError(
            f"sample {name!r} of channel {channel!r} cannot be read: {error}"
        ) from error


class SamplePlaces:
    """Where the numbers of a sample are in a row of numbers, from which samples are made.

    Parameters
    ----------
    channel, spec
        A sample as for `read_sample`, with the index of each number in the row in its place,
        counted from one: what is to be positive is.

    Attributes
    ----------
    varied
        Whether modifiers have numbers too, not the yields alone.
    """

    def __init__(self, channel: str, spec: Any) -> None:
        self._at = read_sample(channel, spec)
        data = [data for _, _, data in self._at.factors]
        self._nominal = _index(self._at.nominal)
        self._norms = _index(self._at.normsys[1])
        self._shapes = _index(self._at.histosys[1])
        self._factors = [None if one is None else _index(one) for one in data]
        self.varied = bool(
            self._at.normsys[0] or self._at.histosys[0] or any(one is not None for one in data)
        )

    def sample(self, row: FloatArray) -> Sample:
        """Return the sample of a row of finite numbers, of shape (numbers,).

        Raises
        ------
        UnsupportedModelError
            A normsys factor is not positive.
        """
        at = self._at
        if not self.varied:
            return at._replace(nominal=row[self._nominal])
        norms = row[self._norms]
        _check_norms(at.channel, at.name, norms)
        return at._replace(
            nominal=row[self._nominal],
            normsys=(at.normsys[0], norms),
            histosys=(at.histosys[0], row[self._shapes]),
            factors=[
                (name, kind, None if places is None else row[places])
                for (name, kind, _), places in zip(at.factors, self._factors, strict=True)
            ],
        )


def _index(places: FloatArray) -> IntArray:
    return places.astype(np.int64) - 1


def _check_norms(channel: str, name: str, norms: FloatArray) -> None:
    if (norms <= 0).any():
        raise UnsupportedModelError(
            f"a normsys factor of sample {name!r} in {channel!r} is not positive"
        )


def most_same_sided(samples: Iterable[Sample]) -> float:
    """Return how far systematics together move a bin to the same side up and down.

    In standard deviations of the nominal events, for the bin where this is largest. The smaller
    variation of each systematic counts, where both move the bin up or both move it down.
    """
    channels: dict[str, list[Sample]] = {}
    for sample in samples:
        channels.setdefault(sample.channel, []).append(sample)
    most = 0.0
    for of_channel in channels.values():
        nominal = np.sum([sample.nominal for sample in of_channel], axis=0)
        names: dict[str, int] = {}
        places, shifts = [], []
        for sample in of_channel:
            for block, moved in (
                (sample.normsys, (sample.normsys[1] - 1.0)[:, :, None] * sample.nominal),
                (sample.histosys, sample.histosys[1] - sample.nominal),
            ):
                places += [names.setdefault(name, len(names)) for name in block[0]]
                shifts.append(moved)
        total = np.zeros((len(names), 2, len(nominal)))
        np.add.at(total, np.array(places, dtype=int), np.concatenate(shifts))
        low, high = total[:, 0], total[:, 1]
        both = np.where(low * high > 0, np.minimum(np.abs(low), np.abs(high)), 0.0)
        width = np.sqrt(np.maximum(nominal, 1.0))
        for side in (low > 0, low < 0):
            most = max(most, float((np.where(side, both, 0.0).sum(axis=0) / width).max()))
    return most


def _read(channel: str, spec: dict[str, Any]) -> Sample:
    nominal = numbers(spec["data"])
    if nominal.ndim != 1 or not nominal.size:
        raise UnsupportedModelError(f"sample {spec['name']!r} of {channel!r} has no list of yields")
    normsys: dict[str, tuple[float, float]] = {}
    histosys: dict[str, tuple[list[float], list[float]]] = {}
    factors: dict[tuple[str, Kind], FloatArray | None] = {}
    for modifier in spec["modifiers"]:
        kind, name = modifier["type"], modifier["name"]
        if kind == "normsys":
            data = modifier["data"]
            normsys[name] = (data["lo"], data["hi"])
        elif kind == "histosys":
            data = modifier["data"]
            histosys[name] = (data["lo_data"], data["hi_data"])
        elif kind in _FACTORS:
            factor = _FACTORS[kind]
            with_data = factor in _WITH_UNCERTAINTY
            factors[name, factor] = numbers(modifier["data"]) if with_data else None
        else:
            raise UnsupportedModelError(f"modifier type {kind!r} is unknown")
    bins = len(nominal)
    for (name, _), uncertainty in factors.items():
        if uncertainty is not None and uncertainty.shape != (bins,):
            raise UnsupportedModelError(
                f"modifier {name!r} of sample {spec['name']!r} in {channel!r} does not have "
                "one value for every bin"
            )
    norms = _block(normsys.values(), (len(normsys), 2))
    _check_norms(channel, spec["name"], norms)
    return Sample(
        channel=channel,
        name=spec["name"],
        nominal=nominal,
        normsys=(tuple(normsys), norms),
        histosys=(tuple(histosys), _block(histosys.values(), (len(histosys), 2, bins))),
        factors=[(name, kind, data) for (name, kind), data in factors.items()],
    )


def numbers(data: Any) -> FloatArray:
    """Return JSON numbers as a float array; refuse what is not a finite number."""
    array = np.array(data, dtype=np.float64)
    if not np.isfinite(array).all():
        raise UnsupportedModelError("the model has numbers that are not finite")
    return array


def _block(values: Iterable[Any], shape: tuple[int, ...]) -> FloatArray:
    array = numbers(list(values)) if shape[0] else np.zeros(shape)
    if array.shape != shape:
        raise UnsupportedModelError(
            f"modifier data of shape {array.shape[1:]} where {shape[1:]} is needed"
        )
    return array
