"""Run helm and kubectl, with nothing secret on a command line."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from typing import Any

from fitserve.errors import BackendError

__all__ = ["HELM", "ask", "differs", "items", "require_helm", "run"]

HELM = 4
"""Major version of Helm: others have other options, and render the chart differently."""
_HINTS = {
    "helm": f"install Helm {HELM} (https://helm.sh/docs/intro/install/), first on the PATH",
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
    """Return what a command prints, or None if the object that it asks for does not exist.

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


def differs(manifest: str, *where: str) -> bool:
    """Return whether objects of a manifest differ in the cluster, or are missing there.

    If that cannot be found out, they count as different.
    """
    # The API server merges: kubectl's own merge may differ in the order of lists. A field manager
    # of its own, which owns no fields yet, removes none of Helm's.
    merging = ("--server-side", "--force-conflicts", "--field-manager=fitserve-compares")
    return _call("kubectl", ("diff", *where, *merging, "--filename", "-"), manifest).returncode != 0


def require_helm() -> None:
    """Require the Helm that the chart is tested with.

    Raises
    ------
    BackendError
        It is not installed, or is of another major version.
    """
    _require_version(_path("helm"))


@functools.cache
def _require_version(path: str) -> None:
    words = [path, "version", "--template", "{{.Version}}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    answer = (done.stdout or done.stderr).strip()
    if done.returncode or not answer.removeprefix("v").startswith(f"{HELM}."):
        raise BackendError(
            f"the helm on the PATH is not Helm {HELM}",
            evidence=f"{path} version: {answer[:200] or f'status {done.returncode}'}",
            hint=f"{_HINTS['helm']}; `helm version` shows which one is found",
        )


def items(kind: str, namespace: str, selector: str) -> list[dict[str, Any]]:
    """Return the objects of a kind that bear labels."""
    words = ("get", kind, "--namespace", namespace, "--selector", selector, "--output", "json")
    objects: list[dict[str, Any]] = json.loads(run("kubectl", *words))["items"]
    return objects


def _path(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise BackendError(f"{program} is not on the PATH", hint=_HINTS[program])
    return path


def _call(
    program: str, words: tuple[str, ...], stdin: str | None
) -> subprocess.CompletedProcess[str]:
    path = _path(program)
    if program == "helm":
        _require_version(path)
    return subprocess.run(  # noqa: S603 -- fixed programs, arguments that we made
        [path, *words], input=stdin or "", capture_output=True, text=True, check=False
    )
