"""systemd of a user, as of one who lingers: the real one, with cgroups that it may divide."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from schedulerrig.hosts import wait_for

if TYPE_CHECKING:
    from schedulerrig.hosts import Host

__all__ = ["remove_cgroups", "start_user_manager"]

_CGROUPS = Path("/sys/fs/cgroup")
_UP = ("running", "degraded")


def _trees() -> list[Path]:
    """Return where systemd keeps its groups: in one tree, or in two on hybrid machines."""
    if (_CGROUPS / "cgroup.procs").is_file():
        return [_CGROUPS]
    return [_CGROUPS / name for name in ("systemd", "unified") if (_CGROUPS / name).is_dir()]


def start_user_manager(host: Host, user: str, uid: int, group: str, log: Path) -> None:
    """Start what logind starts at boot for a user who lingers.

    Parameters
    ----------
    group
        Name of the cgroup that is the user's.
    log
        What it says, outside.
    """
    places = " ".join(str(tree / group) for tree in _trees())
    runtime = f"/run/user/{uid}"
    script = f"""
    mkdir -p /run/systemd/system
    # What logind would say of such a user; there is none here.
    printf '#!/bin/sh\\ntest "$1" != show-user || echo yes\\n' > /run/loginctl
    chmod 755 /run/loginctl
    mount --bind /run/loginctl /usr/bin/loginctl
    install -d -m 700 -o {user} -g {user} /run/user/{uid}
    for place in {places}; do
        mkdir -p $place
        chown {user}: $place $place/cgroup.procs
        echo $$ > $place/cgroup.procs
    done
    exec setpriv --reuid={user} --regid={user} --init-groups \\
        env HOME=/home/{user} USER={user} XDG_RUNTIME_DIR={runtime} \\
        /lib/systemd/systemd --user --log-target=console
    """
    host.start("bash", "-ec", script, log=log)
    asked = ("systemctl", "--user", "is-system-running")
    environment = {"XDG_RUNTIME_DIR": runtime}

    def up() -> bool:
        said = host.run(*asked, user=user, environment=environment, status=None)
        return said.stdout.strip() in _UP

    wait_for(f"systemd of {user}", up)


def remove_cgroups(group: str) -> None:
    """Remove the groups of a user whose processes have ended."""
    for tree in _trees():
        found = [tree / group, *(tree / group).rglob("*")]
        for place in sorted(found, key=lambda path: len(path.parts), reverse=True):
            if place.is_dir():
                with contextlib.suppress(FileNotFoundError):
                    place.rmdir()
