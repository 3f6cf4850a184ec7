"""A loaded site: its fields with the schema's defaults, and the line that each is on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sitekit.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Location", "Site"]


class Location(NamedTuple):
    """A line of a file, counted from 1."""

    file: str
    line: int


@dataclass(frozen=True)
class Site:
    """A site file after `extends` was followed and defaults were filled in.

    Attributes
    ----------
    name
        The file's name without ``.yaml``.
    fields
        All fields, defaults included.
    given
        The fields that the files give, without defaults.
    locations
        Where each given field is, by its dotted name.
    file
        The file itself, for what is missing in it.
    """

    name: str
    fields: Mapping[str, Any]
    given: Mapping[str, Any]
    locations: Mapping[str, Location] = field(repr=False)
    file: str

    def get(self, dotted: str) -> Any:
        """Return a field by its dotted name, or None if it is absent.

        Examples
        --------
        >>> site = Site("x", {"blocks": {"max": 2}}, {}, {}, "x.yaml")
        >>> site.get("blocks.max"), site.get("limits.nodes")
        (2, None)
        """
        value: Any = self.fields
        for part in dotted.split("."):
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        return value

    def where(self, dotted: str) -> Location:
        """Return the line of a field, or of the nearest enclosing one that is given."""
        parts = dotted.split(".")
        while parts:
            location = self.locations.get(".".join(parts))
            if location is not None:
                return location
            parts.pop()
        return Location(self.file, 1)

    def problem(
        self,
        dotted: str,
        expected: str,
        write: str = "",
        level: Literal["error", "warning"] = "error",
    ) -> Problem:
        """Return a problem of a field at its line."""
        location = self.where(dotted)
        return Problem(location.file, location.line, dotted, expected, write, level)

    def pinned(self, version: str) -> Site:
        """Return the site with ``{version}`` in the names of its images filled in."""

        def pin(value: Any, name: str) -> Any:
            if isinstance(value, dict):
                return {key: pin(below, key) for key, below in value.items()}
            if name == "image" and isinstance(value, str):
                return value.replace("{version}", version)
            return value

        return replace(self, fields=pin(dict(self.fields), ""))

    @property
    def digest(self) -> str:
        """SHA-256 of all fields: the same site gives the same digest, whatever its layout."""
        text = json.dumps(self.fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
