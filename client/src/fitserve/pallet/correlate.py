"""Find parameters of several pallets that may be one, and write the file of a combination."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fitserve.errors import InputError
from fitserve.pallet.combine import FAMILY, OF_BINS, Shared, conflicts, flow, in_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitserve.pallet.combine import Piece
    from fitserve.pallet.parameters import Parameter

__all__ = ["Alike", "alike", "starting_file"]

_PREFIXES = re.compile(r"^(?:alpha_|gamma_stat_|gamma_shape_|gamma_)+")
_LIKE = 0.85
_SAY = ": say which"
# Pairs of names that are compared letter by letter: some seconds.
_MOST_PAIRS = 100_000


class Alike(NamedTuple):
    """Parameters of several parts that may be one.

    Attributes
    ----------
    names
        Name of the parameter in each part that has it.
    types
        Types of their modifiers.
    sizes
        Numbers of their components.
    why
        ``"equal names"`` or ``"like names"``.
    by_pyhf
        What `pyhf.Workspace.combine` would do with them, unless they are renamed.
    fit
        Why they cannot be one, or nothing if they can.
    """

    names: dict[str, str]
    types: dict[str, str]
    sizes: dict[str, int]
    why: str
    by_pyhf: str
    fit: str

    @property
    def settled_by_file(self) -> bool:
        """Whether the file of the combination can say what keeps them from being one."""
        return self.fit.endswith(_SAY)


def alike(pieces: Mapping[str, Piece], measurements: Mapping[str, str | None]) -> list[Alike]:
    """Return the parameters with equal or like names: equal ones first.

    Names are like if they differ in case, separators and prefixes such as ``alpha_`` alone, or,
    with the same numbers in them, in a few letters.

    Parameters
    ----------
    pieces
        The parts by name.
    measurements
        Name of the measurement that counts in each; None is its first.
    """
    where: dict[str, list[str]] = {}
    for part, piece in pieces.items():
        for name in piece.parameters:
            where.setdefault(name, []).append(part)
    found = [
        _alike(dict.fromkeys(parts, name), pieces, measurements, "equal names")
        for name, parts in where.items()
        if len(parts) > 1
    ]
    parts = list(pieces)
    single = {
        part: [name for name in pieces[part].parameters if len(where[name]) == 1] for part in parts
    }
    for at, first in enumerate(parts):
        for second in parts[at + 1 :]:
            found += [
                _alike({first: one, second: other}, pieces, measurements, "like names")
                for one, other in _like(single[first], single[second])
            ]
    return found


def _alike(
    names: dict[str, str],
    pieces: Mapping[str, Piece],
    measurements: Mapping[str, str | None],
    why: str,
) -> Alike:
    own = {part: pieces[part].parameters[name] for part, name in names.items()}
    fit = _fit(names, own, pieces, measurements)
    return Alike(
        names,
        {part: parameter.type for part, parameter in own.items()},
        {part: parameter.size for part, parameter in own.items()},
        why,
        _by_pyhf(own, why),
        fit,
    )


def _by_pyhf(own: Mapping[str, Parameter], why: str) -> str:
    types = [parameter.type for parameter in own.values()]
    if why != "equal names":
        return f"{len(own)} parameters"
    if len({FAMILY.get(one, one) for one in types}) > 1 or "shapesys" in types:
        return "no model"
    if types[0] == "staterror":
        sizes = sum(parameter.size for parameter in own.values())
        return f"one with {sizes} components"
    return "one parameter"


def _fit(
    names: Mapping[str, str],
    own: Mapping[str, Parameter],
    pieces: Mapping[str, Piece],
    measurements: Mapping[str, str | None],
) -> str:
    """Return why parameters cannot be one as they are, or nothing."""
    types = {parameter.type for parameter in own.values()}
    if len({FAMILY.get(one, one) for one in types}) > 1:
        return "other types"
    if types & set(OF_BINS):
        return "of the bins of each part"
    if len({parameter.size for parameter in own.values()}) > 1:
        return "other numbers of components"
    try:
        differing = conflicts(
            Shared(dict(names), dict(own)), _configured(names, pieces, measurements)
        )
    except InputError as error:
        return f"other constraints: {error.evidence}"
    return f"other {', '.join(differing)}{_SAY}" if differing else ""


def _configured(
    names: Mapping[str, str], pieces: Mapping[str, Piece], measurements: Mapping[str, str | None]
) -> dict[str, dict[str, object]]:
    found = {}
    for part, name in names.items():
        outline = next(iter(pieces[part].outlines.values()))
        measurement = outline.measurement(measurements.get(part)) or {"config": {"parameters": []}}
        for one in measurement["config"]["parameters"]:
            if one["name"] == name:
                found[part] = one
    return found


def _bare(name: str) -> str:
    """Return a name without case, separators and prefixes.

    >>> _bare("alpha_JES_Scale-1"), _bare("gamma_stat_SR")
    ('jesscale1', 'sr')
    """
    return re.sub(r"[^a-z0-9]", "", _PREFIXES.sub("", name.casefold()))


def _like(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of like names, each name in one of them at most."""
    one, other = ({_bare(name): name for name in names} for names in (first, second))
    pairs = [(one[bare], other[bare]) for bare in one if bare and bare in other]
    left = [bare for bare in one if bare not in other]
    right = [bare for bare in other if bare not in one]
    if len(left) * len(right) > _MOST_PAIRS:
        return pairs
    numbers = {bare: re.findall(r"\d+", bare) for bare in (*left, *right)}
    ratios = []
    for there in right:
        # It prepares its second word once.
        matcher = difflib.SequenceMatcher(None, "", there)
        for here in left:
            if numbers[here] != numbers[there]:
                continue
            matcher.set_seq1(here)
            if matcher.real_quick_ratio() >= _LIKE and matcher.quick_ratio() >= _LIKE:
                ratios.append((matcher.ratio(), here, there))
    taken: set[tuple[int, str]] = set()
    for ratio, here, there in sorted(ratios, reverse=True):
        if ratio >= _LIKE and (0, here) not in taken and (1, there) not in taken:
            taken |= {(0, here), (1, there)}
            pairs.append((one[here], other[there]))
    return pairs


def starting_file(
    sources: Mapping[str, Mapping[str, Any]],
    pieces: Mapping[str, Piece],
    found: Sequence[Alike],
    folder: Path,
) -> str:
    """Return the file of a combination in which nothing but the luminosity is shared.

    What may be shared is in it as a comment.

    Parameters
    ----------
    sources
        What the file says of each part: ``pallet``, ``region`` and so on.
    pieces
        The loaded parts.
    found
        What `alike` returned of them.
    folder
        Where the file will be: relative paths are made relative to it.
    """
    lines = ["parts:"]
    for part, said in sources.items():
        lines.append(f"  {part}:")
        lines += [f"    {key}: {_yaml(_from(folder, value))}" for key, value in said.items()]
    measurements = {part: said.get("measurement") for part, said in sources.items()}
    pois = {}
    for part, piece in pieces.items():
        outline = next(iter(piece.outlines.values()))
        measurement = outline.measurement(measurements[part]) or outline.measurements[0]
        pois[part] = measurement["config"]["poi"]
    poi = next(iter(pois.values()))
    lines += ["measurement:", f"  poi: {_yaml(poi)}  # in the parts: {_yaml(pois)}"]
    shared = {poi: {part: one for part, one in pois.items() if one in pieces[part].parameters}}
    for each in found:
        if "lumi" in each.names.values() and each.why == "equal names":
            shared["lumi"] = each.names
    settings = [
        f"    {_yaml(name)}: {flow(first)}  # as in {next(iter(names))}, not in all parts"
        for name, names in shared.items()
        if (first := _first_of_differing(names, pieces, measurements))
    ]
    lines += ["  parameters:", *settings] if settings else []
    lines += ["parameters:", "  default: apart"]
    lines += ["  shared:", "    - lumi"] if "lumi" in shared else ["  shared: []"]
    lines += _proposed(found, {"lumi", *pois.values()})
    active = {part: piece.labels for part, piece in pieces.items() if piece.hypotheses}
    if len(active) > 1:
        by = "masses" if all(active.values()) else "names"
        lines += ["hypotheses:", f"  match: {by}"]
        if by == "masses":
            lines += ["  labels:  # in the order in which they belong together"]
            lines += [f"    {part}: {_yaml(list(labels))}" for part, labels in active.items()]
        lines += ["  without_partner: drop  # or keep, with the background of the other parts"]
    return "\n".join(lines) + "\n"


def _from(folder: Path, said: Any) -> Any:
    """Return a relative path that exists as it is from a folder; anything else as it is."""
    try:
        there = isinstance(said, str) and not Path(said).is_absolute() and Path(said).exists()
    except (OSError, ValueError):
        return said
    return os.path.relpath(Path(said).resolve(), folder) if there else said


def _proposed(found: Sequence[Alike], settled: set[str]) -> list[str]:
    """Return comments with what may be shared besides."""
    lines = []
    for each in found:
        names = sorted({*each.names.values()})
        if settled & {*names} or (each.fit and not each.settled_by_file):
            continue
        entry = _yaml(names[0] if len(names) == 1 else {names[0]: each.names})
        why = "; ".join(filter(None, (", ".join(dict.fromkeys(each.types.values())), each.fit)))
        lines.append(f"    # - {entry}  # {why}")
    return lines


def _first_of_differing(
    names: Mapping[str, str],
    pieces: Mapping[str, Piece],
    measurements: Mapping[str, str | None],
) -> dict[str, Any]:
    """Return what the first part sets for a parameter that others set differently."""
    own = {part: pieces[part].parameters[name] for part, name in names.items()}
    try:
        differing = conflicts(Shared(dict(names), own), _configured(names, pieces, measurements))
    except InputError:
        return {}
    return {key: next(iter(values.values())) for key, values in differing.items()}


def _yaml(value: Any) -> str:
    """Return a value as YAML in one line, without quotes where it has the same meaning.

    >>> _yaml({"1Lbb": ["JES_1", "1e3", "no"]})
    '{1Lbb: [JES_1, "1e3", "no"]}'
    """
    import yaml

    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml(key)}: {_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    bare = isinstance(value, str) and re.fullmatch(r"\w[\w./-]*", value, re.ASCII)
    # JSON's numbers are YAML's with a point only: 1e3 is text in YAML 1.1, and not in 1.2.
    if bare and yaml.safe_load(value) == value and not re.match(r"[\d.]+e", value):
        return str(value)
    return in_json(value)
