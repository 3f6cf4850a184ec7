"""Combine pallets into one likelihood, as a file says.

Nothing is correlated by accident: what has the same name in two parts is shared or kept apart as
the file says, or is an error. The workspaces are renamed and joined by the rules of
`pyhf.Workspace.rename` and `pyhf.Workspace.combine` (pyhf 0.7.6), and the parts' patches with them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import msgspec

from fitserve.errors import InputError, RequestError
from fitserve.pallet.combination import Settings
from fitserve.pallet.edit import Change, Rewriter, bounded, difference, listed, nearest
from fitserve.pallet.schema import shorten
from fitserve_contract import Hypothesis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitserve.pallet.combination import Combination, Correlation, Matching, Measurement, Part
    from fitserve.pallet.parameters import Outline, Parameter

__all__ = [
    "FAMILY",
    "OF_BINS",
    "Piece",
    "Shared",
    "Whole",
    "combine",
    "conflicts",
    "flow",
    "in_json",
]

FAMILY = {"normsys": "normsys or histosys", "histosys": "normsys or histosys"}
"""What modifiers of a type can share a parameter with, where it is more than their own type."""

OF_BINS = ("staterror", "shapesys")
"""Types whose parameters belong to the bins of one part."""

_CONSTRAINT = ("auxdata", "sigmas", "factors")


class Piece(NamedTuple):
    """A part that was loaded; ``parameters`` are those of any hypothesis."""

    workspace: dict[str, Any]
    hypotheses: Sequence[Hypothesis]
    labels: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    outlines: Mapping[str, Outline]


class Whole(NamedTuple):
    """The parts as one."""

    workspace: dict[str, Any]
    hypotheses: tuple[Hypothesis, ...]
    labels: tuple[str, ...]
    notes: list[str]


class Shared(NamedTuple):
    """A parameter of the whole: its name in each part that has it."""

    olds: dict[str, str]
    parameters: dict[str, Parameter]


def combine(combination: Combination, pieces: Mapping[str, Piece]) -> Whole:
    """Combine loaded parts.

    Raises
    ------
    InputError
        The parts do not fit each other as the file says.
    RequestError
        The file names a measurement, parameter or hypothesis that a part does not have.
    """
    notes: list[str] = []
    versions = {name: piece.workspace["version"] for name, piece in pieces.items()}
    if len(set(versions.values())) > 1:
        raise InputError(
            "workspaces of different versions cannot be combined", evidence=_by_part(versions)
        )
    finals = _parameters(combination, pieces)
    channels = _channels(pieces, notes)
    rewriters: dict[str, Rewriter] = {}
    offset = 0
    for name, piece in pieces.items():
        renamed = {
            old: final
            for final, one in finals.items()
            if (old := one.olds.get(name)) is not None and old != final
        }
        change = Change(rename_channels=channels[name], rename_modifiers=renamed)
        rewriters[name] = Rewriter(piece.workspace, change, offset)
        offset += len(piece.workspace["channels"])
    spaces = {name: rewriter.after for name, rewriter in rewriters.items()}
    workspace = _joined(combination, spaces, finals)
    matches, labels = _matches(combination, pieces, notes)
    hypotheses = []
    taken = 0
    for name, values, each in matches:
        if all(rewriters[part].only_adds(one.patch) for part, one in each.items()):
            patch = [
                operation
                for part, one in each.items()
                for operation in rewriters[part].additions(one.patch)
            ]
        else:
            patched = {part: rewriters[part].patched(one.patch) for part, one in each.items()}
            patch = difference(workspace, _joined(combination, spaces | patched, finals))
            taken = bounded(patch, taken)
        hypotheses.append(Hypothesis(name=name, values=values, patch=patch))
    poi = combination.measurement.poi
    if hypotheses and poi not in finals:
        raise RequestError(
            f"no part has the parameter of interest {poi!r}",
            evidence=f"there are {listed(nearest(poi, finals))}",
            hint="say another poi in the measurement of the combination",
        )
    return Whole(workspace, tuple(hypotheses), labels, notes)


def _by_part(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{value} in {name}" for name, value in values.items())


def _known_part(part: str, pieces: Mapping[str, Any], where: str) -> None:
    if part not in pieces:
        raise RequestError(
            f"there is no part {part!r}, which {where} names",
            evidence=f"there are {', '.join(pieces)}",
            hint=f"did you mean {nearest(part, pieces)[0]}?",
        )


def _measured(part: Part, outline: Outline, name: str) -> dict[str, Any]:
    """Return the measurement of a part that counts."""
    found = outline.measurement(part.measurement)
    if found is None:
        known = [one["name"] for one in outline.measurements]
        raise RequestError(
            f"part {name} has no measurement {part.measurement!r}",
            evidence=f"it has {listed(known)}",
            hint=f"did you mean {nearest(part.measurement or '', known)[0]}?",
        )
    return found


def _parameters(combination: Combination, pieces: Mapping[str, Piece]) -> dict[str, Shared]:
    """Return the parameters of the whole."""
    new, shared = _stated(combination, pieces)
    where: dict[str, list[str]] = {}
    for part, piece in pieces.items():
        for name in piece.parameters:
            where.setdefault(name, []).append(part)
    several = {name: parts for name, parts in where.items() if len(parts) > 1}
    verdicts = _verdicts(combination.parameters, several, where)
    undecided = []
    for name, parts in several.items():
        left = [part for part in parts if name not in new[part]]
        if len(left) <= 1:
            continue
        verdict = verdicts.get(name, combination.parameters.default)
        if verdict is None:
            undecided.append(name)
        elif verdict == "shared":
            shared.add(name)
        for part in left:
            new[part][name] = f"{part}_{name}" if verdict == "apart" else name
    if undecided:
        _undecided(undecided, where)
    finals = _gathered(pieces, new, shared)
    _agree(finals)
    return finals


def _verdicts(
    stated: Correlation, several: Mapping[str, list[str]], where: Mapping[str, list[str]]
) -> dict[str, Literal["apart", "shared"]]:
    """Return what the file says of names of several parts; a name counts more than a pattern."""
    shared = _ranked([one for one in stated.shared if isinstance(one, str)], several, where)
    apart = _ranked(stated.apart, several, where)
    for name in shared.keys() & apart.keys():
        if shared[name] == apart[name]:
            raise InputError(
                f"parameter {name!r} is said to be shared and to be kept apart",
                evidence="it matches an entry of both lists",
                hint="take it out of one; a name counts more than a pattern",
            )
    return {
        name: "shared" if shared.get(name, 0) > apart.get(name, 0) else "apart"
        for name in shared | apart
    }


def _gathered(
    pieces: Mapping[str, Piece], new: Mapping[str, Mapping[str, str]], shared: set[str]
) -> dict[str, Shared]:
    """Return the parameters by their names in the whole."""
    finals: dict[str, Shared] = {}
    for part, piece in pieces.items():
        for name, parameter in piece.parameters.items():
            final = new[part].get(name, name)
            one = finals.setdefault(final, Shared({}, {}))
            if part in one.olds or (one.olds and final not in shared):
                other, old = next(iter(one.olds.items()))
                raise InputError(
                    "two parameters would become one that are not said to be shared",
                    evidence=f"{old!r} of {other} and {name!r} of {part}, both as {final!r}",
                    hint="rename one of them in its part: rename: {modifiers: {OLD: NEW}}",
                )
            one.olds[part] = name
            one.parameters[part] = parameter
    return finals


def _stated(
    combination: Combination, pieces: Mapping[str, Piece]
) -> tuple[dict[str, dict[str, str]], set[str]]:
    """Return the new names that the file states one by one, and which of them are shared."""
    new: dict[str, dict[str, str]] = {part: {} for part in pieces}
    poi = combination.measurement.poi
    shared = {poi}
    for entry in combination.parameters.shared:
        for name, olds in entry.items() if isinstance(entry, dict) else ():
            shared.add(name)
            for part, old in olds.items():
                _known_part(part, pieces, f"parameters.shared {name!r}")
                known = pieces[part].parameters
                if old not in known:
                    raise RequestError(
                        f"part {part} has no parameter {old!r}",
                        evidence=f"it has {len(known)}, among them {listed(nearest(old, known))}",
                        hint=f"put it right in parameters.shared {name!r}",
                    )
                if old in new[part]:
                    raise InputError(
                        f"parameter {old!r} of {part} is shared twice",
                        evidence=f"as {new[part][old]!r} and as {name!r}",
                    )
                new[part][old] = name
    for part, piece in pieces.items():
        stated = {
            _measured(combination.pieces[part], outline, part)["config"]["poi"]
            for outline in piece.outlines.values()
        }
        own = sorted(stated.intersection(piece.parameters))
        if len(own) > 1:
            raise InputError(
                f"the hypotheses of part {part} have different parameters of interest",
                evidence=", ".join(own),
                hint="combine those with the same one: write the others as another pallet",
            )
        for name in own:
            if name not in combination.parameters.apart:
                new[part].setdefault(name, poi)
    return new, shared


def _ranked(
    entries: Sequence[str], several: Mapping[str, list[str]], where: Mapping[str, list[str]]
) -> dict[str, int]:
    """Return how much each name is meant: 2 by itself, 1 by a pattern."""
    ranks: dict[str, int] = {}
    for entry in entries:
        if entry in several:
            ranks[entry] = 2
            continue
        matches = [name for name in several if fnmatchcase(name, entry)]
        if not matches:
            alone = [name for name in where if fnmatchcase(name, entry)]
            seen = f"{listed(alone, 3)} is in one part only" if alone else "no part has it"
            near = listed(nearest(entry, several)) if several else "none"
            raise RequestError(
                f"no parameter that several parts have matches {shorten(entry, 60)!r}",
                evidence=f"{seen}; in several parts are {len(several)}, among them {near}",
                hint="parameters of different names are shared by {NEW: {PART: OLD, PART: OLD}}",
            )
        for name in matches:
            ranks.setdefault(name, 1)
    return ranks


def _undecided(names: list[str], where: Mapping[str, list[str]]) -> NoReturn:
    """Raise the error that lists parameters of which the file says nothing."""
    seen = listed([f"{name} ({', '.join(where[name])})" for name in names])
    lines = msgspec.json.encode(names).decode().replace('","', '", "')
    raise InputError(
        "parameters have the same name in several parts, and the file does not say whether they "
        "are shared",
        evidence=f"{len(names)}: {seen}",
        hint="add these lines to the file, with each name in the list where it belongs, or "
        f"'default: apart'\nparameters:\n  shared: []\n  apart: {lines}",
    )


def _agree(finals: Mapping[str, Shared]) -> None:
    """Refuse shared parameters that cannot be one."""
    for final, one in finals.items():
        types = {part: parameter.type for part, parameter in one.parameters.items()}
        lone = final != "lumi" and "lumi" in types.values()
        if lone:
            raise InputError(
                "luminosities cannot be kept apart or renamed",
                evidence=f"pyhf has one modifier 'lumi' in a model; this would be {final!r}",
                hint="share it, 'shared: [lumi]', or drop it from all parts but one: "
                "'drop_modifiers: [lumi]'",
            )
        if len(types) == 1:
            continue
        seen = "; ".join(f"{old!r} of {part} is a {types[part]}" for part, old in one.olds.items())
        kinds = {FAMILY.get(type_, type_) for type_ in types.values()}
        if len(kinds) > 1:
            raise InputError(
                f"parameters of types that cannot be one are shared as {final!r}",
                evidence=seen,
                hint="keep them apart",
            )
        if kinds & set(OF_BINS):
            raise InputError(
                f"uncertainties of bins are shared as {final!r}, which have nothing in common",
                evidence=seen,
                hint=f"keep them apart: 'apart: [{final}]'",
            )
        sizes = {part: parameter.size for part, parameter in one.parameters.items()}
        if len(set(sizes.values())) > 1:
            raise InputError(
                f"parameters of different numbers of components are shared as {final!r}",
                evidence=_by_part(sizes),
                hint="keep them apart",
            )


def _channels(pieces: Mapping[str, Piece], notes: list[str]) -> dict[str, dict[str, str]]:
    """Return new names of channels: a name of two parts gets that of the part before it."""
    own = {
        part: {
            one["name"] for one in (*piece.workspace["channels"], *piece.workspace["observations"])
        }
        for part, piece in pieces.items()
    }
    renamed: dict[str, dict[str, str]] = {}
    for part, names in own.items():
        others = set().union(*(own[other] for other in own if other != part))
        renamed[part] = {name: f"{part}_{name}" for name in sorted(names & others)}
        if taken := set(renamed[part].values()) & (names | others):
            raise InputError(
                "channels of two parts have the same name, and so has another one",
                evidence=f"{min(taken)!r} is there already",
                hint="rename them in the part: rename: {channels: {OLD: NEW}}",
            )
    for part, new in renamed.items():
        if new:
            notes.append(
                f"channels of part {part} are renamed, since another part has the same: "
                + listed([f"{old} to {name}" for old, name in new.items()])
            )
    return renamed


def _joined(
    combination: Combination, spaces: Mapping[str, dict[str, Any]], finals: Mapping[str, Shared]
) -> dict[str, Any]:
    """Return renamed workspaces as one."""
    measured = {}
    for name, space in spaces.items():
        wanted = combination.pieces[name].measurement
        measured[name] = next(one for one in space["measurements"] if wanted in (None, one["name"]))
    return {
        "channels": [one for space in spaces.values() for one in space["channels"]],
        "measurements": [_measurement(combination.measurement, measured, finals)],
        "observations": [one for space in spaces.values() for one in space["observations"]],
        "version": next(iter(spaces.values()))["version"],
    }


def _measurement(
    whole: Measurement,
    measured: Mapping[str, dict[str, Any]],
    finals: Mapping[str, Shared],
) -> dict[str, Any]:
    """Return the measurement of the whole: what those of the parts configure, if they agree."""
    configured: dict[str, dict[str, dict[str, Any]]] = {}
    for part, measurement in measured.items():
        for one in measurement["config"]["parameters"]:
            if one["name"] in finals and part in finals[one["name"]].olds:
                configured.setdefault(one["name"], {})[part] = one
    for name in whole.parameters:
        if name not in finals:
            raise RequestError(
                f"the combination has no parameter {name!r}, which measurement.parameters names",
                evidence=f"it has {len(finals)}, among them {listed(nearest(name, finals))}",
                hint="give the name that it has in the combination",
            )
        configured.setdefault(name, {})
    parameters = []
    unsettled: dict[str, dict[str, dict[str, Any]]] = {}
    # What no part configures has pyhf's own settings in all of them.
    for name, given in configured.items():
        stated = msgspec.to_builtins(whole.parameters.get(name, Settings()))
        differing = conflicts(finals[name], given)
        if left := {key: each for key, each in differing.items() if key not in stated}:
            unsettled[name] = left
        merged: dict[str, Any] = {}
        for one in reversed(given.values()):
            merged |= one
        parameters.append(merged | stated | {"name": name})
    if unsettled:
        _unsettled(unsettled)
    return {"name": whole.name, "config": {"parameters": parameters, "poi": whole.poi}}


def _unsettled(unsettled: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> NoReturn:
    """Raise the error that lists settings in which the parts differ."""
    lines = [
        f"    {name}: {flow({key: next(iter(each.values())) for key, each in settings.items()})}"
        for name, settings in unsettled.items()
    ]
    raise InputError(
        "shared parameters have other settings in each part",
        evidence="; ".join(
            f"{key} of {name}: {_by_part(each)}"
            for name, settings in list(unsettled.items())[:3]
            for key, each in settings.items()
        ),
        hint="say in the file which are meant, such as\nmeasurement:\n  parameters:\n"
        + "\n".join(lines),
    )


def flow(settings: Mapping[str, Any]) -> str:
    """Return settings as YAML in one line."""
    return "{" + ", ".join(f"{key}: {in_json(value)}" for key, value in settings.items()) + "}"


def in_json(value: Any) -> str:
    """Return a value as JSON, which is YAML too."""
    return msgspec.json.encode(value).decode()


def conflicts(shared: Shared, given: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what is set differently in the parts, pyhf's own settings included.

    Raises
    ------
    InputError
        That is the constraint: the parts did not measure the same.
    """
    each: dict[str, dict[str, Any]] = {}
    for part, parameter in shared.parameters.items():
        config = given.get(part, {})
        settings = parameter.settings(config)
        values: dict[str, Any] = {
            "inits": [*settings.inits],
            "bounds": [[*pair] for pair in settings.bounds],
            "fixed": settings.fixed,
        }
        if FAMILY.get(parameter.type):
            values["auxdata"] = [0.0]
        values |= {key: config[key] for key in _CONSTRAINT if key in config}
        for key, value in values.items():
            each.setdefault(key, {})[part] = value
    differing = {
        key: values
        for key, values in each.items()
        if any(value != next(iter(values.values())) for value in values.values())
    }
    for key in _CONSTRAINT:
        if key in differing:
            old, name = next(iter(shared.olds.items()))
            raise InputError(
                f"parameter {name!r} of {old} is shared, but not its {key}",
                evidence=_by_part(differing[key]),
                hint="the parts did not measure the same: keep it apart, or rename it in one",
            )
    return differing


_Match = tuple[str, tuple[float | str, ...], dict[str, Hypothesis]]


def _matches(
    combination: Combination, pieces: Mapping[str, Piece], notes: list[str]
) -> tuple[list[_Match], tuple[str, ...]]:
    """Return name, mass values and the parts' hypotheses of each that the whole has."""
    active = {}
    for part, piece in pieces.items():
        if len(piece.hypotheses) == 1 and not piece.hypotheses[0].patch:
            notes.append(f"part {part} has its own signal, which is in every hypothesis")
        elif piece.hypotheses:
            active[part] = piece
        else:
            notes.append(f"part {part} has no signal")
    if not active:
        complete = any(piece.hypotheses for piece in pieces.values())
        return [(combination.measurement.name, (), {})] if complete else [], ()
    if len(active) == 1:
        ((part, piece),) = active.items()
        return [(one.name, one.values, {part: one}) for one in piece.hypotheses], piece.labels
    matching = combination.hypotheses
    labels = {part: piece.labels for part, piece in active.items()}
    if matching is None:
        raise InputError(
            "the file does not say which hypotheses of the parts belong together",
            evidence="; ".join(
                f"{len(piece.hypotheses)} in {part}" for part, piece in active.items()
            ),
            hint=f"add these lines to the file\n{_matching_lines(labels)}",
        )
    if matching.match == "masses":
        found, order = _by_masses(matching, active)
    else:
        found, order = _by_names(active)
    for part, keys in found.items():
        if len(keys) < len(active[part].hypotheses):
            raise InputError(
                f"hypotheses of part {part} cannot be told apart by their {matching.match}",
                evidence=f"{len(active[part].hypotheses)} have {len(keys)} {matching.match}",
                hint="match them by names, by other labels, or select a region",
            )
    return _partners(matching, found, notes), order


def _matching_lines(labels: Mapping[str, tuple[str, ...]]) -> str:
    lines = ["hypotheses:", "  match: masses", "  labels:"]
    return "\n".join([*lines, *(f"    {part}: {in_json(each)}" for part, each in labels.items())])


_Keyed = dict[str, dict[Any, tuple[tuple[float | str, ...], Hypothesis]]]


def _by_masses(matching: Matching, active: Mapping[str, Piece]) -> tuple[_Keyed, tuple[str, ...]]:
    """Return the hypotheses by their mass values, in the same order for all parts."""
    labels = {part: piece.labels for part, piece in active.items()}
    for part, wanted in matching.labels.items():
        _known_part(part, active, "hypotheses.labels")
        for label in wanted:
            if label not in active[part].labels:
                raise RequestError(
                    f"part {part} has no mass value {label!r}",
                    evidence=f"it has {', '.join(active[part].labels) or 'none'}",
                    hint=f"did you mean {nearest(label, active[part].labels or [''])[0]}?",
                )
        labels[part] = tuple(wanted)
    order = next(iter(labels.values()))
    unlike = {part: each for part, each in labels.items() if part not in matching.labels}
    if any(set(each) != set(order) for each in unlike.values()) or not order:
        raise InputError(
            "the mass values of the parts have different names",
            evidence="; ".join(
                f"{', '.join(each) or 'none'} in {part}" for part, each in labels.items()
            ),
            hint="say which belong together, in the same order for each part, such as\n"
            + _matching_lines({part: piece.labels for part, piece in active.items()}),
        )
    if len({len(each) for each in labels.values()}) > 1:
        raise InputError(
            "the parts have different numbers of mass values to match by",
            evidence=_by_part({part: ", ".join(each) for part, each in labels.items()}),
            hint="give as many labels for each part in hypotheses.labels",
        )
    found: _Keyed = {}
    for part, piece in active.items():
        # Of the same names, those of the first part have the order.
        own = labels[part] if part in matching.labels else order
        places = [piece.labels.index(label) for label in own]
        found[part] = {
            values: (values, one)
            for one in piece.hypotheses
            for values in [tuple(one.values[place] for place in places)]
        }
    return found, order


def _by_names(active: Mapping[str, Piece]) -> tuple[_Keyed, tuple[str, ...]]:
    """Return the hypotheses by their names; mass values only if the parts have the same."""
    order = next(iter(active.values())).labels
    same = all(piece.labels == order for piece in active.values())
    found = {
        part: {one.name: (one.values if same else (), one) for one in piece.hypotheses}
        for part, piece in active.items()
    }
    return found, order if same else ()


def _partners(matching: Matching, found: _Keyed, notes: list[str]) -> list[_Match]:
    keys = dict.fromkeys(key for each in found.values() for key in each)
    matches: list[_Match] = []
    alone: dict[str, list[str]] = {}
    for key in keys:
        each = {part: there[key] for part, there in found.items() if key in there}
        if len(each) < len(found):
            for part, (_, one) in each.items():
                alone.setdefault(part, []).append(one.name)
            if matching.without_partner == "drop":
                continue
        names = dict.fromkeys(one.name for _, one in each.values())
        values = next(iter(each.values()))[0]
        matches.append(("__".join(names), values, {part: one for part, (_, one) in each.items()}))
    if not matches:
        first = {part: next(iter(each)) for part, each in found.items()}
        raise InputError(
            f"no hypothesis has a partner in all parts by {matching.match}",
            evidence=f"such as {_by_part({part: in_json(key) for part, key in first.items()})}",
            hint="compare them with fitserve pallets check PALLET --hypotheses; hypotheses.match "
            "and hypotheses.labels say what belongs together",
        )
    done = "left out" if matching.without_partner == "drop" else "kept with the background there"
    notes.extend(
        f"hypotheses without a partner in all parts are {done}: {len(names)} of {part}, "
        f"among them {listed(names, 3)}"
        for part, names in alone.items()
    )
    return matches
