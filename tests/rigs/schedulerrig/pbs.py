"""A simulated PBS Pro: OpenPBS' commands, formats and exit statuses; jobs are real processes.

``python -m schedulerrig.pbs DIRECTORY`` is its server. What it keeps to: ids, columns, JSON
and errors of ``qsub``, ``qstat`` (``-x``, ``-f``, ``-F json``, ``-B``, ``-Q``) and ``qdel``;
job history, which OpenPBS does not keep unless it is told to; the first id only, as its main
branch has it (openpbs#2672); comments of waiting jobs; walltime; the environment of a job.
What it does not cover: chunks on several hosts, arrays, reservations, dependencies, accounts.
"""

from __future__ import annotations

import json
import os
import pwd
import socket
import socketserver
import struct
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schedulerrig.pbs_jobs import SERVER, Job, duration, parse_options, seconds
from schedulerrig.site import USERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schedulerrig.hosts import Host

__all__ = ["DEFAULTS", "Server", "main"]

DEFAULTS: dict[str, Any] = {
    "job_history_enable": True,
    "first_id_only": False,
    "queues": {
        "workq": {"walltime": "01:00:00", "max_queued": 100},
        "short": {"walltime": "00:02:00", "max_queued": 100},
        "narrow": {"walltime": "01:00:00", "max_queued": 1},
    },
}
"""What ``qmgr`` would set; the file ``pbs/settings.json`` of the rig is read at every request."""
_CPUS = 2
_PERIOD = 0.2
# https://github.com/openpbs/openpbs, src/include/pbs_error.h; commands exit with the low byte.
_UNKNOWN_JOB, _UNKNOWN_QUEUE, _TOO_BIG, _TOO_MANY = 15001, 15018, 15036, 15046
_NO_HISTORY, _HISTORY_JOB, _NOT_OWNER = 15138, 15139, 15007


class _RefusedError(Exception):
    """An answer that is not 0: what is said, and PBS' number for it."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.code = number & 0xFF


class Server:
    """Jobs, and who may do what."""

    def __init__(self, directory: Path, nodes: list[Host]) -> None:
        self._settings_file = directory / "settings.json"
        self._spool = directory / "spool"
        self._nodes = nodes
        self._jobs: dict[str, Job] = {}
        self._number = 0
        self._lock = threading.RLock()

    @property
    def _settings(self) -> dict[str, Any]:
        return dict(json.loads(self._settings_file.read_text()))

    def answer(self, uid: int, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what a command asks for."""
        names = {number: name for name, number in USERS.items()}
        user = names.get(uid) or pwd.getpwuid(uid).pw_name
        out: list[str] = []
        err: list[str] = []
        code = 0
        with self._lock:
            try:
                for kind, text in getattr(self, f"_{asked['command']}")(user, asked):
                    if kind == "err":
                        err.append(text)
                    elif kind == "code":
                        code = text
                    else:
                        out.append(text)
            except _RefusedError as error:
                err.append(f"{asked['command']}: {error}")
                code = error.code
        ends = ("".join(f"{line}\n" for line in lines) for lines in (out, err))
        return dict(zip(("out", "err"), ends, strict=True)) | {"code": code}

    def tick(self) -> None:
        """Start what fits, in order, and see to what runs."""
        with self._lock:
            for job in self._jobs.values():
                job.tend(self._spool)
            for job in self._jobs.values():
                if job.state == "Q":
                    self._try(job)

    def _free(self, node: Host) -> int:
        used = (job.ncpus for job in self._jobs.values() if job.state in "RE" and job.node is node)
        return _CPUS - sum(used) if node.is_up else 0

    def _try(self, job: Job) -> None:
        free = {node: self._free(node) for node in self._nodes}
        if job.ncpus > _CPUS:
            shown = f"(R: {job.ncpus} A: {sum(free.values())} T: {_CPUS * len(free)})"
            job.comment = f"Can Never Run: Insufficient amount of resource: ncpus {shown}"
            return
        for node, cpus in free.items():
            if cpus >= job.ncpus:
                job.start(node, self._spool)
                return
        job.comment = "Not Running: Insufficient amount of resource: ncpus"

    # -- the commands ---------------------------------------------------------------------

    def _qsub(self, user: str, asked: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        job = Job(self._number, user, asked)
        queue = self._settings["queues"].get(job.queue)
        if queue is None:
            raise _RefusedError("Unknown queue", _UNKNOWN_QUEUE)
        if job.walltime > seconds(queue["walltime"]):
            raise _RefusedError("Job exceeds queue and/or server resource limits", _TOO_BIG)
        here = [
            one
            for one in self._jobs.values()
            if one.user == user and one.queue == job.queue and one.state != "F"
        ]
        if len(here) >= queue["max_queued"]:
            raise _RefusedError("Maximum number of jobs already in queue", _TOO_MANY)
        self._jobs[job.ident] = job
        self._number += 1
        yield "out", job.ident

    def _qdel(self, user: str, asked: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for ident in (word for word in asked["arguments"] if not word.startswith("-")):
            job = self._found(ident)
            if job is None:
                yield "err", f"qdel: Unknown Job Id {ident}"
                yield "code", _UNKNOWN_JOB & 0xFF
            elif job.state == "F":
                yield "err", f"qdel: Job has finished {job.ident}"
                yield "code", _HISTORY_JOB & 0xFF
            elif user not in {job.user, "root"}:
                yield "err", f"qdel: Unauthorized Request {job.ident}"
                yield "code", _NOT_OWNER & 0xFF
            else:
                job.end(271)

    def _qstat(self, user: str, asked: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        arguments: list[str] = asked["arguments"]
        as_json = "json" in arguments
        if "-B" in arguments:
            yield from self._shown_server(full="-f" in arguments)
        elif "-Q" in arguments:
            names = [word for word in arguments if word in self._settings["queues"]]
            named = [word for word in arguments if not word.startswith("-") and word != "json"]
            if named and not names:
                raise _RefusedError(f"Unknown queue {named[0]}", _UNKNOWN_QUEUE)
            yield from self._shown_queues(names, full="-f" in arguments)
        else:
            yield from self._shown_jobs(arguments, as_json=as_json)

    # -- what qstat shows -----------------------------------------------------------------

    def _found(self, ident: str) -> Job | None:
        return self._jobs.get(f"{ident.split('.', maxsplit=1)[0]}.{SERVER}")

    def _head(self) -> dict[str, Any]:
        return {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": SERVER}

    def _shown_jobs(self, arguments: list[str], *, as_json: bool) -> Iterator[tuple[str, Any]]:
        settings = self._settings
        history = "x" in parse_options(["-x"] if "-x" in arguments else [])
        if history and not settings["job_history_enable"]:
            raise _RefusedError("PBS is not configured to maintain job history", _NO_HISTORY)
        idents = [word for word in arguments if word[0].isdigit()]
        jobs = [job for job in self._jobs.values() if history or job.state != "F"]
        if idents:
            jobs = []
            for ident in idents:
                job = self._found(ident)
                if job is None or (job.state == "F" and not settings["job_history_enable"]):
                    yield "err", f"qstat: Unknown Job Id {ident}"
                    yield "code", _UNKNOWN_JOB & 0xFF
                elif job.state == "F" and not history:
                    text = "Job has finished, use -x or -H to obtain historical job information"
                    yield "err", f"qstat: {job.ident} {text}"
                    yield "code", _HISTORY_JOB & 0xFF
                else:
                    jobs.append(job)
        if as_json:
            shown = jobs[:1] if settings["first_id_only"] and idents else jobs
            found = {"Jobs": {job.ident: job.shown() for job in shown}} if shown else {}
            yield "out", json.dumps(self._head() | found, indent=4)
            return
        yield from _text(jobs, full="-f" in arguments)

    def _shown_server(self, *, full: bool) -> Iterator[tuple[str, Any]]:
        if full:
            server = {
                "server_state": "Active",
                "server_host": SERVER,
                "scheduling": "True",
                "default_queue": "workq",
            }
            if self._settings["job_history_enable"]:
                server["job_history_enable"] = "True"
            yield "out", json.dumps(self._head() | {"Server": {SERVER: server}}, indent=4)
            return
        yield "out", "Server             Max   Tot   Que   Run   Hld   Wat   Trn   Ext Status"
        yield "out", "---------------- ----- ----- ----- ----- ----- ----- ----- ----- -----------"
        total = len([job for job in self._jobs.values() if job.state != "F"])
        yield "out", f"{SERVER:16}     0 {total:5}     0     0     0     0     0     0 Active"

    def _shown_queues(self, names: list[str], *, full: bool) -> Iterator[tuple[str, Any]]:
        queues = self._settings["queues"]
        if full:
            shown = {
                name: {
                    "queue_type": "Execution",
                    "enabled": "True",
                    "started": "True",
                    "resources_max": {"walltime": queues[name]["walltime"]},
                }
                for name in names or queues
            }
            yield "out", json.dumps(self._head() | {"Queue": shown}, indent=4)
            return
        yield "out", "Queue              Max   Tot Ena Str   Que   Run   Hld   Wat   Trn   Ext Type"
        yield "out", "---------------- ----- ----- --- --- ----- ----- ----- ----- ----- ----- ----"
        for name in queues:
            yield "out", f"{name:16}     0     0 yes yes     0     0     0     0     0     0 Exec"


def _text(jobs: list[Job], *, full: bool) -> Iterator[tuple[str, Any]]:
    """Show jobs with all their attributes, or as a table."""
    if full:
        yield from (("out", job.described()) for job in jobs)
        return
    if jobs:
        yield "out", "Job id            Name             User              Time Use S Queue"
        yield "out", "----------------  ---------------- ----------------  -------- - -----"
    for job in jobs:
        used = duration(time.time() - job.started) if job.started else "0"
        name, user = job.name[:16], job.user[:16]
        line = f"{job.ident:17} {name:16} {user:16}  {used:>8} {job.state} {job.queue}"
        yield "out", line


class _Handler(socketserver.StreamRequestHandler):
    server: _Socket

    def handle(self) -> None:
        credentials = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("3i", credentials)
        asked = json.loads(self.rfile.read())
        self.wfile.write(json.dumps(self.server.pbs.answer(uid, asked)).encode())


class _Socket(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, pbs: Server) -> None:
        self.pbs = pbs
        super().__init__(str(path), _Handler)


def main(directory: Path) -> None:
    from schedulerrig.rig import Rig

    rig = Rig(directory)
    place = directory / "pbs"
    pbs = Server(place, [rig.hosts["p1"], rig.hosts["p2"]])
    with _Socket(place / "socket", pbs) as server:
        os.chmod(place / "socket", 0o666)  # noqa: PTH101, S103 - every user may submit
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while True:
            pbs.tick()
            time.sleep(_PERIOD)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
