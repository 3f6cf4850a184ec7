"""Decode JSON, validate it against pyhf's own schemas, and digest it as pyhf does.

`pyhf.schema.validate` interprets the schema in Python and needs seconds for a large
workspace. Here the same schema is compiled once per process by jsonschema-rs, from copies of
pyhf 0.7.6's files (Apache License 2.0): pyhf itself, which comes with SciPy, need not be where
nothing is fitted. What is accepted and refused is the same as with
``pyhf.schema.validate(..., allow_tensors=False)``, but for names that end in a line break,
which Python's ``$`` lets through. (With pyhf's default, ``allow_tensors=True``, ``true`` and
``false`` pass for numbers; a file has no tensors, and a yield of ``true`` is a defect.)
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from fitserve.errors import InputError
from fitserve_contract import excess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jsonschema_rs import Draft6Validator, ValidationError

__all__ = ["Kind", "decode_json", "locate", "pyhf_digest", "respelled", "shorten", "validate"]

Kind = Literal["workspace", "patchset", "jsonpatch", "sample"]

_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){2}")
_LONGEST = 160
# Bytes of JSON with so few values that the faults of all of them can be held in memory.
_LARGE = 128 * 1024
# Bytes of JSON that are looked at to find the first fault of something larger: some ten seconds.
_MOST = 2 * 1000**3
_SCHEMAS = Path(__file__).parents[1] / "data" / "schemas"
_FILE = "defs.json"
# `pyhf.schema.version`.
_DEFAULT = "1.0.0"
_decoder = msgspec.json.Decoder()
_BYTE = re.compile(r"\(byte (\d+)\)")
_NOT_FINITE = re.compile(rb"-?(?:nan|inf(?:inity)?)\b", re.IGNORECASE)


def decode_json(raw: bytes, where: str, *, besides: int = 0) -> Any:
    """Decode JSON text.

    Parameters
    ----------
    raw
        The text in UTF-8.
    where
        Name of the file, for the error.
    besides
        Bytes of memory that is kept for other files.

    Raises
    ------
    InputError
        It takes more memory than is allowed, or is not JSON: cut short, garbled, nested beyond
        reason, or with NaN, Infinity or a number too large for a double, which JSON does not
        have but some programs write.

    Examples
    --------
    >>> from fitserve.pallet.schema import decode_json
    >>> decode_json(b'{"data": [1.5]}', "BkgOnly.json")
    {'data': [1.5]}
    """
    if too_much := excess(raw, besides=besides):
        raise InputError(f"{where} is larger than any pallet's file", evidence=too_much)
    try:
        return _decoder.decode(raw)
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply to be a pallet's file") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise _undecoded(raw, where, str(error)) from error


def _undecoded(raw: bytes, where: str, message: str) -> InputError:
    if "out of range" in message:
        return InputError(
            f"{where} has a number that is too large for a yield or parameter", evidence=message
        )
    if "truncated" in message:
        return InputError(
            f"{where} is not complete JSON",
            evidence=f"it ends, after {len(raw)} bytes, inside a value"
            if raw
            else "the file is empty",
            hint="download or copy it again",
        )
    place = _BYTE.search(message)
    if place is None:
        return InputError(f"{where} is not JSON in UTF-8", evidence=message)
    position = int(place.group(1))
    line = raw.count(b"\n", 0, position) + 1
    # A minus sign or a letter of the literal may have been read before the parser gave up.
    start = max(position - 1, 0) if raw[max(position - 1, 0) : position] == b"-" else position
    if literal := _NOT_FINITE.match(raw, start):
        return InputError(
            f"{where} has the value {literal.group().decode()}, which is no yield and no JSON",
            evidence=f"line {line}, byte {position}",
            hint="find out why the program that wrote it had no number there",
        )
    excerpt = raw[max(position - 20, 0) : position + 20].decode("utf-8", "replace")
    return InputError(
        f"{where} is not JSON",
        evidence=f"{message.removeprefix('JSON is malformed: ')}, line {line}, near {excerpt!r}",
    )


def validate(content: Any, kind: Kind, where: str) -> None:
    """Validate decoded JSON against pyhf's schema of its kind.

    Parameters
    ----------
    content
        Decoded JSON. Lists of large content that violates it are cut.
    kind
        ``workspace`` and ``patchset`` are whole files, ``jsonpatch`` a list of operations,
        ``sample`` one sample of a channel.
    where
        Name of the file or patch, for the error.

    Raises
    ------
    InputError
        The content violates the schema of the version that it states. A version that pyhf does
        not know is a violation.
    """
    version = _version(content)
    validator = _compile(kind, version)
    try:
        # Nearly everything is valid: the fast check goes first, the one that explains follows.
        if validator.is_valid(content):
            return
        size = len(msgspec.json.encode(content))
        if size < _LARGE or _leave_one_fault(content, validator.is_valid, _MOST // size):
            path, message = _explain(next(iter(validator.iter_errors(content))), content, version)
        else:
            path, message = [], "it has too much in it to say where"
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is nested too deeply to be a pallet's file", evidence=shorten(str(error))
        ) from error
    raise InputError(
        f"{where} violates pyhf's schema of a {kind}",
        evidence=f"{locate(content, path)}: {shorten(message)}",
        hint="compare it with https://pyhf.readthedocs.io/en/stable/likelihood.html",
    )


def locate(content: Any, path: list[str | int]) -> str:
    """Return where ``path`` points, with the names that the file has for the numbers.

    Examples
    --------
    >>> from fitserve.pallet.schema import locate
    >>> workspace = {"channels": [{"name": "SR", "samples": [{"name": "ttbar", "data": []}]}]}
    >>> locate(workspace, ["channels", 0, "samples", 0, "data"])
    "/channels/0 'SR'/samples/0 'ttbar'/data"
    """
    text = ""
    for step in path:
        content = content[step]
        text += f"/{step}"
        if isinstance(step, int) and isinstance(content, dict):
            metadata = content.get("metadata")
            named = metadata if isinstance(metadata, dict) else content
            if isinstance(name := named.get("name"), str):
                text += f" {shorten(name, 60)!r}"
    return text or "at the top level"


def shorten(text: str, longest: int = _LONGEST) -> str:
    """Return ``text`` with its middle left out where it is longer than ``longest``."""
    return text if len(text) <= longest else f"{text[: longest - 20]} ... {text[-15:]}"


def _version(content: Any) -> str:
    """Return the version of the schema to use: the stated one, if pyhf has it."""
    stated = content.get("version") if isinstance(content, dict) else None
    # What is stated becomes part of a path: only a version number may.
    if not isinstance(stated, str) or not _VERSION.fullmatch(stated):
        return _DEFAULT
    return stated if (_SCHEMAS / stated / _FILE).is_file() else _DEFAULT


def _leave_one_fault(content: Any, is_valid: Callable[[Any], bool], tries: int) -> bool:
    """Cut lists so that in each one value at most violates the schema: the last that is left.

    Every fault takes a kilobyte and more to explain, and all are before the first is told.

    Returns
    -------
    bool
        Whether ``tries`` were enough for all lists.
    """
    left = [content]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list) and one:
            whole = one[:]
            tries -= (len(whole) - 1).bit_length()
            if tries < 0:
                return False

            def invalid(last: int, one: list[Any] = one, whole: list[Any] = whole) -> bool:
                one[:] = whole[: last + 1]
                return not is_valid(content)

            last = bisect_left(range(len(whole) - 1), x=True, key=invalid)
            one[:] = whole[: last + 1]
            left.append(one[-1])
    return True


def _explain(error: ValidationError, content: Any, version: str) -> tuple[list[str | int], str]:
    """Return path and message; for a modifier, those of the type that it claims to be.

    The schema's own message is that the modifier is none of seven things.
    """
    path = error.instance_path
    if path[-2:-1] == ["modifiers"]:
        for step in path:
            content = content[step]
        type_ = content.get("type") if isinstance(content, dict) else None
        if isinstance(type_, str) and type_ in _definitions(version)["definitions"]["modifier"]:
            for inner in _compile(f"modifier/{type_}", version).iter_errors(content):
                return [*path, *inner.instance_path], inner.message
    return path, error.message


@cache
def _definitions(version: str) -> dict[str, Any]:
    loaded: dict[str, Any] = msgspec.json.decode((_SCHEMAS / version / _FILE).read_bytes())
    return loaded


@cache
def _compile(definition: str, version: str) -> Draft6Validator:
    import jsonschema_rs

    definitions = _definitions(version)
    return jsonschema_rs.Draft6Validator(
        {"$ref": f"{definitions['$id']}#/definitions/{definition}"},
        registry=jsonschema_rs.Registry([(definitions["$id"], definitions)]),
    )


_Spelling = Literal["12.0", "12", "as it is"]
_YIELDS = ("data", "lo_data", "hi_data")


def pyhf_digest(content: Any, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of decoded JSON: of its text with sorted keys.

    Parameters
    ----------
    content
        Decoded JSON.
    algorithm
        One of those that pyhf's schema of a patchset allows: ``sha256`` or ``md5``.

    Examples
    --------
    >>> from fitserve.pallet.schema import pyhf_digest
    >>> pyhf_digest({"a": 2.0, "b": 3.0, "c": 1.0})
    'a38f6093800189b79bc22ef677baf90c75705af2cfc7ff594159eca54eaa7928'
    """
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.new(algorithm, text.encode("utf-8"), usedforsecurity=False).hexdigest()


def respelled(workspace: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the same workspace with its whole numbers written in other ways: 12.0, or 12.

    The digest tells them apart, and programs that read and write JSON change them. Yields and
    uncertainties are written in one way, all other numbers in one way.

    Examples
    --------
    >>> from fitserve.pallet.schema import respelled
    >>> [one["data"] for one in respelled({"data": [12, 0.5]})][:2]
    [[12.0, 0.5], [12.0, 0.5]]
    """
    spellings: tuple[_Spelling, ...] = ("12.0", "12", "as it is")
    for yields, others in product(spellings, repeat=2):
        if (yields, others) != ("as it is", "as it is"):
            yield _written(workspace, others, yields)


def _written(content: Any, spelling: _Spelling, of_yields: _Spelling) -> Any:
    if isinstance(content, dict):
        return {
            key: _written(value, of_yields if key in _YIELDS else spelling, of_yields)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [_written(value, spelling, of_yields) for value in content]
    if spelling == "12.0" and type(content) is int:
        return float(content)
    if spelling == "12" and type(content) is float and content.is_integer():
        return int(content)
    return content
