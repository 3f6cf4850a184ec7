"""Apply a JSON Patch (RFC 6902) from outside in bounded memory and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from fitserve_contract.memory import excess

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_COPIED_BYTES", "MAX_OPERATIONS", "PatchError", "apply_patch"]

MAX_OPERATIONS = 100_000
"""No patch may have more operations than this."""

MAX_COPIED_BYTES = 8 * 1024**2
"""The ``copy`` operations of a patch may add no more JSON than this, all together."""

_LONGEST = 80


class PatchError(ValueError):
    """A patch does not apply, or makes a workspace larger than is allowed."""


def apply_patch(workspace: Any, patch: Sequence[dict[str, Any]]) -> Any:
    """Return the patched workspace; the given one is changed.

    Raises
    ------
    PatchError
        An operation does not apply, there are more than `MAX_OPERATIONS`, or what they copy
        is more than `MAX_COPIED_BYTES`.

    Examples
    --------
    >>> from fitserve_contract import apply_patch
    >>> apply_patch({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}])
    {'a': [1], 'b': [1]}
    """
    if len(patch) > MAX_OPERATIONS:
        raise PatchError(f"it has {len(patch)} operations, {MAX_OPERATIONS} are allowed")
    left = MAX_COPIED_BYTES
    for number, operation in enumerate(patch):
        try:
            if operation["op"] == "copy":
                copied = _copied(workspace, operation["from"], left)
                left -= len(copied)
                changed = {**operation, "op": "add", "value": msgspec.json.decode(copied)}
            else:
                changed = operation
            workspace = _apply(workspace, changed)
        # Includes what jsonpatch raises where an operation meets a value of another type.
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            what = f"{operation.get('op')} {str(operation.get('path'))[:_LONGEST]}"
            raise PatchError(f"operation {number} ({what}): {error}") from error
    return workspace


def _apply(workspace: Any, operation: dict[str, Any]) -> Any:
    import jsonpatch

    try:
        return jsonpatch.apply_patch(workspace, [operation], in_place=True)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise PatchError(str(error)) from error


def _copied(workspace: Any, pointer: str, left: int) -> bytes:
    """Return the value to be copied as JSON, if it has no more than ``left`` bytes."""
    import jsonpointer

    try:
        value = jsonpointer.resolve_pointer(workspace, pointer)
    except jsonpointer.JsonPointerException as error:
        raise PatchError(str(error)) from error
    copied = msgspec.json.encode(value)
    if len(copied) > left or excess(copied):
        raise PatchError(f"the patch copies more than {MAX_COPIED_BYTES} bytes of JSON")
    return copied
