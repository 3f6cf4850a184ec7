"""Create .venv and install what a lock file pins, then the three distributions from this tree.

Usage: python3 tools/setup_env.py LOCK...     e.g. run, or dev

Needs nothing but Python's standard library. Does nothing when all is there already.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("FITSERVE_VENV", ROOT / ".venv"))
OLDEST = (3, 11)


def main(lock: str) -> None:
    """Install requirements/``lock``.lock."""
    if sys.version_info < OLDEST:
        sys.exit(
            f"error: Python {sys.version.split()[0]} is too old, fitserve needs 3.11 or newer\n"
            "  next: make PYTHON=/path/to/python3.11 ..."
        )
    requirements = ROOT / "requirements" / f"{lock}.lock"
    stamp = VENV / f".fitserve-{lock}"
    wanted = _fingerprint(requirements)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if not (VENV / "bin" / "python").exists():
        _create()
    print(f"installing requirements/{lock}.lock into {VENV} ...", file=sys.stderr)
    _pip("--require-hashes", "-r", str(requirements))
    editable = [f"-e{ROOT / name}" for name in ("contract", "client", "worker")]
    _pip("--no-deps", "--no-build-isolation", *editable)
    stamp.write_text(wanted)


def _fingerprint(requirements: Path) -> str:
    parts = [requirements, *sorted(ROOT.glob("*/pyproject.toml"))]
    content = b"".join(part.read_bytes() for part in parts)
    return hashlib.sha256(content + sys.version.encode()).hexdigest()


def _create() -> None:
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        minor = ".".join(map(str, sys.version_info[:2]))
        sys.exit(
            "error: this Python cannot create virtual environments\n"
            "  seen: the module ensurepip is missing\n"
            f"  next: sudo apt install python{minor}-venv, or make PYTHON=/path/to/another/python3"
        )
    venv.create(VENV, with_pip=True)


def _pip(*arguments: str) -> None:
    command = [
        str(VENV / "bin" / "python"),
        *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *arguments,
    ]
    failed = subprocess.run(command, check=False).returncode
    if failed:
        sys.exit(f"error: pip failed ({failed})\n  seen: {' '.join(command)}")


if __name__ == "__main__":
    for name in sys.argv[1:] or ["run"]:
        main(name)
