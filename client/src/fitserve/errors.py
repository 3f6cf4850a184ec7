"""What goes wrong, in the terms of the person who can put it right; results of checks.

Every error says the cause, the evidence for it and the next thing to do, and has an exit
code of its class: scripts can tell a broken pallet from a full disk without reading text.
Those that a worker raises too are defined in `fitserve_contract.errors`.

====  =======================================================================
code  meaning
====  =======================================================================
0     everything asked for was done
1     a defect of fitserve itself: please report it
2     the command line is not understood
3     the pallet, workspace, patchset or another input file is not usable
4     the request does not fit the pallet (unknown POI, measurement, patch ...)
5     the endpoint or backend is unknown, or does not work
6     the run directory or the output cannot be read, written or locked
7     the run ended, but some hypotheses have no valid result
130   interrupted; what was finished is kept
====  =======================================================================
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from fitserve_contract.errors import BackendError, ContractError, FitserveError, StoreError

__all__ = [
    "BackendError",
    "Check",
    "ContractError",
    "FitserveError",
    "IncompleteRunError",
    "InputError",
    "InterruptedRunError",
    "MissingExtraError",
    "ModelWarning",
    "RequestError",
    "StoreError",
]


class ModelWarning(UserWarning):
    """What was asked for is done, and may not be what was meant."""


class InputError(FitserveError):
    """A pallet, workspace, patchset, catalogue or result file is not usable."""

    exit_code = 3


class RequestError(FitserveError):
    """What is asked for does not fit the pallet."""

    exit_code = 4


class MissingExtraError(BackendError):
    """An optional part of fitserve is needed and not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs an optional part of fitserve that is not installed",
            hint=f'pip install "fitserve[{extra}]"',
        )


class IncompleteRunError(FitserveError):
    """The run ended, but some hypotheses have no valid result."""

    exit_code = 7


class InterruptedRunError(FitserveError):
    """The user stopped the run; what was finished is kept."""

    exit_code = 130


class Check(NamedTuple):
    """The result of a check: of an endpoint, a site or a machine.

    Attributes
    ----------
    what
        What was looked at, in a few words.
    level
        ``failure``: fits do not run; ``warning``: they might not, or cost more than expected;
        ``skipped``: it could not be looked at, and ``cause`` says why.
    cause
        What was seen, in one sentence.
    evidence
        What shows it: a command's own words, a figure.
    hint
        The next command to run or thing to change.
    field
        Field of the site file that decides it.
    seconds
        How long it took, where that is measured.
    """

    what: str
    level: Literal["ok", "warning", "failure", "skipped"]
    cause: str
    evidence: str = ""
    hint: str = ""
    field: str = ""
    seconds: float | None = None

    @classmethod
    def failed(cls, what: str, error: FitserveError) -> Check:
        """Return the check that an error ended."""
        return cls(what, "failure", error.cause, error.evidence, error.hint)

    @property
    def ok(self) -> bool:
        """Whether fits may run in spite of it."""
        return self.level != "failure"

    @property
    def told(self) -> str:
        """Cause and evidence on one line."""
        return f"{self.cause} ({self.evidence})" if self.evidence else self.cause

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data, as ``--json`` of commands has it."""
        took = {} if self.seconds is None else {"seconds": round(self.seconds, 2)}
        return {"what": self.what, "told": self.told, "next": self.hint, "ok": self.ok, **took}

    def as_text(self, place: str = "") -> str:
        """Return it as lines for a person.

        Parameters
        ----------
        place
            File and line of ``field``, if they are known.

        Examples
        --------
        >>> from fitserve.errors import Check
        >>> seen = Check("address", "failure", "there is no interface ib0", "eth0, lo",
        ...              "interface: eth0", "network.interface")
        >>> print(seen.as_text("x.yaml:7"))
        FAILED   address: there is no interface ib0
                   seen: eth0, lo
                   change: x.yaml:7: network.interface: interface: eth0
        """
        word = {"warning": "WARNING", "failure": "FAILED"}.get(self.level, self.level)
        lines = [f"{word:8} {self.what}: {self.cause}"]
        if self.level != "ok":
            lines += [f"           seen: {line}" for line in self.evidence.splitlines()[:4]]
        if self.hint:
            where = f"change: {place}: {self.field}" if place else "next"
            lines.append(f"           {where}: {self.hint}")
        return "\n".join(lines)
