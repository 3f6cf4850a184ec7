"""A loaded site: its fields with the schema's defaults, and the line that each is on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from sitekit.fields import Fields, Kubernetes
from sitekit.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Location", "Origin", "Site"]


class Location(NamedTuple):
    """A line of a file, counted from 1."""

    file: str
    line: int


@dataclass(frozen=True)
class Origin:
    """Where the fields of a site are from.

    Attributes
    ----------
    file
        The site file itself, for what is missing in it.
    given
        The fields that it and what it extends give, without defaults.
    locations
        Where each given field is, by its dotted name.
    """

    file: str
    given: Mapping[str, Any]
    locations: Mapping[str, Location]

    def where(self, dotted: str) -> Location:
        """Return the line of a field, or of the nearest enclosing one that is given.

        Examples
        --------
        >>> origin = Origin("x.yaml", {}, {"blocks": Location("x.yaml", 7)})
        >>> origin.where("blocks.max").line, origin.where("node.cores").line
        (7, 1)
        """
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


class Site(Fields, frozen=True, kw_only=True):
    """A site file after `extends` was followed and defaults were filled in.

    Attributes
    ----------
    name
        The file's name without ``.yaml``.
    origin
        Where its fields are from.
    """

    name: str
    origin: Origin

    @classmethod
    def of(cls, name: str, filled: Mapping[str, Any], origin: Origin) -> Site:
        """Return the site of fields that fit the schema, whose defaults are filled in."""
        fields = msgspec.convert(filled, Fields)
        return cls(name=name, origin=origin, **msgspec.structs.asdict(fields))

    def problem(
        self,
        dotted: str,
        expected: str,
        write: str = "",
        level: Literal["error", "warning"] = "error",
    ) -> Problem:
        """Return a problem of a field at its line."""
        return self.origin.problem(dotted, expected, write, level)

    @property
    def nodes_max(self) -> int:
        """Most nodes that a block can have, by the site's own choice or its users'."""
        bounds = self.user_options.nodes_per_block
        return max(self.blocks.nodes, bounds.maximum if bounds else 1)

    @property
    def pods(self) -> Kubernetes:
        """How pods run; the rules require it of a Kubernetes site."""
        if self.kubernetes is None:
            raise TypeError(f"site {self.name} has no pods")
        return self.kubernetes

    def pinned(self, version: str) -> Site:
        """Return the site with ``{version}`` in the names of its images filled in."""
        replace = msgspec.structs.replace

        def pin(image: str) -> str:
            return image.replace("{version}", version)

        changes: dict[str, Any] = {}
        box, pods = self.environment.container, self.kubernetes
        if box is not None and box.image is not None:
            changes["environment"] = replace(
                self.environment, container=replace(box, image=pin(box.image))
            )
        if pods is not None:
            own = replace(pods.endpoint_pod, image=pin(pods.endpoint_pod.image))
            changes["kubernetes"] = replace(pods, image=pin(pods.image), endpoint_pod=own)
        return replace(self, **changes)

    @property
    def digest(self) -> str:
        """SHA-256 of all fields: the same site gives the same digest, whatever its layout."""
        values = {name: getattr(self, name) for name in Fields.__struct_fields__}
        fields = {name: value for name, value in values.items() if value is not None}
        text = json.dumps(msgspec.to_builtins(fields), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
