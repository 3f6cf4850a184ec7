"""Select, drop and rename what a workspace is made of, and rewrite its patches to fit.

The rules are those of `pyhf.Workspace.prune` and `pyhf.Workspace.rename` (pyhf 0.7.6), on plain
JSON: pyhf itself need not be where nothing is fitted, copies and validates every step, and knows
nothing of patches. Numbers are never copied: an edited workspace has the lists of the first one.
"""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import msgspec

from fitserve.errors import InputError, RequestError
from fitserve.pallet.patches import ADDED_SAMPLE, adds_sample
from fitserve.pallet.schema import shorten
from fitserve_contract import Hypothesis, apply_patch, decoded_bytes, excess

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "Change",
    "Edits",
    "Names",
    "Renames",
    "Rewriter",
    "bounded",
    "chosen",
    "convert_edits",
    "difference",
    "listed",
    "names_of",
    "nearest",
]

_LISTED = 12
# Names that are compared one by one, to find the nearest: more take seconds.
_COMPARED = 20_000


class Renames(TypedDict, total=False):
    """New names by the old ones."""

    channels: dict[str, str]
    samples: dict[str, str]
    modifiers: dict[str, str]
    measurements: dict[str, str]


class Edits(TypedDict, total=False):
    """What to select, drop and rename in a pallet: shell-style patterns of names.

    ``channels`` are those that are kept, ``drop_modifier_types`` the types of pyhf
    (``"histosys"``); ``rename`` has new names by the old ones, of each kind:
    ``{"modifiers": {"alpha_JES": "JES"}}``.
    """

    channels: list[str]
    drop_channels: list[str]
    drop_samples: list[str]
    drop_modifiers: list[str]
    drop_modifier_types: list[str]
    drop_measurements: list[str]
    rename: Renames


_KINDS = ("channels", "samples", "modifiers", "measurements")


class Names(NamedTuple):
    """What a pallet is made of, its patches too; ``types`` are those of its modifiers."""

    channels: list[str]
    samples: list[str]
    modifiers: list[str]
    measurements: list[str]
    types: list[str]


def listed(names: Collection[str], most: int = _LISTED) -> str:
    """Return names in one line, the first ones of many.

    Examples
    --------
    >>> from fitserve.pallet.edit import listed
    >>> listed(["SR", "CR", "VR"], most=2)
    'SR, CR and 1 more'
    """
    shown = ", ".join(shorten(name, 60) for name in list(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return the names that may have been meant, the nearest first, or else the first ones."""
    known = list(names)
    by_case: dict[str, str] = {}
    for one in known[:_COMPARED]:
        by_case.setdefault(one.casefold(), one)
    close = difflib.get_close_matches(name.casefold(), by_case, n=3, cutoff=0.5)
    return [by_case[one] for one in close] or known[:3]


def chosen(patterns: Iterable[str], names: Sequence[str], what: str) -> list[str]:
    """Return the names that match any of the patterns; a name is a pattern of itself.

    Raises
    ------
    RequestError
        A pattern matches nothing.
    """
    known = set(names)
    found: set[str] = set()
    for pattern in patterns:
        matches = [pattern] if pattern in known else [n for n in names if fnmatchcase(n, pattern)]
        if not matches:
            raise RequestError(
                f"no {what} of the pallet matches '{shorten(pattern, 60)}'",
                evidence=_known(pattern, names) if names else f"it has no {what}",
                hint=f"give the name of a {what}, or a pattern of names",
            )
        found.update(matches)
    return [name for name in names if name in found]


def _known(name: str, names: Sequence[str]) -> str:
    if len(names) <= _LISTED:
        return f"there are {listed(names)}"
    return f"there are {len(names)}, among them {listed(nearest(name, names))}"


def convert_edits(edits: Mapping[str, Any]) -> Edits:
    """Return edits whose types are checked.

    Raises
    ------
    RequestError
        There is no such edit, or its value is of another type.

    Examples
    --------
    >>> from fitserve.pallet.edit import convert_edits
    >>> convert_edits({"channels": ("SR*",), "drop_samples": ()})
    {'channels': ['SR*']}
    """
    given = {name: value for name, value in edits.items() if value is not None}
    renames = given.get("rename")
    for known, stated in (
        (list(Edits.__annotations__), given),
        (list(_KINDS), renames if isinstance(renames, dict) else {}),
    ):
        for name in stated:
            if name not in known:
                close = nearest(str(name), known)
                raise RequestError(
                    f"a pallet cannot be edited by '{shorten(str(name), 60)}'",
                    evidence=f"there are {', '.join(known)}",
                    hint=f"did you mean {close[0]}?",
                )
    try:
        converted = msgspec.convert(given, Edits)
    except msgspec.ValidationError as error:
        raise RequestError(
            "the edits of a pallet are not understood",
            evidence=str(error),
            hint='lists of patterns, such as channels=["SR*"]',
        ) from error
    return {name: value for name, value in converted.items() if value}  # type: ignore[return-value]


class Change(NamedTuple):
    """What is dropped and renamed, by name."""

    channels: frozenset[str] = frozenset()
    samples: frozenset[str] = frozenset()
    modifiers: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    measurements: frozenset[str] = frozenset()
    rename_channels: Mapping[str, str] = {}
    rename_samples: Mapping[str, str] = {}
    rename_modifiers: Mapping[str, str] = {}
    rename_measurements: Mapping[str, str] = {}

    @classmethod
    def of(cls, edits: Edits, names: Names) -> Change:
        """Return the change that edits make of a pallet with these names.

        Raises
        ------
        RequestError
            A pattern or a name matches nothing, nothing is left, or a new name is taken.

        Examples
        --------
        >>> from fitserve.pallet.edit import Change, Names
        >>> names = Names(["SR", "CR"], ["top"], ["JES"], ["main"], ["normsys"])
        >>> Change.of({"channels": ["S*"], "rename": {"modifiers": {"JES": "JET"}}}, names)[0]
        frozenset({'CR'})
        """
        channels = set(chosen(edits.get("drop_channels", ()), names.channels, "channel"))
        if kept := edits.get("channels"):
            channels |= set(names.channels) - set(chosen(kept, names.channels, "channel"))
        dropped = {
            "channels": channels,
            "samples": set(chosen(edits.get("drop_samples", ()), names.samples, "sample")),
            "modifiers": set(chosen(edits.get("drop_modifiers", ()), names.modifiers, "modifier")),
            "measurements": set(
                chosen(edits.get("drop_measurements", ()), names.measurements, "measurement")
            ),
        }
        types = chosen(edits.get("drop_modifier_types", ()), names.types, "modifier type")
        renames: dict[str, dict[str, str]] = {}
        for kind in _KINDS:
            left = [name for name in getattr(names, kind) if name not in dropped[kind]]
            if not left and kind in ("channels", "measurements"):
                raise RequestError(
                    f"no {kind[:-1]} of the pallet is left",
                    evidence=f"dropped: {listed(sorted(dropped[kind]))}",
                    hint="drop fewer",
                )
            given: dict[str, str] = edits.get("rename", {}).get(kind, {})  # type: ignore[assignment]
            renames[kind] = _checked_renames(given, left, kind[:-1])
        return cls(
            channels=frozenset(dropped["channels"]),
            samples=frozenset(dropped["samples"]),
            modifiers=frozenset(dropped["modifiers"]),
            types=frozenset(types),
            measurements=frozenset(dropped["measurements"]),
            rename_channels=renames["channels"],
            rename_samples=renames["samples"],
            rename_modifiers=renames["modifiers"],
            rename_measurements=renames["measurements"],
        )

    @property
    def told(self) -> list[str]:
        """What was done, in one sentence for each kind."""
        dropped = (
            ("channels", self.channels),
            ("samples", self.samples),
            ("modifiers", self.modifiers),
            ("modifiers of type", self.types),
            ("measurements", self.measurements),
        )
        renamed = (
            ("channels", self.rename_channels),
            ("samples", self.rename_samples),
            ("modifiers", self.rename_modifiers),
            ("measurements", self.rename_measurements),
        )
        return [
            f"left out of the pallet: {what} {listed(sorted(names))}"
            for what, names in dropped
            if names
        ] + [
            f"renamed in the pallet: {what} "
            + listed([f"{old} to {new}" for old, new in sorted(names.items())])
            for what, names in renamed
            if names
        ]

    def sample(self, sample: dict[str, Any]) -> dict[str, Any] | None:
        """Return a sample as it is afterwards; None if it is dropped."""
        if sample["name"] in self.samples:
            return None
        name = self.rename_samples.get(sample["name"], sample["name"])
        if not (self.modifiers or self.types or self.rename_modifiers):
            return sample if name == sample["name"] else {**sample, "name": name}
        modifiers = [
            {**one, "name": self.rename_modifiers.get(one["name"], one["name"])}
            for one in sample["modifiers"]
            if one["name"] not in self.modifiers and one["type"] not in self.types
        ]
        return {"name": name, "data": sample["data"], "modifiers": modifiers}

    def measurement(self, measurement: dict[str, Any]) -> dict[str, Any]:
        """Return a measurement as it is afterwards."""
        renamed, config = self.rename_modifiers, measurement["config"]
        return {
            "name": self.rename_measurements.get(measurement["name"], measurement["name"]),
            "config": {
                "parameters": [
                    {**one, "name": renamed.get(one["name"], one["name"])}
                    for one in config["parameters"]
                    if one["name"] not in self.modifiers
                ],
                "poi": renamed.get(config["poi"], config["poi"]),
            },
        }

    def workspace(self, workspace: dict[str, Any]) -> dict[str, Any]:
        """Return a workspace as it is afterwards; the given one stays as it is."""

        def named(one: dict[str, Any]) -> str:
            name: str = one["name"]
            return self.rename_channels.get(name, name)

        return {
            "channels": [
                {
                    "name": named(channel),
                    "samples": [
                        kept
                        for sample in channel["samples"]
                        if (kept := self.sample(sample)) is not None
                    ],
                }
                for channel in workspace["channels"]
                if channel["name"] not in self.channels
            ],
            "measurements": [
                self.measurement(one)
                for one in workspace["measurements"]
                if one["name"] not in self.measurements
            ],
            "observations": [
                {**one, "name": named(one)}
                for one in workspace["observations"]
                if one["name"] not in self.channels
            ],
            "version": workspace["version"],
        }


def _checked_renames(given: dict[str, str], left: list[str], what: str) -> dict[str, str]:
    names = set(left)
    for old, new in given.items():
        if old not in names:
            raise RequestError(
                f"there is no {what} '{shorten(old, 60)}' in the pallet to rename",
                evidence=_known(old, left),
                hint=f"give the name of a {what} that is not dropped",
            )
        if new in names and new not in given:
            raise RequestError(
                f"a {what} '{shorten(new, 60)}' is in the pallet already",
                evidence=f"'{shorten(old, 60)}' would become one with it",
                hint=f"choose another name; if they are to be one, rename both to a new name: "
                f"{old} and {new}",
            )
    if what in ("channel", "measurement") and len(set(given.values())) < len(given):
        raise RequestError(
            f"two {what}s get the same name", evidence=listed([*given.values()]), hint="choose two"
        )
    return {old: new for old, new in given.items() if old != new}


def names_of(workspace: dict[str, Any], hypotheses: Iterable[Hypothesis]) -> Names:
    """Return the names of all that a workspace and its hypotheses are made of."""
    names = Names([], [], [], [], [])
    # A dict keeps the order, and knows what it has.
    seen: tuple[dict[str, None], ...] = tuple({} for _ in names)
    _see(workspace, seen)
    packed = b""
    for hypothesis in hypotheses:
        if all(map(adds_sample, hypothesis.patch)):
            for operation in hypothesis.patch:
                _see_sample(operation["value"], seen)
        else:
            packed = packed or msgspec.json.encode(workspace)
            _see(apply_patch(msgspec.json.decode(packed), hypothesis.patch), seen)
    return Names(*map(list, seen))


def _see(workspace: dict[str, Any], seen: tuple[dict[str, None], ...]) -> None:
    channels, _, _, measurements, _ = seen
    for channel in workspace["channels"]:
        channels[channel["name"]] = None
        for sample in channel["samples"]:
            _see_sample(sample, seen)
    for measurement in workspace["measurements"]:
        measurements[measurement["name"]] = None


def _see_sample(sample: dict[str, Any], seen: tuple[dict[str, None], ...]) -> None:
    _, samples, modifiers, _, types = seen
    samples[sample["name"]] = None
    for modifier in sample["modifiers"]:
        modifiers[modifier["name"]] = None
        types[modifier["type"]] = None


class Rewriter:
    """A workspace before and after a change, and what becomes of its patches.

    Parameters
    ----------
    workspace
        The workspace that the patches are for.
    change
        What is done to it.
    offset
        Number of channels before its own, where it becomes a part of another one.
    """

    def __init__(self, workspace: dict[str, Any], change: Change, offset: int = 0) -> None:
        self.change = change
        self.after = change.workspace(workspace)
        self._before = workspace
        self._packed = b""
        kept = [channel["name"] not in change.channels for channel in workspace["channels"]]
        self._places = [offset + sum(kept[:at]) if one else None for at, one in enumerate(kept)]

    def only_adds(self, patch: Sequence[dict[str, Any]]) -> bool:
        """Whether a patch does nothing but add samples."""
        return all(map(adds_sample, patch))

    def additions(self, patch: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the operations of a patch that only adds samples, as they are afterwards."""
        kept: dict[int, list[bool]] = {}
        for operation in patch:
            match = ADDED_SAMPLE.fullmatch(operation["path"])
            channel, position = match.groups() if match else ("", "")
            number = int(channel)
            if number not in kept:
                samples = self._before["channels"][number]["samples"]
                kept[number] = [one["name"] not in self.change.samples for one in samples]
            here = kept[number]
            at = len(here) if position == "-" else int(position)
            sample = self.change.sample(operation["value"])
            place = self._places[number]
            if sample is not None and place is not None:
                where = position if position == "-" else sum(here[:at])
                path = f"/channels/{place}/samples/{where}"
                yield {"op": "add", "path": path, "value": sample}
            here.insert(at, sample is not None)

    def patched(self, patch: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the changed workspace with any patch in it."""
        if not patch:
            return self.after
        self._packed = self._packed or msgspec.json.encode(self._before)
        # Decoding is a tenfold faster copy than copy.deepcopy.
        return self.change.workspace(apply_patch(msgspec.json.decode(self._packed), patch))

    def hypotheses(self, hypotheses: Iterable[Hypothesis]) -> Iterator[Hypothesis]:
        """Yield the hypotheses with patches that fit the workspace as it is afterwards.

        Raises
        ------
        InputError
            They take more memory than is allowed.
        """
        taken = 0
        for one in hypotheses:
            if self.only_adds(one.patch):
                patch = list(self.additions(one.patch))
            else:
                patch = difference(self.after, self.patched(one.patch))
                taken = bounded(patch, taken)
            yield Hypothesis(name=one.name, values=one.values, patch=patch)


def bounded(patch: list[dict[str, Any]], taken: int) -> int:
    """Return how much memory a patch takes that was made here, and ``taken`` by those before it.

    Raises
    ------
    InputError
        That is more than is allowed: a ``copy`` of a few bytes may have made megabytes.
    """
    raw = msgspec.json.encode(patch)
    if too_much := excess(raw, besides=taken):
        raise InputError(
            "the patches become too large where the pallet is edited or combined",
            evidence=too_much,
            hint="give fewer of them, or edit the pallet without its patchset",
        )
    return taken + decoded_bytes(raw)


def difference(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a patch that makes one workspace of another: of whole samples, not of numbers.

    Examples
    --------
    >>> from fitserve.pallet.edit import difference
    >>> sample = {"name": "top", "data": [1.0], "modifiers": []}
    >>> signal = sample | {"name": "signal"}
    >>> def workspace(*samples):
    ...     return {"channels": [{"name": "SR", "samples": list(samples)}],
    ...             "observations": [], "measurements": [], "version": "1.0.0"}
    >>> [one["path"] for one in difference(workspace(sample), workspace(sample, signal))]
    ['/channels/0/samples/1']
    """
    patch: list[dict[str, Any]] = []
    for key in ("channels", "observations"):
        patch += _of_named(before[key], after[key], f"/{key}")
    patch += [
        {"op": "replace", "path": f"/{key}", "value": after[key]}
        for key in ("measurements", "version")
        if before[key] != after[key]
    ]
    return patch


def _of_named(
    before: list[dict[str, Any]], after: list[dict[str, Any]], path: str
) -> Iterator[dict[str, Any]]:
    """Yield what makes one list of named things of another."""
    names = [one["name"] for one in after]
    there = set(names)
    current = [one for one in before if one["name"] in there]
    known = {one["name"] for one in current}
    order = [name for name in names if name in known]
    if len(there) < len(names) or [one["name"] for one in current] != order:
        yield {"op": "replace", "path": path, "value": after}
        return
    for at in reversed(range(len(before))):
        if before[at]["name"] not in there:
            yield {"op": "remove", "path": f"{path}/{at}"}
    left = {one["name"]: one for one in current}
    for at, one in enumerate(after):
        old = left.get(one["name"])
        if old is None:
            yield {"op": "add", "path": f"{path}/{at}", "value": one}
        elif "samples" in one:
            yield from _of_named(old["samples"], one["samples"], f"{path}/{at}/samples")
        elif old != one:
            yield {"op": "replace", "path": f"{path}/{at}", "value": one}
