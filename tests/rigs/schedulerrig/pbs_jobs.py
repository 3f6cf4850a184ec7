"""Jobs of the simulated PBS: what was asked for, where they run, and how OpenPBS shows them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from schedulerrig.hosts import Host

__all__ = ["SERVER", "Job", "duration", "parse_options", "seconds"]

SERVER = "pbs"
_KILL_DELAY = 3.0
_WALLTIME_EXCEEDED = -29
_SIGNALLED = 256
_LINE = 78
_VALUED = "AaCceJjklmMNoPpqrSuvW"


def seconds(text: str) -> int:
    """Return the seconds of a duration such as 01:30:00."""
    total = 0
    for part in str(text).split(":"):
        total = 60 * total + int(part)
    return total


def duration(count: float) -> str:
    minutes, rest = divmod(int(count), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def parse_options(words: list[str]) -> dict[str, list[str]]:
    """Return options by their letters, each with all its values."""
    options: dict[str, list[str]] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--" or not word.startswith("-"):
            break
        letter, value = word[1], word[2:]
        if letter in _VALUED and not value and left:
            value = left.pop(0)
        options.setdefault(letter, []).append(value)
    return options


class Job:
    """A job, from qsub to its end and after."""

    def __init__(self, number: int, user: str, asked: dict[str, Any]) -> None:
        script: str = asked["script"]
        directives = [
            word
            for line in script.splitlines()
            if line.startswith("#PBS")
            for word in shlex.split(line[4:])
        ]
        options = parse_options(directives)
        # What stands on the command line goes before what stands in the script.
        options |= {
            letter: values if letter != "l" else [*options.get("l", []), *values]
            for letter, values in parse_options(asked["arguments"]).items()
        }
        self.ident = f"{number}.{SERVER}"
        self.user = user
        self.script = script
        self.cwd = asked["cwd"]
        self.environment = asked["environment"] if "V" in options else {}
        self.name = options.get("N", ["STDIN"])[-1]
        self.queue = options.get("q", ["workq"])[-1]
        self.account = options.get("A", ["_pbs_project_default"])[-1]
        self.held = "h" in options
        self.out = self._path(options.get("o", [f"{self.name}.o{number}"])[-1])
        self.err = self._path(options.get("e", [f"{self.name}.e{number}"])[-1])
        self._read_resources(options.get("l", []))
        self.state = "H" if self.held else "Q"
        self.comment = ""
        self.created = time.time()
        self.started = self.ended = 0.0
        self.status: int | None = None
        self.node: Host | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._dying: tuple[int, float] | None = None

    def _read_resources(self, resources: list[str]) -> None:
        self.walltime = 3600
        self.ncpus, self.chunks, self.select = 1, 1, "1:ncpus=1"
        for item in resources:
            for part in re.split(r",(?=\w+=)", item):
                name, _, value = part.partition("=")
                if name == "walltime":
                    self.walltime = seconds(value)
                elif name == "select":
                    self.select = value
                    chunk, *rest = value.split(":")
                    self.chunks = int(chunk)
                    amounts = dict(one.split("=", 1) for one in rest if "=" in one)
                    self.ncpus = int(amounts.get("ncpus", 1))

    def start(self, node: Host, spool: Path) -> None:
        """Run it on a node, as its user and with the variables that PBS sets."""
        number = self.ident.split(".")[0]
        spooled = spool / number
        spooled.mkdir()
        (spooled / "script").write_text(self.script)
        (spooled / "nodes").write_text(f"{node.name}\n")
        variables = {
            **self.environment,
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_JOBID": self.ident,
            "PBS_JOBNAME": self.name,
            "PBS_QUEUE": self.queue,
            "PBS_O_WORKDIR": self.cwd,
            "PBS_NODEFILE": f"/srv/pbs/spool/{number}/nodes",
            "NCPUS": str(self.ncpus),
            "OMP_NUM_THREADS": str(self.ncpus),
            "TMPDIR": "/tmp",  # noqa: S108 - the node's own
        }
        for name in ("HOME", "USER", "LOGNAME", "SHELL", "PATH"):
            variables.pop(name, None)
        shell = ("bash", "--login", f"/srv/pbs/spool/{number}/script")
        with (spooled / "out").open("wb") as out, (spooled / "err").open("wb") as err:
            self._process = subprocess.Popen(
                node.command(shell, user=self.user, environment=variables),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.node, self.state, self.started = node, "R", time.time()
        when = time.strftime("%a %b %d at %H:%M", time.localtime(self.started))
        self.comment = f"Job run at {when} on ({node.name}:ncpus={self.ncpus})"

    def end(self, status: int) -> None:
        """Begin to end it: SIGTERM, then SIGKILL after the kill delay."""
        if self.state in {"Q", "H"}:
            self._finish(status)
        elif self._process is not None and self._dying is None:
            self._dying = (status, time.monotonic() + _KILL_DELAY)
            self.state = "E"
            self._signal(signal.SIGTERM)

    def tend(self, spool: Path) -> None:
        """See whether it has ended or must end."""
        if self._process is None or self.state == "F":
            return
        found = self._process.poll()
        if self._dying is not None and time.monotonic() > self._dying[1]:
            self._signal(signal.SIGKILL)
        if found is None and self._dying is None and time.time() - self.started > self.walltime:
            used = int(time.time() - self.started)
            text = f"=>> PBS: job killed: walltime {used} exceeded limit {self.walltime}\n"
            with (spool / self.ident.split(".")[0] / "err").open("a") as stream:
                stream.write(text)
            self.end(_WALLTIME_EXCEEDED)
        if found is not None:
            self._signal(signal.SIGKILL)
            told = found if found >= 0 else _SIGNALLED - found
            self._deliver(spool)
            self._finish(self._dying[0] if self._dying else told)

    def _signal(self, sign: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)

    def _deliver(self, spool: Path) -> None:
        """Copy what it said to where the user wants it, as the user."""
        if self.node is None or not self.node.is_up:
            return
        for kind, target in (("out", self.out), ("err", self.err)):
            source = f"/srv/pbs/spool/{self.ident.split('.')[0]}/{kind}"
            self.node.run("cp", source, target, user=self.user, status=None)

    def _path(self, given: str) -> str:
        """Return where a file of output goes: a relative path is below where qsub was called."""
        return str(PurePosixPath(self.cwd) / given.split(":", 1)[-1])

    def _finish(self, status: int) -> None:
        self.state, self.status, self.ended = "F", status, time.time()
        if self.started:
            self.comment += " and failed" if status else " and finished"

    def described(self) -> str:
        """Return its attributes as ``qstat -f`` has them, long lines folded."""
        lines = [f"Job Id: {self.ident}"]
        for name, value in self.shown().items():
            parts = value if isinstance(value, dict) else {}
            pairs = {f"{name}.{key}": one for key, one in parts.items()} or {name: value}
            for key, one in pairs.items():
                text = f"    {key} = {one}"
                # OpenPBS breaks where the line ends, with a tab before the rest.
                lines.append(
                    "\n\t".join(text[at : at + _LINE] for at in range(0, len(text), _LINE))
                )
        return "\n".join([*lines, ""])

    def shown(self) -> dict[str, Any]:
        """Return its attributes as ``qstat -f -F json`` has them."""
        asked = {
            "ncpus": self.ncpus * self.chunks,
            "nodect": self.chunks,
            "place": "free",
            "select": self.select,
            "walltime": duration(self.walltime),
        }
        fields: dict[str, Any] = {
            "Job_Name": self.name,
            "Job_Owner": f"{self.user}@{SERVER}",
            "job_state": self.state,
            "queue": self.queue,
            "server": SERVER,
            "Account_Name": self.account,
            "ctime": time.ctime(self.created),
            "Error_Path": f"{SERVER}:{self.err}",
            "Hold_Types": "u" if self.state == "H" else "n",
            "Output_Path": f"{SERVER}:{self.out}",
            "Resource_List": asked,
        }
        if self.comment:
            fields["comment"] = self.comment
        if self.node is not None:
            fields["exec_host"] = f"{self.node.name}/0*{self.ncpus}"
            used = (self.ended or time.time()) - self.started
            fields["resources_used"] = {"walltime": duration(used), "ncpus": self.ncpus}
        if self.status is not None:
            fields["Exit_status"] = self.status
        return fields
