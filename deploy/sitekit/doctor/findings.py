"""What the doctor examines, and what was found: cause, evidence and the line to change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sitekit.render import Rendering
    from sitekit.site import Origin, Site

__all__ = ["Finding", "Patient", "as_json", "failed", "good", "report", "skipped", "warned"]

Level = Literal["ok", "warning", "failure", "skipped"]
_WORDS = {"ok": "ok", "warning": "WARNING", "failure": "FAILED", "skipped": "skipped"}


@dataclass(frozen=True)
class Patient:
    """What is examined, and how.

    Attributes
    ----------
    site
        The site.
    rendering
        What its files are rendered for.
    home
        Home directory of the endpoint's user.
    hosts
        Hosts of the cloud service that must be reached, with their ports; none where the
        site is used directly only.
    messages
        Host and port of its messages, which must be reached without a proxy.
    submit
        Whether a job is submitted.
    job_seconds
        How long to wait for that job.
    """

    site: Site
    rendering: Rendering
    home: Path
    hosts: Sequence[tuple[str, int]] = ()
    messages: tuple[str, int] | None = None
    submit: bool = True
    job_seconds: float = 600.0

    @property
    def timeout(self) -> int:
        """Seconds that Parsl gives a command of the scheduler."""
        return int(self.site.scheduler.cmd_timeout)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    check
        What was looked at, in a few words.
    level
        ``failure``: fits would not run; ``warning``: they might not, or cost more than meant;
        ``skipped``: it could not be looked at, and ``cause`` says why.
    cause
        What was found, in one sentence.
    evidence
        What shows it: a command's own words, a figure.
    field
        Field of the site file that decides it.
    change
        What to do or to write.
    """

    check: str
    level: Level
    cause: str
    evidence: str = ""
    field: str = ""
    change: str = ""


def good(check: str, cause: str, evidence: str = "") -> Finding:
    """Return a finding that all is well."""
    return Finding(check, "ok", cause, evidence)


def failed(
    check: str, cause: str, *, evidence: str = "", field: str = "", change: str = ""
) -> Finding:
    """Return a finding that keeps fits from running."""
    return Finding(check, "failure", cause, evidence.strip(), field, change)


def warned(
    check: str, cause: str, *, evidence: str = "", field: str = "", change: str = ""
) -> Finding:
    """Return a finding that should be known."""
    return Finding(check, "warning", cause, evidence.strip(), field, change)


def skipped(check: str, why: str, evidence: str = "") -> Finding:
    """Return a finding that something could not be looked at."""
    return Finding(check, "skipped", why, evidence.strip())


def report(origin: Origin, findings: Iterable[Finding]) -> str:
    """Return findings as text, with the file and line of each field of the site.

    Examples
    --------
    >>> from sitekit.site import Location, Origin
    >>> origin = Origin("x.yaml", {}, {"network.interface": Location("x.yaml", 7)})
    >>> print(report(origin, [failed("address", "there is no interface ib0", evidence="eth0, lo",
    ...                            field="network.interface", change="interface: eth0")]))
    FAILED   address: there is no interface ib0
               seen: eth0, lo
               change: x.yaml:7: network.interface: interface: eth0
    """
    lines = []
    for finding in findings:
        lines.append(f"{_WORDS[finding.level]:8} {finding.check}: {finding.cause}")
        if finding.evidence and finding.level != "ok":
            lines += [f"           seen: {line}" for line in finding.evidence.splitlines()[:4]]
        if finding.change:
            where = ""
            if finding.field:
                location = origin.where(finding.field)
                where = f"{location.file}:{location.line}: {finding.field}: "
            lines.append(f"           change: {where}{finding.change}")
    return "\n".join(lines)


def as_json(origin: Origin, findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as plain data, with the file and line of each field."""
    rows = []
    for finding in findings:
        row = asdict(finding)
        if finding.field:
            row["file"], row["line"] = origin.where(finding.field)
        rows.append(row)
    return rows
