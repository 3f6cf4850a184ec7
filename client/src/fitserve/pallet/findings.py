"""What the checks of a pallet found, gathered so that the user sees one clear error."""

from __future__ import annotations

from typing import Any

from fitserve.errors import InputError

__all__ = ["Findings"]

_SHOWN = 3


class Findings:
    """Findings of three weights, each kind with the places where it was seen.

    *Errors* make the likelihood meaningless: nothing can go on. *Doubts* stop a pallet unless
    the user chooses to ignore them (``--force``); what was ignored is recorded with the
    results. *Notes* are seen in published data and are only told.
    """

    def __init__(self) -> None:
        self.errors: dict[str, list[str]] = {}
        self.doubts: dict[str, list[str]] = {}
        self.notes: dict[str, list[str]] = {}
        self._hints: dict[str, str] = {}

    def error(self, kind: str, where: str, hint: str = "") -> None:
        """Add an error: what is wrong in general, where and how exactly, and what helps."""
        self.errors.setdefault(kind, []).append(where)
        self._hints.setdefault(kind, hint)

    def doubt(self, kind: str, where: str) -> None:
        """Add a doubt."""
        self.doubts.setdefault(kind, []).append(where)

    def note(self, kind: str, where: str) -> None:
        """Add a note."""
        self.notes.setdefault(kind, []).append(where)

    def take(self, other: Findings, where: str = "") -> None:
        """Add all findings of another, with ``where`` before their places."""
        for kind, places in other.errors.items():
            for place in places:
                self.error(kind, f"{where}{place}", other._hints[kind])
        for add, found in ((self.doubt, other.doubts), (self.note, other.notes)):
            for kind, places in found.items():
                for place in places:
                    add(kind, f"{where}{place}")

    def conclude(self, what: str, *, force: bool) -> list[str]:
        """Raise if the findings forbid to go on, else return the doubts that were ignored.

        Parameters
        ----------
        what
            Name of the pallet, for the error.
        force
            Ignore doubts.

        Raises
        ------
        InputError
            There are errors, or doubts that are not to be ignored.
        """
        if self.errors:
            hint = self._hints[next(iter(self.errors))]
            raise _as_error(what, self.errors, hint=hint or "put the file right, or get it again")
        if self.doubts and not force:
            raise _as_error(
                what, self.doubts, hint="if you know why, go on with --force; it is recorded"
            )
        return told(self.doubts)


def told(findings: dict[str, list[str]]) -> list[str]:
    """Return one sentence for each kind of finding, with the first places.

    Examples
    --------
    >>> from fitserve.pallet.findings import told
    >>> told({"negative yields": ["patch 'a'", "patch 'b'"]})
    ["negative yields: patch 'a'; patch 'b'"]
    """
    return [f"{kind}: {_places(where)}" for kind, where in findings.items()]


def _as_error(what: str, findings: dict[str, list[str]], **details: Any) -> InputError:
    kind, *others = findings
    evidence = _places(findings[kind])
    if others:
        evidence += f"; also {'; '.join(told({other: findings[other] for other in others}))}"
    return InputError(f"{what}: {kind}", evidence=evidence, **details)


def _places(where: list[str]) -> str:
    shown = "; ".join(where[:_SHOWN])
    left = len(where) - _SHOWN
    return shown if left <= 0 else f"{shown}; and {left} more"
