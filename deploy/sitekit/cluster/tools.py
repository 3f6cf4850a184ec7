"""Run helm and kubectl, with nothing secret on a command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from fitserve.errors import BackendError

__all__ = ["ask", "items", "run"]

_HINTS = {
    "helm": "install Helm 4",
    "kubectl": "install kubectl, and let its context be the cluster (kubectl config get-contexts)",
}


def run(program: str, *words: str, stdin: str | None = None) -> str:
    """Run helm or kubectl to its end; returns what it prints.

    Parameters
    ----------
    program
        ``helm`` or ``kubectl``.
    stdin
        What it reads: secrets go this way.

    Raises
    ------
    BackendError
        It is not installed, or fails; its own words are the evidence.
    """
    done = _call(program, words, stdin)
    if done.returncode:
        raise BackendError(
            f"{program} {words[0]} failed",
            evidence=(done.stderr or done.stdout).strip()[-2000:],
            hint=_HINTS[program] if "onnection refused" in done.stderr else "",
        )
    return done.stdout


def ask(program: str, *words: str) -> str | None:
    """Return what a command prints, or None where what it asks for is not there.

    Raises
    ------
    BackendError
        It fails for another reason.
    """
    done = _call(program, words, None)
    if done.returncode == 0:
        return done.stdout
    if "not found" in done.stderr.lower() or "NotFound" in done.stderr:
        return None
    raise BackendError(
        f"{program} {words[0]} failed", evidence=done.stderr.strip()[-2000:], hint=_HINTS[program]
    )


def items(kind: str, namespace: str, selector: str) -> list[dict[str, Any]]:
    """Return the objects of a kind that bear labels."""
    words = ("get", kind, "--namespace", namespace, "--selector", selector, "--output", "json")
    found: list[dict[str, Any]] = json.loads(run("kubectl", *words))["items"]
    return found


def _call(
    program: str, words: tuple[str, ...], stdin: str | None
) -> subprocess.CompletedProcess[str]:
    path = shutil.which(program)
    if path is None:
        raise BackendError(f"{program} is not on the PATH", hint=_HINTS[program])
    return subprocess.run(  # noqa: S603 -- fixed programs, arguments that we made
        [path, *words], input=stdin or "", capture_output=True, text=True, check=False
    )
