"""Install what a lock file pins into an environment of its own in .cache.

Usage: python3 deploy/sitekit/tools/locked_venv.py NAME     e.g. endpoint, ansible

NAME is a file requirements/NAME.lock, which pins other versions than fitserve's own environment.
Needs nothing but Python's standard library; does nothing when all is there already. Deploying to a
host installs Ansible this way when it is first needed (`sitekit.deployment.host`).
FITSERVE_ENDPOINT_VENV names another place for the endpoint's, and so on.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def install(name: str) -> Path:
    """Create the environment, unless it already holds what the lock file says; returns where it is.

    Raises
    ------
    subprocess.CalledProcessError
        pip fails, which says why on standard error.
    """
    lock = ROOT / "requirements" / f"{name}.lock"
    variable = f"FITSERVE_{name.upper().replace('-', '_')}_VENV"
    place = Path(os.environ.get(variable, ROOT / ".cache" / f"{name}-venv"))
    stamp = place / f".fitserve-{name}"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
        return place
    sys.stderr.write(f"installing {lock.relative_to(ROOT)} into {place} ...\n")
    venv.create(place, with_pip=True, clear=True)
    command = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    command += ["--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # What a verb prints is for programs to read.
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)  # noqa: S603
    stamp.write_text(digest, encoding="utf-8")
    return place


if __name__ == "__main__":
    try:
        install(sys.argv[1])
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: pip failed ({error.returncode})\n  seen: {' '.join(error.cmd)}")
