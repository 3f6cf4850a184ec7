"""Own signals on a background: a table of yields, and the hypotheses that it stands for.

Columns are named after bins: ``SR[0]`` is the first bin of channel ``SR``, and so is ``SR`` if
it has one bin. What follows a colon is an uncertainty of these yields; other columns are the
coordinates of the signals, such as masses.

=====================  =============================================================================
column                 content
=====================  =============================================================================
``name``               of the signal; without it they are numbered
``SR[0]``              events expected in the bin, at a signal strength of 1
``SR[0]:stat``         their statistical uncertainty, in events (staterror)
``SR[0]:JES``          relative change by a systematic at +1 standard deviation, and the opposite at
                       -1 (histosys); ``SR[0]:JES:up`` and ``:down`` where they differ
``SR:JES``, ``*:JES``  the same for all bins of a channel, or of all channels (normsys)
=====================  =============================================================================

A systematic shares the parameter of that name in the workspace, if there is one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np

from fitserve.errors import InputError, RequestError
from fitserve.files import read_regular
from fitserve.pallet.checks import Findings, check_workspace
from fitserve.pallet.tables import read_table
from fitserve_contract import Hypothesis, SignalPatch, Template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fitserve.pallet.checks import Base
    from fitserve.pallet.tables import Table
    from fitserve_contract import ModelOptions

    FloatArray = NDArray[np.float64]

__all__ = [
    "BadYields",
    "OwnSignals",
    "check_table",
    "own_signals",
    "without_signal",
]

BadYields = Literal["error", "zero", "drop", "keep"]
"""What to do with negative and missing yields: stop, take them as zero, leave their signals out,
or keep negative ones as they are."""

_SAMPLE = "signal"
_BIN = re.compile(r"\[\d+\]$")
_SHOWN = 3
# A column as similar to the name of a bin as this was meant to be one.
_ALIKE = 0.8
_MOST_COORDINATES = 50
_LOOKED = 100


@dataclass(frozen=True, kw_only=True)
class OwnSignals:
    """Signals of the user's own, and how they are read.

    Attributes
    ----------
    table
        What `fitserve.pallet.tables.read_table` takes.
    columns
        What columns of the table mean, by their names there: a ``dict``, or a file of JSON or YAML
        with one.
    bad_yields
        See `BadYields`.
    lumi
        Whether signals have the luminosity uncertainty of the workspace: ``"auto"`` if it has one,
        ``"none"``; or a relative uncertainty of their own.
    measurement, poi
        Whose parameter of interest scales the signals, by default the first measurement's; or
        which does.
    """

    table: Any
    columns: str | Path | Mapping[str, str] | None = None
    bad_yields: BadYields = "error"
    lumi: str | float = "auto"
    measurement: str | None = None
    poi: str | None = None

    def asked(self, model: ModelOptions) -> OwnSignals:
        """Return the signals for what a request asks of the model, with their options checked.

        Raises
        ------
        RequestError
            An option is not known.
        """
        if self.bad_yields not in get_args(BadYields):
            raise RequestError(
                f"bad yields cannot be treated by {self.bad_yields!r}",
                hint=f"choose {', '.join(get_args(BadYields))}",
            )
        return replace(
            self,
            lumi=_lumi(self.lumi),
            measurement=self.measurement or model.measurement,
            poi=self.poi or model.poi,
        )


class Signals(NamedTuple):
    """Hypotheses made of a table, and the labels of their coordinates.

    ``largest`` is the one with the most events, which stands for all where they are checked: they
    have the same template.
    """

    hypotheses: tuple[Hypothesis, ...]
    labels: tuple[str, ...]
    largest: Hypothesis


class _Target(NamedTuple):
    """What a column is about: bins of a channel (all of them if ``whole``), or of all channels."""

    channels: tuple[str, ...]
    bins: tuple[int, ...]
    whole: bool


@dataclass
class _Channel:
    """Columns of one channel, each (signals,): yields and uncertainties by bin, changes by name."""

    yields: dict[int, FloatArray] = field(default_factory=dict)
    stat: dict[int, FloatArray] = field(default_factory=dict)
    shapes: dict[str, dict[int, _Ends]] = field(default_factory=dict)
    norms: dict[str, _Ends] = field(default_factory=dict)


class _Ends(NamedTuple):
    """Relative changes at +1 and at -1 standard deviation, each (signals,)."""

    up: FloatArray
    down: FloatArray


def own_signals(
    own: OwnSignals, workspace: dict[str, Any], base: Base, findings: Findings
) -> Signals:
    """Read signals and make the hypotheses of them.

    Parameters
    ----------
    own
        The signals.
    workspace
        The background-only workspace.
    base
        What `fitserve.pallet.checks.check_workspace` found in it.
    findings
        Takes what is noted: channels without a signal, yields that were changed.

    Raises
    ------
    InputError
        The table cannot be read, or does not fit the workspace.
    RequestError
        An option has no meaning here.
    """
    reader = _Reader(own, workspace, base)
    if reader.problems:
        raise _refused(reader)
    return reader.signals(findings)


def without_signal(
    workspace: dict[str, Any], base: Base, findings: Findings
) -> tuple[dict[str, Any], Base]:
    """Return a workspace without the samples that its parameters of interest scale.

    Raises
    ------
    InputError
        A channel has no others.
    """
    pois = {measurement["config"]["poi"] for measurement in base.measurements}
    if pois.isdisjoint(base.parameters.by_name()):
        return workspace, base
    channels = []
    for channel in workspace["channels"]:
        kept = [
            sample
            for sample in channel["samples"]
            if pois.isdisjoint(modifier["name"] for modifier in sample["modifiers"])
        ]
        if not kept:
            raise InputError(
                "the workspace has a channel with nothing but a signal",
                evidence=f"all samples of channel {channel['name']!r} have the normfactor "
                f"{', '.join(sorted(pois))}",
                hint="give a workspace with a background",
            )
        for sample in channel["samples"]:
            if sample not in kept:
                findings.note(
                    "samples of the workspace's own signal were left out",
                    f"{sample['name']!r} of channel {channel['name']!r}",
                )
        channels.append(channel | {"samples": kept})
    workspace = workspace | {"channels": channels}
    return workspace, check_workspace(workspace, Findings())


def check_table(own: OwnSignals, workspace: dict[str, Any]) -> list[str]:
    """Return all that is wrong with a table of signals for a workspace, with line and column.

    Raises
    ------
    InputError
        It cannot be read as a table.
    """
    base = check_workspace(workspace, Findings())
    return _Reader(own, *without_signal(workspace, base, Findings())).problems


def _refused(reader: _Reader) -> InputError:
    problems = reader.problems
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return InputError(
        f"{reader.table.source} does not fit the workspace",
        evidence="; ".join(problems[:_SHOWN]) + more,
        hint="fitserve signals check PALLET TABLE lists everything that is wrong",
    )


def _bins_of(base: Base) -> list[str]:
    """Return the names of all bins, in the order of the workspace."""
    return [f"{each.name}[{index}]" for each in base.channels for index in range(len(each.total))]


class _Reader:
    """Columns of a table, sorted by what they mean; ``problems`` says what is wrong."""

    def __init__(self, own: OwnSignals, workspace: dict[str, Any], base: Base) -> None:
        self.problems: list[str] = []
        self.table: Table = read_table(own.table, _bins_of(base))
        self._own = own
        self._workspace = workspace
        self._base = base
        self._sizes = {channel.name: len(channel.total) for channel in base.channels}
        self._targets = self._named_targets()
        self._channels = {name: _Channel() for name in self._sizes}
        self._coordinates: dict[str, Any] = {}
        self._kept = np.ones(len(self.table.lines), dtype=bool)
        self._changed: dict[str, list[int]] = {}
        self._names: list[str] = []
        self._read_columns()
        self._read_names()
        self._judge_yields()
        if not self.problems and not any(each.yields for each in self._channels.values()):
            self.problems.append(
                f"no column is a bin; these are: {', '.join(list(self._targets)[1:4])}, ..."
            )
        elif not self.problems and not self._kept.any():
            self.problems.append("it has no signals")

    def _named_targets(self) -> dict[str, _Target]:
        targets = {"*": _Target(tuple(self._sizes), (), whole=True)}
        for name, size in self._sizes.items():
            targets[name] = _Target((name,), tuple(range(size)), whole=True)
        for name, size in self._sizes.items():
            for index in range(size):
                targets.setdefault(f"{name}[{index}]", _Target((name,), (index,), whole=False))
        return targets

    def _read_columns(self) -> None:
        meant = _map(self._own.columns)
        for name in meant.keys() - self.table.columns.keys():
            self.problems.append(
                f"there is no column {name!r}, to which a meaning is given"
                + _nearest(name, self.table.columns)
            )
        for column, values in self.table.columns.items():
            meaning = meant.get(column, column)
            target, what = self._parsed(meaning)
            if target is None:
                self._coordinate(column, meaning, values)
            elif (numbers := self._numbers(column, values)) is not None:
                self._enter(column, target, what, numbers)
        self._complete()

    def _parsed(self, column: str) -> tuple[_Target | None, list[str]]:
        pieces = column.split(":")
        # Names of channels may have colons as well.
        for count in range(len(pieces), 0, -1):
            name = ":".join(pieces[:count]).strip()
            if name in self._targets:
                return self._targets[name], [one.strip() for one in pieces[count:]]
        return None, []

    def _coordinate(self, column: str, meaning: str, values: Any) -> None:
        if meaning == "name":
            return
        if len(self._coordinates) == _MOST_COORDINATES or meaning in self._coordinates:
            self.problems.append(
                f"column {column!r} is a coordinate that another column is too"
                if meaning in self._coordinates
                else f"column {column!r}: no more than {_MOST_COORDINATES} may be no bins"
            )
            return
        head = meaning.split(":", maxsplit=1)[0]
        # To look for like names takes milliseconds, and there may be thousands of wrong columns.
        looked = len(self.problems) < _LOOKED
        near = looked and difflib.get_close_matches(head, self._targets, n=1, cutoff=_ALIKE)
        channel = _BIN.sub("", head)
        if channel in self._sizes:
            size = self._sizes[channel]
            self.problems.append(
                f"column {column!r}: channel {channel!r} has {size} bin{'s' * (size != 1)}, "
                "counted from 0"
            )
        elif _BIN.search(head) or ":" in meaning or near:
            nearest = _nearest(head, self._targets) if looked else ""
            self.problems.append(f"column {column!r} is no bin of the workspace{nearest}")
        elif isinstance(values, np.ndarray):
            if missing := np.flatnonzero(~np.isfinite(values)).tolist():
                self.problems.append(f"{self.table.place(missing[0], column)}: there is no number")
            self._coordinates[meaning] = values
        else:
            self._check_text(column, values)
            self._coordinates[meaning] = list(map(_text, values))

    def _check_text(self, column: str, values: Sequence[Any]) -> None:
        """Check that text is not numbers in other units, or with a number missing."""
        kinds = [_number(value) is not None for value in values]
        numbers = sum(kinds)
        if len(kinds) > numbers > len(kinds) / 2:
            row = kinds.index(False)
            self.problems.append(
                f"{self.table.place(row, column)}: {str(values[row])[:40]!r} is no number, most "
                "others there are: units belong into the name of the column"
            )

    def _numbers(self, column: str, values: Any) -> FloatArray | None:
        if not isinstance(values, np.ndarray):
            row, bad = next(
                ((row, one) for row, one in enumerate(values) if _number(one) is None), (0, "")
            )
            self.problems.append(f"{self.table.place(row, column)}: {str(bad)[:40]!r} is no number")
            return None
        if (infinite := np.flatnonzero(np.isinf(values))).size:
            self.problems.append(f"{self.table.place(int(infinite[0]), column)}: it is infinite")
            return None
        return values

    def _enter(self, column: str, target: _Target, what: list[str], values: FloatArray) -> None:
        if not what:
            if len(target.bins) != 1:
                self.problems.append(
                    f"column {column!r} is of several bins: give one column for each, "
                    f"{target.channels[0]}[0] and so on"
                )
                return
            place = self._channels[target.channels[0]].yields
            if target.bins[0] in place:
                self.problems.append(f"column {column!r} is a bin that another column is too")
            place[target.bins[0]] = values
            return
        # An uncertainty that is not given is none.
        values = np.nan_to_num(values)
        name, *end = what
        if name == "stat" and not end:
            if len(target.bins) != 1:
                self.problems.append(f"column {column!r} is not of one bin, as stat has to be")
            elif (negative := np.flatnonzero(values < 0)).size:
                place_ = self.table.place(int(negative[0]), column)
                self.problems.append(f"{place_}: an uncertainty of {values[negative[0]]:g}")
            else:
                self._channels[target.channels[0]].stat[target.bins[0]] = values
        elif not name or end not in ([], ["up"], ["down"]):
            self.problems.append(
                f"column {column!r}: after the bin comes stat, or the name of a systematic, and "
                "perhaps up or down"
            )
        else:
            self._systematic(target, name, end, values)

    def _systematic(self, target: _Target, name: str, end: list[str], values: FloatArray) -> None:
        nothing = np.full(len(values), np.nan)
        for channel in target.channels:
            held = self._channels[channel]
            places: list[tuple[dict[Any, _Ends], Any]] = (
                [(held.norms, name)]
                if target.whole
                else [(held.shapes.setdefault(name, {}), index) for index in target.bins]
            )
            for ends, key in places:
                up, down = ends.get(key, _Ends(nothing, nothing))
                ends[key] = {"up": _Ends(values, down), "down": _Ends(up, values)}.get(
                    "".join(end), _Ends(values, -values)
                )

    def _complete(self) -> None:
        """Take a side that is not given as the opposite of the other; check the size of all."""
        for name, held in self._channels.items():
            for systematic, ends in held.norms.items():
                held.norms[systematic] = self._two_sided(ends)
                self._check_factors(f"{name}:{systematic}", held.norms[systematic])
            if not held.yields and (held.stat or held.shapes):
                self.problems.append(f"channel {name!r} has uncertainties and no yields")
            for by_bin in held.shapes.values():
                by_bin.update({index: self._two_sided(ends) for index, ends in by_bin.items()})

    @staticmethod
    def _two_sided(ends: _Ends) -> _Ends:
        up, down = ends
        up = np.where(np.isnan(up), -down, up)
        return _Ends(up, np.where(np.isnan(down), -up, down))

    def _check_factors(self, column: str, ends: _Ends) -> None:
        for values in ends:
            if (rows := np.flatnonzero(values <= -1)).size:
                self.problems.append(
                    f"{self.table.place(int(rows[0]), column)}: a relative change by "
                    f"{values[rows[0]]:g} leaves no events"
                )

    def _read_names(self) -> None:
        count = len(self.table.lines)
        meant = {value: key for key, value in _map(self._own.columns).items()}
        column = meant.get("name", "name")
        given = self.table.columns.get(column)
        if given is None:
            self._names = [f"{_SAMPLE}_{number}" for number in range(1, count + 1)]
            return
        self._names = [_text(one) for one in given]
        first: dict[str, int] = {}
        for row, name in enumerate(self._names):
            if not name:
                self.problems.append(f"{self.table.place(row, column)}: there is no name")
            elif name in first:
                self.problems.append(
                    f"{self.table.place(row, column)}: {name!r} is the name in "
                    f"{self.table.words} {self.table.lines[first[name]]} too"
                )
            first.setdefault(name, row)

    def _judge_yields(self) -> None:
        """Treat negative and missing yields as the user has chosen."""
        chosen = self._own.bad_yields
        for name, held in self._channels.items():
            for index, values in list(held.yields.items()):
                column = f"{name}[{index}]"
                for what, bad in (("missing", np.isnan(values)), ("negative", values < 0)):
                    rows = np.flatnonzero(bad)
                    if not rows.size:
                        continue
                    if chosen == "keep" and what == "negative":
                        self._changed.setdefault(what, []).extend(rows.tolist())
                        continue
                    if chosen in ("error", "keep"):
                        self.problems += [
                            f"{self.table.place(row, column)}: a {what} yield"
                            + ("" if what == "missing" else f", {values[row]:g}")
                            for row in rows.tolist()
                        ]
                        continue
                    self._changed.setdefault(what, []).extend(rows.tolist())
                    if chosen == "drop":
                        self._kept[rows] = False
                    held.yields[index] = np.where(bad, 0.0, held.yields[index])

    def signals(self, findings: Findings) -> Signals:
        """Return the hypotheses; `problems` is empty."""
        template, numbers = self._numbers_of_all()
        numbers = numbers[self._kept]
        names = [name for name, kept in zip(self._names, self._kept.tolist(), strict=True) if kept]
        coordinates = zip(*map(_listed, self._coordinates.values()), strict=True)
        values = [
            one for one, kept in zip(coordinates, self._kept.tolist(), strict=False) if kept
        ] or [()] * len(names)
        hypotheses = tuple(
            Hypothesis(name=name, values=each, patch=SignalPatch(template, row.tobytes()))
            for name, each, row in zip(names, values, numbers, strict=True)
        )
        total = self._totals()[self._kept]
        self._note(findings, names, total)
        return Signals(hypotheses, tuple(self._coordinates), hypotheses[int(np.argmax(total))])

    def _totals(self) -> FloatArray:
        every = [values for held in self._channels.values() for values in held.yields.values()]
        total: FloatArray = np.sum(every, axis=0)
        return total

    def _note(self, findings: Findings, names: list[str], total: FloatArray) -> None:
        if (luminosity := self._luminosity()) is not None:
            findings.note("signals have an uncertainty of the luminosity", luminosity["name"])
        parameters = self._base.parameters.by_name()
        for systematic in dict.fromkeys(
            name for held in self._channels.values() for name in (*held.norms, *held.shapes)
        ):
            whose = "share those of the background" if systematic in parameters else "are their own"
            findings.note(f"systematics of the signals that {whose}", systematic)
        without = [name for name, held in self._channels.items() if not held.yields]
        if without:
            findings.note("channels without a column have no signal", ", ".join(without))
        done = {
            "zero": "taken as zero",
            "drop": "left out, with the whole signal",
            "keep": "kept as they are",
        }
        for what, rows in self._changed.items():
            some = [self._names[row] for row in dict.fromkeys(rows)]
            for name in some:
                findings.note(f"{what} yields were {done[self._own.bad_yields]}", name)
        for row in np.flatnonzero(total == 0).tolist():
            findings.note("signals without events, for which CLs is 1", names[row])
        for channel in self._base.channels:
            held = self._channels[channel.name]
            for index, values in held.yields.items():
                for row in np.flatnonzero(values + channel.total[index] < 0).tolist():
                    findings.error(
                        "negative expected yield of a bin, summed over samples",
                        f"{self.table.place(row, f'{channel.name}[{index}]')}: "
                        f"{values[row] + channel.total[index]:g}",
                    )

    def _numbers_of_all(self) -> tuple[Template, FloatArray]:
        """Return the patch that all signals have, and its numbers, (signals, numbers)."""
        columns: list[FloatArray] = []
        count = len(self.table.lines)

        def number(values: FloatArray) -> int:
            columns.append(values)
            return 0

        nothing, poi = np.zeros(count), self._own.poi or self._poi()
        patch = []
        for at, channel in enumerate(self._workspace["channels"]):
            name = channel["name"]
            held = self._channels[name]
            if not held.yields:
                continue
            yields = [held.yields.get(index, nothing) for index in range(self._sizes[name])]
            sample: dict[str, Any] = {
                "name": self._sample_name(channel),
                "data": [number(values) for values in yields],
                "modifiers": [{"name": poi, "type": "normfactor", "data": None}],
            }
            modifiers = sample["modifiers"]
            if own := self._luminosity():
                modifiers.append(own)
                if own["type"] == "normsys":
                    size = np.full(count, float(self._own.lumi))
                    own["data"] = {"hi": number(1 + size), "lo": number(1 - size)}
            if held.stat:
                data = [number(held.stat.get(index, nothing)) for index in range(len(yields))]
                modifiers.append(
                    {"name": self._stat_name(channel), "type": "staterror", "data": data}
                )
            for systematic, (up, down) in held.norms.items():
                ends = {"hi": number(1 + up), "lo": number(1 + down)}
                modifiers.append({"name": systematic, "type": "normsys", "data": ends})
            for systematic, by_bin in held.shapes.items():
                none = _Ends(nothing, nothing)
                by = [by_bin.get(index, none) for index in range(len(yields))]
                shape = {
                    "hi_data": [
                        number(one * (1 + end.up)) for one, end in zip(yields, by, strict=True)
                    ],
                    "lo_data": [
                        number(one * (1 + end.down)) for one, end in zip(yields, by, strict=True)
                    ],
                }
                modifiers.append({"name": systematic, "type": "histosys", "data": shape})
            patch.append({"op": "add", "path": f"/channels/{at}/samples/-", "value": sample})
        return Template(patch), np.ascontiguousarray(np.stack(columns, axis=1), dtype="<f8")

    def _poi(self) -> str:
        measurements = self._workspace["measurements"]
        chosen = [one for one in measurements if self._own.measurement in (None, one["name"])]
        # That there is none of this name is said where the request is checked.
        poi: str = (chosen or measurements)[0]["config"]["poi"]
        return poi

    @staticmethod
    def _sample_name(channel: dict[str, Any]) -> str:
        taken = {sample["name"] for sample in channel["samples"]}
        name = _SAMPLE
        while name in taken:
            name += "_"
        return name

    def _luminosity(self) -> dict[str, Any] | None:
        """Return the modifier of the luminosity's uncertainty, if signals have one."""
        lumi = self._own.lumi
        if lumi == "none":
            return None
        if lumi != "auto":
            return {"name": "lumi_signal", "type": "normsys", "data": None}
        by_name = self._base.parameters.by_name()
        names = [name for name, parameter in by_name.items() if parameter.type == "lumi"]
        configured = {
            each["name"]
            for measurement in self._workspace["measurements"]
            for each in measurement["config"]["parameters"]
            if "sigmas" in each and each["name"] not in by_name and each["name"] == "lumi"
        }
        name = next(iter([*names, *configured]), None)
        return {"name": name, "type": "lumi", "data": None} if name else None

    def _stat_name(self, channel: dict[str, Any]) -> str:
        """Return the name of the staterror that the channel has, or else one of the signal's own.

        pyhf wants each sample of a staterror in the same channels, so that one of several channels
        is not shared.
        """
        where: dict[str, set[str]] = {}
        for each in self._workspace["channels"]:
            for sample in each["samples"]:
                for modifier in sample["modifiers"]:
                    if modifier["type"] == "staterror":
                        where.setdefault(modifier["name"], set()).add(each["name"])
        own = [name for name, channels in where.items() if channels == {channel["name"]}]
        return own[0] if own else f"staterror_{_SAMPLE}_{channel['name']}"


def _map(columns: str | Path | Mapping[str, str] | None) -> dict[str, str]:
    if columns is None or isinstance(columns, Mapping):
        return dict(columns or {})
    try:
        return msgspec.yaml.decode(read_regular(Path(columns)), type=dict[str, str])
    except OSError as error:
        raise InputError(
            f"there is no map of columns {str(columns)!r}", evidence=error.strerror or str(error)
        ) from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise InputError(
            f"{columns} is no map of columns",
            evidence=str(error),
            hint="give YAML or JSON with a line for each column: 'SR_1_yield: SR[0]'",
        ) from error


def _nearest(name: str, names: Any) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or list(names)[1:4]
    return f" (nearest: {', '.join(map(repr, near))})"


def _number(value: Any) -> float | None:
    try:
        return float(value) if value not in ("", None) else 0.0
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.15g}"
    return "" if value is None else str(value).strip()


def _listed(column: Any) -> list[float | str]:
    if not isinstance(column, np.ndarray):
        return list(column)
    return [int(value) if value.is_integer() else value for value in column.tolist()]


def _lumi(given: str | float) -> str | float:
    size = given if given in ("auto", "none") else _number(given)
    if size is None or (not isinstance(size, str) and not 0 < size < 1):
        raise RequestError(
            f"{given!r} is no uncertainty of the luminosity",
            hint="auto, none, or a relative one such as 0.017",
        )
    return size
