"""Install what a lock file pins into an environment of its own in .cache.

Usage: python3 deploy/sitekit/tools/locked_venv.py NAME     e.g. endpoint, ansible

NAME is a file requirements/NAME.lock. These pin other versions than fitserve's own environment.
Needs nothing but Python's standard library; does nothing when all is there already.
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


def main(name: str) -> None:
    """Create the environment, unless it already holds what the lock file says."""
    lock = ROOT / "requirements" / f"{name}.lock"
    variable = f"FITSERVE_{name.upper().replace('-', '_')}_VENV"
    place = Path(os.environ.get(variable, ROOT / ".cache" / f"{name}-venv"))
    stamp = place / f".fitserve-{name}"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    sys.stderr.write(f"installing {lock.relative_to(ROOT)} into {place} ...\n")
    venv.create(place, with_pip=True, clear=True)
    command = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    command += ["--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
    failed = subprocess.run(command, check=False).returncode  # noqa: S603
    if failed:
        sys.exit(f"error: pip failed ({failed})\n  seen: {' '.join(command)}")
    stamp.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
