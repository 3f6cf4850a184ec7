"""What a release's revisions are, and which of them can serve again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from sitekit.cluster.tools import ask, run

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["History", "Revision"]


class Revision(NamedTuple):
    """A revision, as Helm keeps it.

    Attributes
    ----------
    manifest
        The objects that the chart rendered to.
    values
        What was given to the chart.
    """

    number: int
    manifest: str
    values: dict[str, Any]

    @property
    def enabled(self) -> bool:
        """Whether it has an endpoint."""
        return bool(self._endpoint.get("enabled", True))

    @property
    def endpoint_id(self) -> str | None:
        """Id under which its endpoint is registered, if the revision itself knows it."""
        known: str | None = self._endpoint.get("id")
        return known

    def keeps_endpoint_of(self, other: Revision) -> bool:
        """Return whether users of the other's endpoint would find the same one."""
        if not other.enabled:
            return True
        if not self.enabled:
            return False
        # On a volume, the endpoint's state knows the id, whatever the values say.
        on_volume = self.on_volume and other.on_volume
        known = {self.endpoint_id, other.endpoint_id} - {None}
        return len(known) <= 1 and (on_volume or self.endpoint_id is not None)

    @property
    def on_volume(self) -> bool:
        """Whether the endpoint's state is on a volume, which outlives its pod."""
        return bool((self._endpoint.get("state") or {}).get("size"))

    @property
    def _endpoint(self) -> dict[str, Any]:
        found: dict[str, Any] = self.values.get("endpoint") or {}
        return found


class History:
    """The revisions of a release.

    Parameters
    ----------
    name, namespace
        Of the release.
    """

    def __init__(self, name: str, namespace: str) -> None:
        self._name = name
        self._here = ("--namespace", namespace)

    def rows(self) -> list[dict[str, Any]]:
        """Return what Helm lists, the oldest first; empty where nothing is installed."""
        text = ask("helm", "history", self._name, *self._here, "--output", "json")
        found: list[dict[str, Any]] = json.loads(text) if text else []
        return found

    def serving(self) -> Revision | None:
        """Return the revision that serves, or None."""
        numbers = self._numbers("deployed")
        return self._read(numbers[-1]) if numbers else None

    def before(self, serving: Revision) -> Revision | None:
        """Return the last revision that served and is something else, with the same endpoint."""
        for found in self._superseded():
            if found.manifest != serving.manifest and found.keeps_endpoint_of(serving):
                return found
        return None

    def _superseded(self) -> Iterator[Revision]:
        for number in reversed(self._numbers("superseded")):
            yield self._read(number)

    def _numbers(self, status: str) -> list[int]:
        return [int(one["revision"]) for one in self.rows() if one["status"] == status]

    def _read(self, number: int) -> Revision:
        asked = (self._name, *self._here, "--revision", str(number))
        values = json.loads(run("helm", "get", "values", *asked, "--output", "json")) or {}
        return Revision(number, run("helm", "get", "manifest", *asked).strip(), values)
