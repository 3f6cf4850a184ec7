"""Decode JSON that came from outside."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from fitserve.contract import excess
from fitserve.errors import InputError

__all__ = ["as_utf8", "decode_json"]

_decoder = msgspec.json.Decoder()
_BYTE = re.compile(r"\(byte (\d+)\)")
_NOT_FINITE = re.compile(rb"-?(?:nan|inf(?:inity)?)\b", re.IGNORECASE)


def as_utf8(raw: bytes) -> bytes:
    """Return JSON text in UTF-8 without a byte order mark, whichever encoding it is in.

    What cannot be decoded is returned as it is.

    Examples
    --------
    >>> from fitserve.pallet.jsonfiles import as_utf8
    >>> as_utf8('{"channels": []}'.encode("utf-16"))
    b'{"channels": []}'
    """
    encoding = json.detect_encoding(raw)
    if encoding == "utf-8":
        return raw
    try:
        return raw.decode(encoding).encode()
    except UnicodeError:
        return raw


def decode_json(raw: bytes, where: str) -> Any:
    """Decode JSON text.

    Parameters
    ----------
    raw
        The text in UTF-8.
    where
        Name of the file, for the error.

    Raises
    ------
    InputError
        It takes more memory than is allowed, or is not JSON: cut short, garbled, nested beyond
        reason, or with NaN, Infinity or a number too large for a double, which JSON does not
        have but some programs write.

    Examples
    --------
    >>> from fitserve.pallet.jsonfiles import decode_json
    >>> decode_json(b'{"data": [1.5]}', "BkgOnly.json")
    {'data': [1.5]}
    """
    if too_much := excess(raw):
        raise InputError(f"{where} is larger than any pallet's file", evidence=too_much)
    try:
        return _decoder.decode(raw)
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply to be a pallet's file") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise _explain(raw, where, str(error)) from error


def _explain(raw: bytes, where: str, message: str) -> InputError:
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
    found = _BYTE.search(message)
    if found is None:
        return InputError(f"{where} is not JSON in UTF-8", evidence=message)
    position = int(found.group(1))
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
