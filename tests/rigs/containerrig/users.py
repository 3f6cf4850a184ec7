"""Ordinary users of this machine, made for tests and removed after them."""

from __future__ import annotations

import os
import pwd
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from containerrig.images import CONF, ROOT, run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

__all__ = ["User", "checkout", "made_user"]


class User:
    """An ordinary user of this machine.

    Parameters
    ----------
    apptainer
        Directory of Apptainer's commands.
    """

    def __init__(self, name: str, apptainer: str) -> None:
        self.name = name
        self._apptainer = apptainer
        self.home = Path(pwd.getpwnam(name).pw_dir)
        self.uid = pwd.getpwnam(name).pw_uid
        self.gid = pwd.getpwnam(name).pw_gid
        # Short: Parsl's sockets are below it.
        self.runtime = Path(f"/run/fitserve-{self.uid}")
        self.runtime.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.runtime, self.uid, self.gid)

    def run(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, in its home, with a clean environment."""
        given = {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "PATH": f"{self._apptainer}:/usr/bin:/bin:/usr/sbin:/sbin",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "CONTAINERS_CONF": str(self.home / "containers.conf"),
            "LANG": "C.UTF-8",
            **environment,
        }
        pairs = [f"{key}={value}" for key, value in given.items()]
        command = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups"]
        return run(*command, "env", "-i", *pairs, *words, cwd=self.home, check=False)

    def must(self, *words: object, **environment: str) -> str:
        """Run a command that is to succeed, and return its standard output."""
        done = self.run(*words, **environment)
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout


@contextmanager
def made_user(name: str, apptainer: str, *options: str) -> Iterator[User]:
    """Return a new user, with subordinate ids unless the options say otherwise."""
    run("userdel", "--remove", "--force", name, check=False)
    run("useradd", "--create-home", *options, name)
    made = User(name, apptainer)
    shutil.copy(CONF, made.home / "containers.conf")
    (made.home / "containers.conf").chmod(0o644)
    try:
        yield made
    finally:
        made.run("podman", "system", "migrate")
        # Its files of subordinate ids are only its own to remove.
        made.run("podman", "unshare", "rm", "-rf", made.home / ".local")
        # Podman leaves a process that holds its namespace, and a command that was cut off its own.
        run("pkill", "-KILL", "-u", made.uid, check=False)
        run("userdel", "--remove", "--force", name, check=False)
        shutil.rmtree(made.runtime, ignore_errors=True)


def checkout(user: User) -> Path:
    """Give a user the part of this checkout that handles images."""
    place = user.home / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    for part in ("containers", "contract/src", "client/src"):
        shutil.copytree(ROOT / part, place / part, ignore=ignore)
    shutil.copy(ROOT / "Makefile", place)
    run("chown", "-R", f"{user.uid}:{user.gid}", place)
    return place
