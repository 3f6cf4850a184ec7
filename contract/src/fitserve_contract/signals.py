"""Signals that differ in their numbers alone: one template and an array, not a patch for each.

Thousands of signals for one analysis have the same samples and modifiers. Their JSON Patch is then
a *template*, in which every number is zero, and a row of the numbers in its order.
"""

from __future__ import annotations

import hashlib
import math
import sys
from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import Any, overload

import msgspec

from fitserve_contract.patching import MAX_OPERATIONS

__all__ = ["SIGNALS_VERSION", "SignalPatch", "Signals", "Template"]

SIGNALS_VERSION = 1
"""The version of `Signals`; a change that an older worker would misread raises it."""

_BYTES = 8
_canonical = msgspec.json.Encoder(order="sorted")


class Template:
    """A JSON Patch (RFC 6902) in which every number is zero.

    Parameters
    ----------
    patch
        A patch; its numbers do not matter.

    Attributes
    ----------
    operations
        The patch with zeros.
    count
        How many numbers it has.

    Raises
    ------
    ValueError
        It has more operations than a patch may have.

    Examples
    --------
    >>> from fitserve_contract import Template
    >>> template = Template([{"op": "add", "path": "/a", "value": {"data": [3.0, 1.5]}}])
    >>> template.operations, template.count
    ([{'op': 'add', 'path': '/a', 'value': {'data': [0, 0]}}], 2)
    """

    def __init__(self, patch: Sequence[dict[str, Any]]) -> None:
        if len(patch) > MAX_OPERATIONS:
            raise ValueError(f"it has {len(patch)} operations, {MAX_OPERATIONS} are allowed")
        self.count = 0
        self.operations: list[dict[str, Any]] = [self._zeroed(one) for one in patch]

    def _zeroed(self, value: Any) -> Any:
        match value:
            case dict():
                return {key: self._zeroed(one) for key, one in value.items()}
            case list():
                return [self._zeroed(one) for one in value]
            case bool():
                return value
            case int() | float():
                self.count += 1
                return 0
        return value

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the operations, 64 hexadecimal digits."""
        return hashlib.sha256(_canonical.encode(self.operations)).hexdigest()

    def filled(self, numbers: Sequence[float]) -> list[dict[str, Any]]:
        """Return the patch with its numbers.

        Parameters
        ----------
        numbers
            As many as `count`, in the order in which the template has them.
        """
        left = iter(numbers)

        def put(value: Any) -> Any:
            match value:
                case dict():
                    return {key: put(one) for key, one in value.items()}
                case list():
                    return [put(one) for one in value]
                case bool():
                    return value
                case int():
                    return next(left)
            return value

        return [put(one) for one in self.operations]


class SignalPatch(Sequence[dict[str, Any]]):
    """A JSON Patch as a template and its numbers; operations are made when they are looked at.

    Parameters
    ----------
    template
        The template, which other signals share.
    numbers
        Its numbers, float64 in little-endian order.

    Raises
    ------
    ValueError
        There are more or fewer numbers than in the template.
    """

    __slots__ = ("numbers", "template")

    def __init__(self, template: Template, numbers: bytes) -> None:
        if len(numbers) != _BYTES * template.count:
            raise ValueError(f"{len(numbers)} bytes are not {template.count} numbers")
        self.template = template
        self.numbers = numbers

    @property
    def operations(self) -> list[dict[str, Any]]:
        """The patch."""
        return self.template.filled(_floats(self.numbers))

    @property
    def content(self) -> list[str]:
        """Digests of template and numbers, which stand for the patch in keys."""
        return [self.template.digest, hashlib.sha256(self.numbers).hexdigest()]

    def __len__(self) -> int:
        return len(self.template.operations)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self.operations[index]

    def __iter__(self) -> Any:
        return iter(self.operations)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SignalPatch):
            return NotImplemented
        return (
            self.numbers == other.numbers and self.template.operations == other.template.operations
        )

    def __hash__(self) -> int:
        return hash(self.numbers)

    def __repr__(self) -> str:
        return f"<patch of {len(self)} operations and {self.template.count} numbers>"


class Signals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hypotheses with one template, as they go over the wire.

    ``numbers`` are float64 in little-endian order, of shape (hypotheses, numbers of the template).
    """

    names: list[str]
    values: list[tuple[float | str, ...]]
    template: list[dict[str, Any]]
    numbers: bytes
    version: int = SIGNALS_VERSION

    def patches(self) -> list[SignalPatch]:
        """Return the patch of each hypothesis.

        Raises
        ------
        ValueError
            The version is another one, the array does not have the shape that it should, or a
            number is not finite.
        """
        if self.version != SIGNALS_VERSION:
            raise ValueError(
                f"signals are of version {self.version}, this side knows {SIGNALS_VERSION}"
            )
        template = Template(self.template)
        if template.operations != self.template:
            raise ValueError("the template of signals has numbers that are not zero")
        row = _BYTES * template.count
        if len(self.values) != len(self.names) or len(self.numbers) != row * len(self.names):
            raise ValueError(
                f"{len(self.numbers)} bytes and {len(self.values)} mass values are not those of "
                f"{len(self.names)} signals with {template.count} numbers"
            )
        if not all(map(math.isfinite, _floats(self.numbers))):
            raise ValueError("signals have numbers that are not finite")
        return [
            SignalPatch(template, self.numbers[row * index : row * (index + 1)])
            for index in range(len(self.names))
        ]


def _floats(numbers: bytes) -> array[float]:
    made = array("d", numbers)
    if sys.byteorder == "big":
        made.byteswap()
    return made
