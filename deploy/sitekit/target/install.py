"""Install a release beside the others: an environment of its own, from the bundle's wheels.

Run from standard input by the Python that the release is for, with the bundle and the directory
of the release as arguments; more are options of ``uv pip install``. Needs no network, no package
index and no pip: uv is among the wheels. What an earlier attempt left half done is removed first;
``.complete`` is written last.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path


def install(bundle: Path, release: Path, options: list[str]) -> None:
    """Unpack a bundle and install its wheels into the directory of the release."""
    if release.exists():
        shutil.rmtree(release)
    release.mkdir(parents=True)
    with tarfile.open(bundle) as archive:
        # Python 3.11.2, Debian 12's, has no filters yet; the bundle is our own.
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(release, **safe)  # type: ignore[arg-type]  # noqa: S202
    # Without pip: the Python of a login node may have no ensurepip.
    venv.create(release, symlinks=True)
    wheels = sorted((release / "wheels").glob("*.whl"))
    command = [str(_uv(wheels)), "pip", "install", "--quiet", "--no-config", "--no-cache"]
    command += ["--python", str(release / "bin" / "python"), "--offline", "--no-index", "--no-deps"]
    command += ["--link-mode=copy", *options, *map(str, wheels)]
    done = subprocess.run(command, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"uv could not install what the bundle holds ({done.returncode})")
    shutil.rmtree(release / "wheels")
    _write_command(release)
    (release / ".complete").write_text(f"{release.name}\n")


def _write_command(release: Path) -> None:
    """Write the endpoint's command, which comes before Globus Compute's own on its PATH."""
    command = release / "fitserve" / "bin" / "globus-compute-endpoint"
    command.parent.mkdir()
    # By sh: the length of an interpreter's path is limited.
    command.write_text(
        "#!/bin/sh\n"
        f"'''exec' '{release}/bin/python' \"$0\" \"$@\"\n"
        "' '''\n"
        "from fitserve.onsite.endpoint import main\n\n"
        "main()\n"
    )
    command.chmod(0o755)


def _uv(wheels: list[Path]) -> Path:
    """Unpack uv, which installs all other wheels."""
    wheel = next(one for one in wheels if one.name.startswith("uv-"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(one for one in archive.namelist() if one.endswith(".data/scripts/uv"))
        uv = wheel.parent / "uv"
        uv.write_bytes(archive.read(name))
    uv.chmod(0o700)
    return uv


if __name__ == "__main__":
    install(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
