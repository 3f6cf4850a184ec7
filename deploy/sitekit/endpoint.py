"""Hold a rendered site against the real globus-compute-endpoint, in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["build", "endpoint_venv", "render_user_config", "submission"]

_ROOT = Path(__file__).resolve().parents[2]
_BUILD = Path(__file__).resolve().parent / "tools" / "endpoint_build.py"


def endpoint_venv() -> Path:
    """Return the environment that holds globus-compute-endpoint.

    Raises
    ------
    BackendError
        It was not made yet.
    """
    place = Path(os.environ.get("FITSERVE_ENDPOINT_VENV", _ROOT / ".cache" / "endpoint-venv"))
    if not (place / "bin" / "globus-compute-endpoint").is_file():
        raise BackendError(
            "globus-compute-endpoint is not installed apart from fitserve",
            evidence=f"looked in {place}",
            hint="make endpoint-venv",
        )
    return place


def render_user_config(
    directory: Path, options: dict[str, Any] | None = None, *, home: Path
) -> str:
    """Render a user's configuration by the endpoint's own ``render-user-config``.

    Parameters
    ----------
    directory
        A rendered site.
    options
        What the user sets; None leaves out the options altogether.
    home
        A writable directory: the endpoint writes into its home even when merely asked.

    Raises
    ------
    BackendError
        The endpoint refuses the template or the options; its words are the evidence.
    """
    command = [
        str(endpoint_venv() / "bin" / "globus-compute-endpoint"),
        "render-user-config",
        *("--template", str(directory / "user_config_template.yaml.j2")),
        *("--user-schema", str(directory / "user_config_schema.json")),
    ]
    text = None
    if options is not None:
        command += ["--user-options", "-"]
        text = json.dumps(options)
    return _run(command, text, home)


def build(jobs: Sequence[tuple[Path, dict[str, Any] | None]], home: Path) -> list[dict[str, Any]]:
    """Return what the endpoint builds for users of rendered sites, and would submit.

    Parameters
    ----------
    jobs
        Rendered sites, each with what a user sets.
    home
        A writable directory.

    Returns
    -------
    list of dict
        For each job what was built, or ``{"error": ...}`` where the endpoint refuses it.

    Raises
    ------
    BackendError
        globus-compute-endpoint is not installed or broken.
    """
    asked = [
        {"directory": str(directory.resolve()), "options": options} for directory, options in jobs
    ]
    command = [str(endpoint_venv() / "bin" / "python"), str(_BUILD)]
    built: list[dict[str, Any]] = json.loads(_run(command, json.dumps(asked), home))
    return built


def submission(built: dict[str, Any]) -> dict[str, str]:
    """Return the submit script or pod of what was built, by the name of its golden file."""
    if "pod" in built:
        return {"pod.json": json.dumps(built["pod"], indent=2) + "\n"}
    return {"submit.sh": built["script"].strip() + "\n"}


def _run(command: list[str], text: str | None, home: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HOME"] = str(home)
    done = subprocess.run(  # noqa: S603 -- fixed programs, arguments that we made
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
        stdin=subprocess.DEVNULL if text is None else None,
    )
    if done.returncode:
        raise BackendError(
            "globus-compute-endpoint refuses what was rendered",
            evidence=(done.stderr or done.stdout).strip()[-2000:],
        )
    return done.stdout
