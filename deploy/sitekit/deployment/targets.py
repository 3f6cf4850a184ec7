"""What a site's endpoint is deployed to: the interface of `Host` and `Cluster`."""

from __future__ import annotations

import contextlib
import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from filelock import FileLock, Timeout

from fitserve.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sitekit.site import Site

__all__ = ["CARD", "CREDENTIALS", "Options", "Target", "credentials", "stages_text"]

CARD = "site-card.json"
"""What is handed to users, in the directory of a target."""
CREDENTIALS = ("GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET")
"""Variables that hold a client's credentials, here and in a cluster's secret."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of any target; `verbs` says what each one is."""

    seconds: int = 900
    lines: int = 40
    as_json: bool = False
    yes: bool = False


class Target(ABC):
    """Where the endpoint of a site is deployed. Methods print what they did.

    Attributes
    ----------
    kind, takes
        What such a target is called, and the class of its options.
    site, options
        The site, and the options of the command.
    directory
        Where this machine keeps what belongs to it.
    """

    kind: ClassVar[str]
    takes: ClassVar[type[Options]]

    def __init__(self, site: Site, options: Options) -> None:
        self.site = site
        self.options = options
        self.directory = Path("build") / "deploy" / site.name

    @abstractmethod
    def install(self, *, upgrade: bool) -> None:
        """Let this version serve once it has passed its trial; an upgrade needs one to replace.

        A version that does not pass is undone. Installing the same again changes nothing.
        """

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """Return what the endpoint is doing and waits for, as plain data."""

    @staticmethod
    @abstractmethod
    def status_text(status: dict[str, Any]) -> str:
        """Return a status as text, one thing on a line."""

    @abstractmethod
    def smoke(self) -> list[dict[str, Any]]:
        """Do a fit, through the endpoint if there is one; returns its stages."""

    @abstractmethod
    def rollback(self) -> None:
        """Let the last different version that served serve again."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the endpoint with its workers and jobs."""

    @abstractmethod
    def logs(self) -> str:
        """Return the end of each log."""

    @abstractmethod
    def destroy(self) -> None:
        """Remove everything that deploying made, and say what is left."""

    def try_it(self) -> None:
        """Do a fit and print its stages.

        Raises
        ------
        BackendError
            A stage is not in order.
        """
        stages = self.smoke()
        bad = [one for one in stages if not one["ok"]]
        document = {"ok": not bad, "stages": stages}
        click.echo(json.dumps(document, indent=2) if self.options.as_json else stages_text(stages))
        if bad:
            raise BackendError(
                f"the smoke test of {self.site.name} failed: {bad[0]['what']}",
                evidence=bad[0]["told"],
                hint=bad[0]["next"] or f"make status SITE={self.site.name}",
            )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other commands on this machine from changing the site.

        Raises
        ------
        BackendError
            Another command is changing it.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = self.directory / "lock"
        try:
            with FileLock(lock, timeout=0):
                yield
        except Timeout as error:
            raise BackendError(
                "another command is changing this site",
                evidence=f"{lock} is held",
                hint="wait for it; `make status` and `make logs` work meanwhile",
            ) from error


def credentials() -> tuple[str, str] | None:
    """Return the client's id and secret of this environment, or None.

    Raises
    ------
    BackendError
        One of them is missing.
    """
    client, secret = (os.environ.get(name) for name in CREDENTIALS)
    if not client and not secret:
        return None
    if not client or not secret:
        missing = CREDENTIALS[1] if client else CREDENTIALS[0]
        raise BackendError(
            "client credentials are incomplete", evidence=f"{missing} is not set", hint="set both"
        )
    return client, secret


def stages_text(stages: list[dict[str, Any]]) -> str:
    """Return the stages of a smoke test, one line each.

    Examples
    --------
    >>> print(stages_text([{"what": "fit", "told": "CLs 0.1", "seconds": 1.2, "ok": True,
    ...                     "next": ""}]))
    ok      fit           1.2 s  CLs 0.1
    """
    lines = []
    for stage in stages:
        mark = "ok" if stage["ok"] else "FAILED"
        lines.append(f"{mark:<7} {stage['what']:<10} {stage['seconds']:>6.1f} s  {stage['told']}")
        if stage["next"]:
            lines.append(f"{'':<29}next: {stage['next']}")
    return "\n".join(lines)
