"""An administrator with a checkout that no other test changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Admin", "Said", "copy_checkout", "python_path"]

ROOT = Path(__file__).resolve().parents[3]
_PARTS = ("contract", "client", "worker", "deploy", "endpoint_configs", "requirements", "tools")


def copy_checkout(place: Path) -> Path:
    """Copy what a release is made of."""
    ignored = shutil.ignore_patterns("__pycache__", "golden", "*.egg-info")
    for part in _PARTS:
        shutil.copytree(ROOT / part, place / part, ignore=ignored)
    for name in ("LICENSE", "README.md", "Makefile"):
        shutil.copyfile(ROOT / name, place / name)
    return place


def python_path(tree: Path) -> str:
    """Return where a checkout's own packages are found."""
    parts = ("deploy", "contract/src", "client/src", "worker/src")
    return os.pathsep.join(str(tree / part) for part in parts)


class Said:
    """What a command said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    @property
    def all(self) -> str:
        return self.out + self.err

    @property
    def changed(self) -> int:
        """Number of changes, from Ansible's own account."""
        [recap] = [line for line in self.err.splitlines() if "unreachable=" in line]
        return int(recap.split("changed=")[1].split()[0])


class Admin:
    """Deploys sites from a checkout.

    Parameters
    ----------
    tree
        The checkout.
    place
        Where the administrator works; home, too.
    environment
        More variables, credentials among them.
    """

    def __init__(self, tree: Path, place: Path, environment: Mapping[str, str]) -> None:
        self.tree = tree
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(place),
            "PYTHONPATH": python_path(tree),
            "PYTHONDONTWRITEBYTECODE": "1",
            "FITSERVE_DEPLOY_CACHE": str(ROOT / ".cache" / "deploy"),
            "FITSERVE_ANSIBLE_VENV": str(ROOT / ".cache" / "ansible-venv"),
            **environment,
        }

    def at(self, tree: Path) -> Admin:
        """Return the same administrator with another checkout."""
        return Admin(tree, self.place, {**self.environment, "PYTHONPATH": python_path(tree)})

    def write_site(self, name: str, fields: dict[str, Any]) -> Path:
        path = self.place / "sites" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(fields))
        return path

    def __call__(
        self, verb: str, site: Path | str, *options: object, status: int = 0, timeout: float = 840
    ) -> Said:
        said = Said(self._run([verb, str(site), *map(str, options)], timeout))
        assert said.status == status, f"{verb}: status {said.status}\n{said.all[-12000:]}"
        assert "Traceback" not in said.all, said.all[-6000:]
        return said

    def status(self, site: Path | str, *options: object) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("status", site, "--json", *options).out)
        return found

    def card(self, site: str) -> Path:
        return self.place / "build" / "deploy" / site / "site-card.json"

    def _run(self, words: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sitekit", *words],
            env=self.environment,
            cwd=self.place,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
