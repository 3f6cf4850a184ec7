"""Reading CLs back: from a run, from a results.json, or from a file of reference values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.errors import InputError
from fitserve_contract import MuPoint, Status, excess

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CLsEntry", "entries_of", "read_cls", "read_json"]


class CLsEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The part of one hypothesis' result that can be compared or drawn.

    Files of other programs have CLs only; what they do not have is None or empty.
    """

    CLs_obs: float | None = None
    CLs_exp: list[float | None] = []
    status: Status | None = None
    reason: str | None = None
    mass_hypotheses: tuple[float | str, ...] | None = None
    points: list[MuPoint] = []


def read_cls(source: Path) -> dict[str, CLsEntry]:
    """Read CLs by hypothesis name, in the order of the source.

    Parameters
    ----------
    source
        A run directory; a ``results.json``; the output of the original study's script (the
        same mapping with ``mass_hypotheses``, ``CLs_obs``, ``CLs_exp``, ``fit_time``); or a
        file with such a mapping under ``hypotheses``.

    Raises
    ------
    InputError
        It is none of these, or cannot be read.
    """
    if source.is_dir():
        from fitserve.runs.store import read_run

        run = read_run(source)
        return entries_of(msgspec.to_builtins(run.results), source)
    return entries_of(read_json(source), source)


def read_json(source: Path) -> Any:
    """Read a JSON file; the NaN and Infinity that Python writes become None.

    Raises
    ------
    InputError
        It cannot be read or is not JSON.
    """
    try:
        raw = source.read_bytes()
        if too_much := excess(raw):
            raise InputError("the file is too large", evidence=f"{source}: {too_much}")
        return json.loads(raw, parse_constant=lambda _: None)
    except OSError as error:
        raise InputError(
            "the file cannot be read", evidence=f"{source}: {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError("the file is not JSON", evidence=f"{source}: {error}") from error


def entries_of(content: Any, source: Path) -> dict[str, CLsEntry]:
    """Return the CLs in decoded JSON; ``source`` is for the error message.

    Raises
    ------
    InputError
        The content is not a mapping of hypothesis names to CLs.
    """
    if isinstance(content, dict) and isinstance(content.get("hypotheses"), dict):
        content = content["hypotheses"]
    try:
        entries = msgspec.convert(content, dict[str, CLsEntry])
    except msgspec.ValidationError as error:
        raise _not_results(source, str(error)) from error
    without = [name for name, value in content.items() if "CLs_obs" not in value]
    if without or not entries:
        evidence = f"no CLs_obs for {without[0]}" if without else "it is empty"
        raise _not_results(source, evidence)
    return entries


def _not_results(source: Path, evidence: str) -> InputError:
    return InputError(
        "the file does not hold results by hypothesis name",
        evidence=f"{source}: {evidence}",
        hint="give a run directory or a results.json (docs/results.md)",
    )
