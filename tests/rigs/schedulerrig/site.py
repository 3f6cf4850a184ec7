"""What the hosts have in common: users, homes, keys, Python, and what is mounted where."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from schedulerrig.hosts import sh

__all__ = ["CHECKOUT", "USERS", "VENV", "make_shared", "make_venv", "mounts"]

CHECKOUT = Path(__file__).resolve().parents[3]
USERS = {"ada": 7001, "ben": 7002, "cleo": 7003}
VENV = "/srv/venv"
_CHANGEABLE = ("/etc", "/opt", "/usr/local", "/var/lib", "/var/cache", "/var/spool/cron")
_SCRIPTS = ("fitserve", "fitserve-worker", "process_worker_pool.py", "interchange.py")


def make_shared(directory: Path, addresses: dict[str, str]) -> None:
    """Write what all hosts share: accounts, names, keys, homes."""
    etc = directory / "etc"
    for name in (
        "etc",
        "log",
        "keys",
        "home",
        "bin",
        "own",
        *("fitserve", "python", "site-packages"),
    ):
        (directory / name).mkdir(mode=0o755)
    for name, line in (
        ("passwd", "{user}:x:{uid}:{uid}::/home/{user}:/bin/bash\n"),
        ("group", "{user}:x:{uid}:\n"),
        ("shadow", "{user}:*:19000:0:99999:7:::\n"),
    ):
        text = Path("/etc", name).read_text()
        text += "".join(line.format(user=user, uid=uid) for user, uid in USERS.items())
        (etc / name).write_text(text)
        (etc / name).chmod(0o600 if name == "shadow" else 0o644)
    # Tables of cron: none of the machine outside.
    (etc / "crontab").touch(mode=0o644)
    (etc / "cron.d").mkdir()
    known = {"localhost": "127.0.0.1", **addresses}
    (etc / "hosts").write_text("".join(f"{ip} {name}\n" for name, ip in known.items()))
    for user, uid in USERS.items():
        home = directory / "home" / user
        home.mkdir(mode=0o700)
        os.chown(home, uid, uid)
    _make_keys(directory, [name for name in addresses if name != "admin"])


def _make_keys(directory: Path, hosts: list[str]) -> None:
    """Make one key that lets in as every user and as root, and a key of the hosts."""
    keys = directory / "keys"
    for name in ("id", "host"):
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", keys / name)
    public = (keys / "host.pub").read_text().split()[:2]
    names = ",".join(hosts)
    (keys / "known_hosts").write_text(f"{names} {' '.join(public)}\n")
    (keys / "authorized").write_text((keys / "id.pub").read_text())
    for user, uid in USERS.items():
        ssh = directory / "home" / user / ".ssh"
        ssh.mkdir(mode=0o700)
        for source, target in (("id", "id_ed25519"), ("known_hosts", "known_hosts")):
            shutil.copyfile(keys / source, ssh / target)
            (ssh / target).chmod(0o600)
            os.chown(ssh / target, uid, uid)
        os.chown(ssh, uid, uid)


def mounts(directory: Path, host: str, also: dict[str, str] | None = None) -> str:
    """Return the script that mounts a host's view of the machine.

    Parameters
    ----------
    directory
        Of the rig, outside.
    also
        More files and directories of the rig, by the path that they cover.
    """
    own = directory / "own" / host
    lines = []
    # What root changes there stays there, and is there again after the host was off.
    for path in _CHANGEABLE:
        upper, work = (own / f"{kind}{path.replace('/', '-')}" for kind in ("upper", "work"))
        lines.append(f"mkdir -p {upper} {work}")
        options = f"lowerdir={path},upperdir={upper},workdir={work}"
        lines.append(f"mount -t overlay -o {options} overlay {path}")
    lines += [
        f"mount --bind -o ro {source} {directory / target}"
        for source, target in (
            (CHECKOUT, "fitserve"),
            (sys.base_prefix, "python"),
            (sysconfig.get_path("purelib"), "site-packages"),
        )
    ]
    covered = {
        "/etc/passwd": "etc/passwd",
        "/etc/group": "etc/group",
        "/etc/shadow": "etc/shadow",
        "/etc/hosts": "etc/hosts",
        "/etc/crontab": "etc/crontab",
        "/etc/cron.d": "etc/cron.d",
        "/home": "home",
        "/root": f"own/{host}/root",
        **(also or {}),
    }
    lines.append(f"mkdir -p -m 700 {own}/root")
    lines += [f"mount --bind {directory / source} {target}" for target, source in covered.items()]
    lines += [
        f"mount --rbind {directory} /srv",
        "mount -t tmpfs -o mode=1777 tmpfs /tmp",
        "mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
        "mount -t tmpfs -o mode=0755 tmpfs /run",
        "mount -t tmpfs -o mode=0755 tmpfs /var/log",
        "mkdir -p /run/sshd /run/lock",
        # Python's library is where it was built for, which users may not see.
        "echo /srv/python/lib > /etc/ld.so.conf.d/000-rig.conf; ldconfig",
    ]
    return "\n".join(lines)


def make_venv(directory: Path) -> list[str]:
    """Return the shell script that makes the users' environment; it runs on a host.

    Its packages are those of this Python's environment, and fitserve is the checkout's.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = f"{VENV}/lib/{version}/site-packages"
    bin_directory = Path(sysconfig.get_path("scripts"))
    script = [f"/srv/python/bin/{version} -m venv --without-pip {VENV}"]
    paths = [
        f"/srv/fitserve/{part}" for part in ("contract/src", "client/src", "worker/src", "deploy")
    ]
    script.append(f"printf '%s\\n' {' '.join(paths)} /srv/site-packages > {packages}/rig.pth")
    made = directory / "bin"
    for name in _SCRIPTS:
        body = (bin_directory / name).read_text().split("\n", 1)[1]
        (made / name).write_text(f"#!{VENV}/bin/python\n{body}")
    script.append(f"install -m 755 /srv/bin/* {VENV}/bin/")
    return script
