"""What the doctor examines, and its findings: cause, evidence and the line to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fitserve.errors import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sitekit.render import Rendering
    from sitekit.site import Origin, Site

__all__ = ["Patient", "as_json", "failed", "good", "report", "skipped", "warned"]


@dataclass(frozen=True)
class Patient:
    """What is examined, and how.

    Attributes
    ----------
    site
        The site.
    rendering
        What its files are rendered for, and so the home of the endpoint's user.
    hosts
        Hosts and ports of the cloud service that must be reachable; none for a site that is only
        used directly.
    messages
        Host and port of its message broker, which must be reachable without a proxy.
    submit
        Whether a job is submitted.
    job_seconds
        How long to wait for that job.
    """

    site: Site
    rendering: Rendering
    hosts: Sequence[tuple[str, int]] = ()
    messages: tuple[str, int] | None = None
    submit: bool = True
    job_seconds: float = 600.0

    @property
    def timeout(self) -> int:
        """Seconds that Parsl gives a command of the scheduler."""
        return int(self.site.scheduler.cmd_timeout)


def good(what: str, cause: str, evidence: str = "") -> Check:
    """Return a check that passed."""
    return Check(what, "ok", cause, evidence)


def failed(
    what: str, cause: str, *, evidence: str = "", field: str = "", change: str = ""
) -> Check:
    """Return a failure, which keeps fits from running."""
    return Check(what, "failure", cause, evidence.strip(), change, field)


def warned(
    what: str, cause: str, *, evidence: str = "", field: str = "", change: str = ""
) -> Check:
    """Return a warning to the administrator."""
    return Check(what, "warning", cause, evidence.strip(), change, field)


def skipped(what: str, why: str, evidence: str = "") -> Check:
    """Return a check that could not be made."""
    return Check(what, "skipped", why, evidence.strip())


def report(origin: Origin, checks: Iterable[Check]) -> str:
    """Return checks as text, with the file and line of each field of the site."""
    lines = []
    for one in checks:
        location = origin.where(one.field) if one.field else None
        lines.append(one.as_text(f"{location.file}:{location.line}" if location else ""))
    return "\n".join(lines)


def as_json(origin: Origin, checks: Iterable[Check]) -> list[dict[str, Any]]:
    """Return checks as plain data, with the file and line of each field."""
    rows = []
    for one in checks:
        row: dict[str, Any] = {"check": one.what, "level": one.level, "cause": one.cause}
        row |= {"evidence": one.evidence, "field": one.field, "change": one.hint}
        if one.field:
            row["file"], row["line"] = origin.where(one.field)
        rows.append(row)
    return rows
