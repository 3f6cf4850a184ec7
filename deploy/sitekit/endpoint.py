"""Hold a rendered site against the real globus-compute-endpoint, in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from fitserve.errors import BackendError

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


def build(config: str, directory: Path) -> dict[str, Any]:
    """Return what the endpoint builds from a user's configuration, and would submit.

    Parameters
    ----------
    config
        A rendered user configuration.
    directory
        A writable directory.

    Raises
    ------
    BackendError
        The endpoint's loader refuses it.
    """
    path = directory / "user_config.yaml"
    path.write_text(config, encoding="utf-8")
    command = [str(endpoint_venv() / "bin" / "python"), str(_BUILD), str(path)]
    loaded: dict[str, Any] = json.loads(_run(command, None, directory))
    return loaded


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
