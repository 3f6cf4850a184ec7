"""Hosts: processes in namespaces of their own, on a switch that is a namespace too."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["PATH", "Host", "Switch", "alive", "end_process", "sh", "wait_for"]

PATH = "/usr/local/bin:/usr/bin:/bin"
# The first process of a host: it ends with all others, and reaps what they leave.
_INIT = """
import os, time
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
"""


# Started by this process, by the pid of what they started in its namespaces.
_anchors: dict[int, subprocess.Popen[bytes]] = {}


def sh(*command: object, **options: Any) -> str:
    """Run a command outside; returns what it prints, and raises with what it says."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        **options,
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, command))}: {done.stderr or done.stdout}")
    return done.stdout


def wait_for(what: str, ready: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Ask until the answer is true; returns it.

    Raises
    ------
    AssertionError
        It did not come true in time.
    """
    return waiting.wait_for(what, ready, seconds, every=0.1)


def alive(pid: int) -> bool:
    """Return whether there is such a process that has not ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _start_anchor(
    script: str, pid_file: Path, namespaces: Sequence[str], python: str = sys.executable
) -> int:
    pid_file.unlink(missing_ok=True)
    # Its own pid as it is outside: /proc is still the outer one.
    told = f"read -r pid _ < /proc/self/stat; echo $pid > {pid_file}.new\n"
    done = f"mv {pid_file}.new {pid_file}\nexec {python} -c {shlex.quote(_INIT)}"
    with pid_file.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [
                *("unshare", *namespaces, "--propagation", "private", "--kill-child"),
                *("bash", "-ec", f"{told}{script}\n{done}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )

    def up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"no namespaces: {pid_file.with_suffix('.log').read_text()}")
        return pid_file.is_file()

    wait_for(f"namespaces of {pid_file.stem}", up)
    pid = int(pid_file.read_text())
    _anchors[pid] = process
    return pid


def end_process(pid: int) -> None:
    """Kill a process and wait for its end; it may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_for(f"the end of process {pid}", lambda: not alive(pid))
    if pid in _anchors:
        _anchors.pop(pid).wait()


class Switch:
    """A bridge in a network namespace, and the interface of the machine outside on it."""

    def __init__(self, directory: Path, number: int) -> None:
        self.network = f"10.78.{number}"
        self.outside = f"fsrig{number}"
        self._pid_file = directory / "switch.pid"

    @property
    def pid(self) -> int:
        return int(self._pid_file.read_text())

    def up(self) -> None:
        pid = _start_anchor("", self._pid_file, ("--net", "--mount", "--pid", "--fork"))
        self._inside("ip", "link", "set", "lo", "up")
        self._inside("ip", "link", "add", "br0", "type", "bridge")
        self._inside("ip", "link", "set", "br0", "up")
        sh("ip", "link", "add", self.outside, "type", "veth", "peer", "name", "out", "netns", pid)
        self._inside("ip", "link", "set", "out", "master", "br0", "up")
        sh("ip", "addr", "add", f"{self.network}.1/24", "dev", self.outside)
        sh("ip", "link", "set", self.outside, "up")

    def plug(self, host: Host) -> None:
        """Give a host an interface ``eth0`` with its address."""
        port = f"to-{host.name}"
        with contextlib.suppress(RuntimeError):
            self._inside("ip", "link", "del", port)
        # Made here and moved: the namespace of a host does not see the switch's.
        # The same card after a reboot: others remember where an address was.
        card = "02:00:" + ":".join(f"{int(part):02x}" for part in host.address.split("."))
        peer = ("peer", "name", "eth0", "address", card)
        self._inside("ip", "link", "add", port, "type", "veth", *peer)
        command = ("nsenter", "--target", self.pid, "--net", "ip", "link", "set", "eth0", "netns")
        sh(*command, host.pid)
        self._inside("ip", "link", "set", port, "master", "br0", "up")
        for words in (
            f"addr add {host.address}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
        ):
            sh("nsenter", "--target", host.pid, "--net", "ip", *words.split())

    def cut(self, host: Host, *, off: bool = True) -> None:
        """Take a host off the network, or put it back."""
        self._inside("ip", "link", "set", f"to-{host.name}", "down" if off else "up")

    def down(self) -> None:
        if self._pid_file.is_file():
            end_process(self.pid)
        with contextlib.suppress(RuntimeError):
            sh("ip", "link", "del", self.outside)

    def _inside(self, *command: str) -> None:
        sh("nsenter", "--target", self.pid, "--net", *command)


class Host:
    """A host; what runs on it, it runs as on a machine of its own.

    Parameters
    ----------
    directory
        Of the rig, outside.
    """

    def __init__(self, directory: Path, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self._pid_file = directory / f"{name}.pid"
        self._started: list[subprocess.Popen[str]] = []

    @property
    def pid(self) -> int:
        """Its first process, as seen from outside."""
        return int(self._pid_file.read_text())

    @property
    def is_up(self) -> bool:
        return self._pid_file.is_file() and alive(self.pid)

    def up(self, mounts: str, switch: Switch) -> None:
        """Bring it up with nothing running; ``mounts`` is a shell script."""
        script = f"mount -t proc proc /proc\n{mounts}\nhostname {self.name}"
        namespaces = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork")
        _start_anchor(script, self._pid_file, namespaces, "/srv/python/bin/python3")
        switch.plug(self)

    def kill(self) -> None:
        """Let it die as by a power cut: every process on it ends at once."""
        if self._pid_file.is_file():
            end_process(self.pid)
        while self._started:
            self._started.pop().wait()

    def command(
        self,
        command: Sequence[object],
        *,
        user: str = "root",
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Return the command that runs one on this host, in a login's environment."""
        home = "/root" if user == "root" else f"/home/{user}"
        variables = {
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "PATH": f"{PATH}:/usr/sbin:/sbin" if user == "root" else PATH,
            **(environment or {}),
        }
        pairs = [f"{name}={value}" for name, value in variables.items()]
        become: tuple[str, ...] = ()
        if user != "root":
            become = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
        return [
            *("nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--ipc", "--pid"),
            *(f"--wdns={cwd or home}", *become, "env", "-i", *pairs),
            *map(str, command),
        ]

    def run(
        self,
        *command: object,
        user: str = "root",
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
        status: int | None = 0,
        timeout: float = 120,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; an exit status other than ``status`` is an error."""
        done = subprocess.run(
            self.command(command, user=user, cwd=cwd, environment=environment),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert status is None or done.returncode == status, (
            f"{self.name}: {shlex.join(map(str, command))}: status {done.returncode}\n"
            f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        )
        return done

    def start(
        self, *command: object, log: Path, user: str = "root", **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command that goes on, with what it says in a file outside."""
        with log.open("ab") as stream:
            process = subprocess.Popen(
                self.command(command, user=user, **options),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                text=True,
            )
        self._started.append(process)
        return process
