"""The rig as a whole: up, found again by its directory, and down with nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from schedulerrig.hosts import Host, Switch, end_process, wait_for
from schedulerrig.pbs import DEFAULTS
from schedulerrig.site import USERS, make_shared, make_venv, mounts
from schedulerrig.slurm import Slurm
from schedulerrig.systemd import remove_cgroups, start_user_manager

if TYPE_CHECKING:
    from typing import Self

__all__ = ["PACKAGES", "Rig", "missing"]

PACKAGES = (
    *("slurm-wlm", "slurm-wlm-torque", "slurmdbd", "munge", "mariadb-server"),
    *("openssh-server", "iproute2", "cron", "systemd", "btrfs-progs", "sudo"),
)
"""Debian's packages that the rig runs."""
_COMMANDS = (
    "slurmctld",
    "slurmd",
    "slurmdbd",
    "munged",
    "mariadbd",
    "sshd",
    "cron",
    "qsub",
    "ip",
    "mkfs.btrfs",
    "sudo",
)
_PLACE = Path("/var/tmp")  # noqa: S108 - its own directory is made anew, and is root's
_PREFIX = "fitserve-rig-"
_HOSTS = {"login": 2, "head": 3, "c1": 11, "c2": 12, "pbs": 4, "p1": 21, "p2": 22}
_LINGERS = "ada"
"""Has a systemd on PBS' login node, and none on Slurm's: as sites differ."""
_PBS_HOSTS = ("pbs", "p1", "p2")
_PBS_COMMANDS = ("qsub", "qstat", "qdel")
_SSHD = (
    *("HostKey=/srv/keys/host", "PidFile=/run/sshd.pid", "UsePAM=no", "StrictModes=yes"),
    *("PasswordAuthentication=no", "KbdInteractiveAuthentication=no"),
    *("AuthorizedKeysFile=/srv/keys/authorized", "PermitRootLogin=prohibit-password"),
    "Subsystem=sftp internal-sftp",
)


def missing() -> str | None:
    """Return what keeps the rig from running here, or None."""
    if os.geteuid() != 0:
        return "the rig needs root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [name for name in _COMMANDS if shutil.which(name, path=path) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install {' '.join(PACKAGES)}"
    return None


class Rig:
    """Hosts, and the schedulers on them.

    Attributes
    ----------
    directory
        Of the rig outside; ``/srv`` on its hosts.
    hosts
        By name.
    slurm
        What can be done to Slurm.
    """

    def __init__(self, directory: Path) -> None:
        number = int(directory.name.removeprefix(_PREFIX))
        self.directory = directory
        self.switch = Switch(directory, number)
        network = self.switch.network
        self.hosts = {
            name: Host(directory, name, f"{network}.{last}") for name, last in _HOSTS.items()
        }
        self.login, self.pbs = self.hosts["login"], self.hosts["pbs"]
        self._cgroup = f"{directory.name}-{_LINGERS}"
        self._pbs_server: subprocess.Popen[bytes] | None = None
        self._pbs_pid_file = directory / "pbs" / "server.pid"
        self.slurm = Slurm(
            directory, self.hosts["head"], self.login, [self.hosts["c1"], self.hosts["c2"]]
        )

    @classmethod
    def new(cls) -> Self:
        """Return a rig of its own; several may be up at a time."""
        for number in range(1, 250):
            directory = _PLACE / f"{_PREFIX}{number}"
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o755)
                return cls(directory)
        raise RuntimeError(f"there are too many rigs in {_PLACE}")

    @classmethod
    def all(cls) -> list[Self]:
        """Return the rigs that are up, or were left."""
        return [cls(path) for path in sorted(_PLACE.glob(f"{_PREFIX}*"))]

    def up(self) -> None:
        """Bring everything up; takes some seconds."""
        addresses = {"admin": f"{self.switch.network}.1"}
        addresses |= {host.name: host.address for host in self.hosts.values()}
        make_shared(self.directory, addresses)
        self.slurm.configure()
        self._write_ssh_config()
        self._configure_pbs()
        self.switch.up()
        for host in self.hosts.values():
            self.start_host(host)
        self.login.run("bash", "-ec", "\n".join(make_venv(self.directory)))
        for host in (self.login, self.pbs):
            self._start_login(host)
        self._start_pbs()
        self.slurm.start()

    def set_pbs(self, **settings: object) -> None:
        """Change the simulated PBS' settings (`schedulerrig.pbs.DEFAULTS`)."""
        path = self.directory / "pbs" / "settings.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**DEFAULTS, **settings}))
        part.replace(path)

    def start_host(self, host: Host) -> None:
        """Bring up a host, with none of its daemons."""
        covered = {"/etc/slurm": "slurm/etc"}
        if host.name in _PBS_HOSTS:
            covered = {f"/usr/bin/{name}": f"pbs/bin/{name}" for name in _PBS_COMMANDS}
        host.up(mounts(self.directory, host.name, covered), self.switch)

    def restart_node(self, host: Host) -> None:
        """Bring a node of Slurm that died up again."""
        from schedulerrig.slurm import start_munge

        self.start_host(host)
        start_munge(host)
        self.slurm.start_node(host)

    def restart_login(self, host: Host) -> None:
        """Bring a login node that died up again, as a boot does."""
        from schedulerrig.slurm import start_munge

        self.start_host(host)
        if host is self.login:
            start_munge(host)
        self._start_login(host)

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F`` outside: hosts by their names, as any user (``-l``) or root."""
        return self.directory / "keys" / "config"

    def down(self) -> None:
        """End everything; nothing of it is left."""
        if self._pbs_pid_file.is_file():
            end_process(int(self._pbs_pid_file.read_text()))
        for host in self.hosts.values():
            host.kill()
        if self._pbs_server is not None:
            self._pbs_server.wait()
        remove_cgroups(self._cgroup)
        self.switch.down()
        if f" {self.directory}" in Path("/proc/mounts").read_text():
            raise RuntimeError(f"something is mounted below {self.directory}")
        shutil.rmtree(self.directory)

    def _write_ssh_config(self) -> None:
        keys = self.directory / "keys"
        lines = [
            *(f"IdentityFile {keys}/id", f"UserKnownHostsFile {keys}/known_hosts"),
            *("IdentitiesOnly yes", "BatchMode yes", "StrictHostKeyChecking yes"),
        ]
        for host in self.hosts.values():
            lines += [f"Host {host.name}", f"  HostName {host.address}"]
            lines += [f"  HostKeyAlias {host.name}"]
        self.ssh_config.write_text("\n".join(lines) + "\n")

    def _configure_pbs(self) -> None:
        commands = self.directory / "pbs" / "bin"
        commands.mkdir(parents=True)
        (self.directory / "pbs" / "spool").mkdir()
        source = Path(__file__).with_name("pbs_command.py").read_text()
        for name in _PBS_COMMANDS:
            (commands / name).write_text(f"#!/srv/python/bin/python3 -IS\n{source}")
            (commands / name).chmod(0o755)
        self.set_pbs()

    def _start_pbs(self) -> None:
        with (self.directory / "log" / "pbs.log").open("ab") as log:
            self._pbs_server = subprocess.Popen(
                [sys.executable, "-m", "schedulerrig.pbs", str(self.directory)],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pbs_pid_file.write_text(str(self._pbs_server.pid))
        wait_for("PBS", (self.directory / "pbs" / "socket").exists)

    def _start_login(self, host: Host) -> None:
        """Start what every login node has: sshd, and cron, which does what is for its boot."""
        # What pam_systemd sets at a login, where there is one.
        more = (f"SetEnv=XDG_RUNTIME_DIR=/run/user/{USERS[_LINGERS]}",) if host is self.pbs else ()
        options = [word for option in (*_SSHD, *more) for word in ("-o", option)]
        host.run("/usr/sbin/sshd", "-f", "/dev/null", "-E", f"/srv/log/sshd.{host.name}", *options)
        listens = ("bash", "-c", "exec 3<> /dev/tcp/127.0.0.1/22")
        wait_for("sshd", lambda: host.run(*listens, status=None).returncode == 0)
        host.run("cron")
        if host is self.pbs:
            log = self.directory / "log" / "systemd.log"
            start_user_manager(host, _LINGERS, USERS[_LINGERS], self._cgroup, log)
