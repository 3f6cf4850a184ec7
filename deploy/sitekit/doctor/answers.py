"""Whether a scheduler's commands are there, answer, and answer in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sitekit.doctor.findings import Finding, failed, good, warned
from sitekit.doctor.shell import Result, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sitekit.doctor.shell import Patient

__all__ = ["answers"]

_SLOW = 0.5
# A command is waited for beyond Parsl's own limit, to say how long it takes.
_PATIENCE = 3


def answers(
    patient: Patient, needed: Sequence[str], asked: Sequence[tuple[str, ...]]
) -> Iterator[Finding | list[Result]]:
    """Look for commands and time some of them; yields findings, and last the results.

    Parameters
    ----------
    patient
        What is examined.
    needed
        Commands that must be there.
    asked
        Commands to run and time, none of which changes anything.
    """
    import shutil

    kind = patient.site.get("scheduler.type")
    absent = [name for name in needed if shutil.which(name) is None]
    if absent:
        yield failed(
            "commands",
            f"{', '.join(absent)} of {kind} are not on the PATH",
            evidence=f"looked for {', '.join(needed)}",
            field="scheduler.type",
            change="the scheduler that this machine has, or run this on its login node with the "
            "scheduler's module loaded",
        )
    results = [
        run(*command, timeout=_PATIENCE * patient.timeout)
        for command in asked
        if command[0] not in absent
    ]
    slowest = max(results, key=lambda result: result.seconds, default=None)
    if slowest is None:
        yield []
        return
    if slowest.silent or slowest.seconds > patient.timeout:
        advised = min(600, max(120, round(2 * slowest.seconds)))
        yield failed(
            "answer",
            f"{slowest.command.split()[0]} takes longer than the {patient.timeout} s that Parsl "
            "gives it",
            evidence=f"{slowest.command}: {slowest.seconds:.1f} s"
            + (" and no answer" if slowest.silent else ""),
            field="scheduler.cmd_timeout",
            change=f"cmd_timeout: {advised}",
        )
    elif slowest.seconds > _SLOW * patient.timeout:
        yield warned(
            "answer",
            f"{slowest.command.split()[0]} takes more than half of the {patient.timeout} s that "
            "Parsl gives it",
            evidence=f"{slowest.command}: {slowest.seconds:.1f} s",
            field="scheduler.cmd_timeout",
            change=f"cmd_timeout: {min(600, 2 * patient.timeout)}",
        )
    elif not absent:
        yield good(
            "answer", f"{len(results)} commands answer, the slowest in {slowest.seconds:.1f} s"
        )
    yield results
