"""A machine for one Kubernetes node: namespaces, a network, processes that end with it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from waiting import wait_for

__all__ = ["Node"]

# kubelet writes these, which are the whole machine's: it gets files of its own instead.
_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_LINK = "fskube"
_CGROUPS = Path("/sys/fs/cgroup")


def _sh(*words: object) -> None:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, words))}: {done.stderr or done.stdout}")


class Node:
    """A machine of its own as far as Kubernetes sees; its first process ends all others.

    Parameters
    ----------
    directory
        Of its files, made anew.
    network
        First two numbers of its addresses: the machine outside is N.0.1, the node N.0.2, pods
        are N.1.x.
    """

    def __init__(self, directory: Path, network: str) -> None:
        self.directory = directory
        self.outside = f"{network}.0.1"
        self.address = f"{network}.0.2"
        self.pods = f"{network}.1.0/24"
        self._link = f"{_LINK}{os.getpid() % 10000}"
        self._anchor: subprocess.Popen[bytes] | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pid = 0

    @staticmethod
    def forget() -> None:
        """Remove the links of nodes whose tests were killed: no two have the same addresses."""
        for place in Path("/sys/class/net").glob(f"{_LINK}*"):
            with contextlib.suppress(RuntimeError):
                _sh("ip", "link", "del", place.name)

    def up(self, service: str) -> None:
        """Bring it up with nothing running; ``service`` is an address that it has as well."""
        (self.directory / "log").mkdir(parents=True)
        faked = self.directory / "sys"
        lines = ["mount --make-rprivate /"]
        for name, value in _SYSCTLS.items():
            path = faked / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
            lines.append(f"mount --bind {path} /proc/sys/{name}")
        # kubelet writes what pods say below /var/log, and leaves it there.
        (self.directory / "var-log").mkdir()
        lines.append(f"mount --bind {self.directory}/var-log /var/log")
        pid_file = self.directory / "pid"
        lines += [
            "mount --make-rshared /",
            "read -r pid _ < /proc/thread-self/stat",
            f"echo up > {pid_file}",
            # It ends with the process that started it, and reaps what the others leave.
            'trap "exit 0" TERM; while :; do sleep 3600 & wait $!; done',
        ]
        with (self.directory / "log" / "node.log").open("wb") as log:
            self._anchor = subprocess.Popen(
                [
                    # Whatever happens to the tests, the node ends with them.
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork"),
                    *("--kill-child", "--mount-proc", "--propagation", "private"),
                    *("bash", "-ec", "\n".join(lines)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
            )
        wait_for("the node's namespaces", pid_file.exists, 10)
        children = Path(f"/proc/{self._anchor.pid}/task/{self._anchor.pid}/children")
        self._pid = int(children.read_text().split()[0])
        _sh(
            "ip",
            "link",
            "add",
            self._link,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self._pid,
        )
        _sh("ip", "addr", "add", f"{self.outside}/24", "dev", self._link)
        _sh("ip", "link", "set", self._link, "up")
        for words in (
            "link set lo up",
            f"addr add {self.address}/24 dev eth0",
            f"addr add {service}/32 dev lo",
            "link set eth0 up",
            f"route add default via {self.outside}",
        ):
            self.run("ip", *words.split())
        self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        _sh("ip", "route", "add", self.pods, "via", self.address)

    def inside(self, *words: object) -> list[str]:
        """Return the command that runs one on the node."""
        spaces = ("--net", "--mount", "--uts", "--ipc", "--pid")
        # Processes of its own must not hold more files open than they may.
        limited = ("prlimit", "--nofile=20000:20000")
        return ["nsenter", f"--target={self._pid}", *spaces, *limited, *map(str, words)]

    def run(self, *words: object, stdin: Any = None) -> str:
        """Run a command on the node to its end."""
        done = subprocess.run(
            self.inside(*words), capture_output=True, text=True, check=False, stdin=stdin
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(map(str, words))}: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, name: str, *words: object) -> None:
        """Start a command that goes on; what it says is in ``log/NAME.log``."""
        with (self.directory / "log" / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self.inside(*words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
            )

    def kill(self, name: str) -> None:
        """Kill what was started by a name, at once."""
        process = self._processes.pop(name)
        # `nsenter` into a PID namespace forks: the program is its child.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def alive(self, name: str) -> bool:
        """Return whether what was started by a name still runs."""
        return self._processes[name].poll() is None

    def log(self, name: str) -> str:
        """Return what a command has said."""
        return (self.directory / "log" / f"{name}.log").read_text(errors="replace")

    def down(self) -> None:
        """End everything; nothing of it is left."""
        if self._anchor is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid or self._anchor.pid, signal.SIGKILL)
            self._anchor.wait()
        for process in self._processes.values():
            process.wait()
        with contextlib.suppress(RuntimeError):
            _sh("ip", "link", "del", self._link)
        for top in _CGROUPS.glob("*/kubepods"):
            below = sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
            for path in [*below, top]:
                with contextlib.suppress(OSError):
                    path.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)
