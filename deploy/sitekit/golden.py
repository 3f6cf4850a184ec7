"""Golden files: what every shipped site renders to, kept so that a change is seen as a diff."""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path

from fitserve.errors import BackendError
from sitekit.endpoint import build, submission
from sitekit.load import CONFIGS, load_site, shipped_sites
from sitekit.render import Rendering, render_site, write_files

__all__ = [
    "GOLDEN",
    "GOLDEN_RENDERING",
    "golden_differences",
    "write_golden",
    "write_submissions",
]

GOLDEN = CONFIGS / "golden"
GOLDEN_RENDERING = Rendering(version="0.0.0", home=Path("/home/fitserve"))
"""A version and a home that no release and no machine changes."""

# Made with the endpoint itself, by `write_submissions`.
_MADE_ELSEWHERE = {"submit.sh", "pod.json"}


def golden_differences(site: str) -> str:
    """Return a unified diff from a site's golden files to what it renders to now."""
    files, _ = render_site(load_site(CONFIGS / "sites" / f"{site}.yaml")[0], GOLDEN_RENDERING)
    directory = GOLDEN / site
    kept = {path.name for path in directory.glob("*")} - _MADE_ELSEWHERE
    lines: list[str] = []
    for name in sorted(kept | set(files)):
        path = directory / name
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        lines += difflib.unified_diff(
            old.splitlines(keepends=True),
            files.get(name, "").splitlines(keepends=True),
            f"golden/{site}/{name}",
            f"rendered/{site}/{name}",
        )
    return "".join(lines)


def write_golden() -> list[str]:
    """Write the golden files of every shipped site; return the sites that changed."""
    changed = []
    for site in shipped_sites():
        if not golden_differences(site):
            continue
        changed.append(site)
        files, _ = render_site(load_site(CONFIGS / "sites" / f"{site}.yaml")[0], GOLDEN_RENDERING)
        directory = GOLDEN / site
        for path in directory.glob("*"):
            if path.name not in files and path.name not in _MADE_ELSEWHERE:
                path.unlink()
        write_files(files, directory)
    for directory in GOLDEN.iterdir():
        if directory.name not in shipped_sites():
            for path in directory.iterdir():
                path.unlink()
            directory.rmdir()
            changed.append(directory.name)
    return changed


def write_submissions() -> None:
    """Write what the real endpoint would submit for every shipped site.

    Raises
    ------
    BackendError
        globus-compute-endpoint is not installed, or refuses a site.
    """
    directories = [GOLDEN / site for site in shipped_sites()]
    with tempfile.TemporaryDirectory() as scratch:
        results = build([(directory, None) for directory in directories], Path(scratch))
    for directory, built in zip(directories, results, strict=True):
        if "error" in built:
            raise BackendError(
                f"globus-compute-endpoint refuses site {directory.name}", evidence=built["error"]
            )
        write_files(submission(built), directory)
