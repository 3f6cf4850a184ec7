"""The file of a combination: its structure, read with the line of everything in it.

Input is hostile: no aliases, which make gigabytes of a few lines, and bounds of size and depth.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast, get_args, get_origin

import msgspec

from fitserve.errors import InputError, RequestError
from fitserve.files import read_regular
from fitserve.pallet.edit import Edits, convert_edits, nearest
from fitserve.pallet.schema import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "Combination",
    "Matching",
    "Measurement",
    "Part",
    "Settings",
    "is_combination",
    "read_combination",
]

_Step = str | int

_LARGEST = 1024**2
_DEEPEST = 12
_MOST_PARTS = 32
# Patterns with wildcards: each is compared with every name.
_MOST_PATTERNS = 1000
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}")
_TAGS = ("int", "float", "bool", "null")
_PLACE = re.compile(r" - at `(?:key in )?\$(.*)`$")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A pallet, as any command takes it, and what is selected and renamed in it."""

    pallet: str
    region: str | None = None
    masses: str | None = None
    measurement: str | None = None
    edits: Edits = msgspec.field(default_factory=Edits)


class Settings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the measurement of the whole says of a parameter, as in pyhf."""

    inits: list[float] | None = None
    bounds: list[list[float]] | None = None
    auxdata: list[float] | None = None
    factors: list[float] | None = None
    sigmas: list[float] | None = None
    fixed: bool | None = None


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """The measurement of the whole: ``poi`` is the parameter of interest of all parts."""

    poi: str
    name: str = "combination"
    parameters: dict[str, Settings] = {}


class Correlation(msgspec.Struct, frozen=True, kw_only=True):
    """Which parameters are one: names or patterns, or ``{new: {part: old}}``."""

    default: Literal["apart", "shared"] | None = None
    shared: list[str | dict[str, dict[str, str]]] = []
    apart: list[str] = []


class Matching(msgspec.Struct, frozen=True, kw_only=True):
    """How hypotheses of the parts become one; ``labels`` are each part's, in the same order."""

    match: Literal["masses", "names"]
    labels: dict[str, list[str]] = {}
    without_partner: Literal["drop", "keep"] = "drop"


class Combination(msgspec.Struct, frozen=True, kw_only=True):
    """A combination as its file says."""

    parts: dict[str, dict[str, Any]]
    measurement: Measurement
    parameters: Correlation = Correlation()
    hypotheses: Matching | None = None
    name: str | None = None
    description: str | None = None
    pieces: dict[str, Part] = {}


# What a file may say; the last field of both is filled here.
_FIELDS = Combination.__struct_fields__[:-1]
_PART_FIELDS = (*Part.__struct_fields__[:-1], *Edits.__annotations__)


def is_combination(source: str | Path) -> bool:
    """Return whether a pallet is named that is a combination: a file of YAML."""
    text = str(source)
    return text.lower().endswith((".yaml", ".yml")) and "://" not in text


def read_combination(path: Path) -> Combination:
    """Read the file of a combination; relative paths in it are beside it.

    Raises
    ------
    InputError
        It cannot be read, or is not understood: with the line, and the nearest known name.
    """
    file = _File(path)
    content = file.content
    file.known(content, Combination, (), _FIELDS)
    # One by one, since errors do not say in which value of a mapping they are.
    measurement = content.get("measurement") if isinstance(content, dict) else None
    parameters = measurement.get("parameters") if isinstance(measurement, dict) else None
    for name, settings in parameters.items() if isinstance(parameters, dict) else ():
        file.convert(settings, Settings, ("measurement", "parameters", name))
    combination = cast("Combination", file.convert(content, Combination, ()))
    if not 2 <= len(combination.parts) <= _MOST_PARTS:  # noqa: PLR2004
        file.refuse(
            f"a combination has 2 to {_MOST_PARTS} parts", ("parts",), f"{len(combination.parts)}"
        )
    pieces = {}
    for name, given in combination.parts.items():
        where = ("parts", name)
        if not _PART.fullmatch(name):
            file.refuse(f"{shorten(name, 40)!r} is no name of a part", where, "letters and digits")
        file.known(given, Part, where, _PART_FIELDS)
        own = {key: value for key, value in given.items() if key in Part.__struct_fields__}
        part: Part = file.convert(own, Part, where)
        if is_combination(part.pallet):
            file.refuse(
                f"part {name} is a combination itself",
                (*where, "pallet"),
                part.pallet,
                "name its parts here, or write it as a pallet first: "
                f"fitserve pallets write {part.pallet} -o DIRECTORY",
            )
        try:
            edits = convert_edits(
                {key: given[key] for key in given if key in Edits.__annotations__}
            )
        except RequestError as error:
            file.refuse(f"part {name}: {error.cause}", where, error.evidence, error.hint)
        pieces[name] = msgspec.structs.replace(
            part,
            pallet=_beside(path, part.pallet),
            masses=part.masses and _beside(path, part.masses),
            edits=edits,
        )
    wild = [one for one in combination.parameters.apart if _is_pattern(one)]
    wild += [one for one in combination.parameters.shared if isinstance(one, str)]
    if len(list(filter(_is_pattern, wild))) > _MOST_PATTERNS:
        file.refuse(f"there are more than {_MOST_PATTERNS} patterns", ("parameters",), "")
    for name, settings in combination.measurement.parameters.items():
        numbers = msgspec.to_builtins(settings).values()
        if not all(map(_finite, numbers)):
            file.refuse("a number is not finite", ("measurement", "parameters", name), name)
    return msgspec.structs.replace(combination, pieces=pieces)


def _finite(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return value is None or math.isfinite(value)


def _is_pattern(name: str) -> bool:
    return any(one in name for one in "*?[")


def _beside(path: Path, given: str) -> str:
    """Return a path beside the file, if there is one of that name."""
    there = path.resolve().parent / given
    try:
        return str(there) if there.exists() else given
    except (OSError, ValueError):
        return given


class _File:
    """A file of YAML: its content, and the line of each value."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[tuple[_Step, ...], int] = {}
        self.content = self._read()

    def refuse(
        self, cause: str, where: tuple[_Step, ...], evidence: str, hint: str = ""
    ) -> NoReturn:
        """Raise an error with the line of a value."""
        place = where
        while place and place not in self._lines:
            place = place[:-1]
        line = f"line {self._lines[place]}" if place in self._lines else ""
        seen = ", ".join(filter(None, (line, ".".join(map(str, where)))))
        raise InputError(
            f"{self._path.name}: {cause}",
            evidence=": ".join(filter(None, (seen, evidence))),
            hint=hint or "see 'Combine two searches' in the documentation",
        )

    def known(
        self, content: Any, type_: Any, where: tuple[_Step, ...], names: Sequence[str] = ()
    ) -> None:
        """Refuse fields that a structure, or one in it, does not have."""
        types = [one for one in (type_, *get_args(type_)) if isinstance(one, type)]
        inner = next((one for one in types if issubclass(one, msgspec.Struct)), None)
        if inner is None or not isinstance(content, dict):
            return
        if get_origin(type_) is dict:
            for key, value in content.items():
                self.known(value, inner, (*where, key))
            return
        fields = {one.name: one.type for one in msgspec.structs.fields(inner)}
        for key, value in content.items():
            if key not in (names or fields):
                close = nearest(key, names or fields)
                self.refuse(
                    f"there is no field {shorten(key, 40)!r}",
                    (*where, key),
                    f"known are {', '.join(names or fields)}",
                    f"did you mean {close[0]}?",
                )
            if key in fields:
                self.known(value, fields[key], (*where, key))

    def convert(self, content: Any, type_: type[Any], where: tuple[_Step, ...]) -> Any:
        """Return content as a structure."""
        try:
            return msgspec.convert(content, type_)
        except msgspec.ValidationError as error:
            message = str(error)
            place = _PLACE.search(message)
            known = place.group(1).partition("[...]")[0] if place else ""
            found = re.findall(r"\.(\w+)|\[(\d+)\]", known)
            steps = [name or int(number) for name, number in found]
            self.refuse(_PLACE.sub("", message), (*where, *steps), "")

    def _read(self) -> Any:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            path = self._path.resolve()
            if path.is_file() and path.stat().st_size > _LARGEST:
                raise InputError(
                    f"{self._path.name} is too large for the file of a combination",
                    evidence=f"{path.stat().st_size} bytes, {_LARGEST} are allowed",
                )
            text = read_regular(path).decode("utf-8-sig")
            depth = 0
            for event in yaml.parse(text, Loader=loader):
                if isinstance(event, yaml.AliasEvent):
                    # A few of them make gigabytes.
                    self._at(event)
                    self.refuse("an alias (*name) is not allowed here", (), "")
                depth += isinstance(event, yaml.CollectionStartEvent)
                depth -= isinstance(event, yaml.CollectionEndEvent)
                if depth > _DEEPEST:
                    self._at(event)
                    self.refuse("it is nested too deeply", (), "")
            return self._plain(yaml.compose(text, Loader=loader), ())
        except OSError as error:
            raise InputError(
                f"{self._path} cannot be read",
                evidence=error.strerror or str(error),
                hint="fitserve pallets correlate PALLET PALLET -o combination.yaml writes one",
            ) from error
        except (yaml.YAMLError, UnicodeError, ValueError) as error:
            raise InputError(
                f"{self._path.name} is no YAML", evidence=shorten(" ".join(str(error).split()), 300)
            ) from error

    def _at(self, event: Any) -> None:
        self._lines[()] = event.start_mark.line + 1

    def _plain(self, node: Any, where: tuple[_Step, ...]) -> Any:
        """Return what a node of YAML means, and note its line."""
        import yaml

        if node is None:
            return {}
        self._lines[where] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            content: dict[str, Any] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    self.refuse("a key is no text", where, "")
                place = (*where, key.value)
                if key.value in content:
                    self._lines[place] = key.start_mark.line + 1
                    self.refuse("a key is there twice", place, "")
                content[key.value] = self._plain(value, place)
                self._lines[place] = key.start_mark.line + 1
            return content
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(one, (*where, at)) for at, one in enumerate(node.value)]
        if node.tag.rpartition(":")[2] in _TAGS:
            return yaml.constructor.SafeConstructor().construct_object(node)
        return node.value
