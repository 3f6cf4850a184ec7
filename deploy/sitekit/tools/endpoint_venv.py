"""Install globus-compute-endpoint into an environment of its own, from its lock file.

Usage: python3 deploy/sitekit/tools/endpoint_venv.py

It pins other versions than fitserve's own environment. Needs nothing but Python's standard
library; does nothing when all is there already. FITSERVE_ENDPOINT_VENV names another place.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LOCK = ROOT / "requirements" / "endpoint.lock"
VENV = Path(os.environ.get("FITSERVE_ENDPOINT_VENV", ROOT / ".cache" / "endpoint-venv"))


def main() -> None:
    """Create the environment, unless it already holds what the lock file says."""
    stamp = VENV / ".fitserve-endpoint"
    wanted = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    sys.stderr.write(f"installing {LOCK.relative_to(ROOT)} into {VENV} ...\n")
    venv.create(VENV, with_pip=True, clear=True)
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    command += ["--disable-pip-version-check", "--require-hashes", "-r", str(LOCK)]
    failed = subprocess.run(command, check=False).returncode  # noqa: S603
    if failed:
        sys.exit(f"error: pip failed ({failed})\n  seen: {' '.join(command)}")
    stamp.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
