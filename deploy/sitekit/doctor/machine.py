"""Look at this machine: the endpoint's environment, directories, quotas, leftovers, commands."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sitekit.containers import image_file
from sitekit.context import expand_home
from sitekit.derive import derive
from sitekit.doctor.findings import failed, good, skipped, warned
from sitekit.shell import run
from sitekit.target.places import places_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitserve.errors import Check
    from sitekit.doctor.findings import Patient
    from sitekit.shell import Result

__all__ = ["answers", "look", "place"]

_LOCK = Path(__file__).resolve().parents[3] / "requirements" / "endpoint.lock"
_NEEDED_GB = 1.0
_SLOW = 0.5
# Commands may take longer than Parsl's own limit, so that a finding says how long.
_PATIENCE = 3
_NEARLY_FULL = 0.9
_PROC = Path("/proc")


def place(patient: Patient, path: str) -> Path | None:
    """Return a path of the site as it is on this machine, or None if a variable is unset."""
    home = str(patient.rendering.home)
    expanded = os.path.expandvars(path.replace("~", home, 1).replace("$HOME", home))
    return None if "$" in expanded else Path(expanded)


def look(patient: Patient) -> Iterator[Check]:
    """Examine everything that needs neither scheduler nor network."""
    yield _endpoint(patient)
    yield from _image(patient)
    yield _run_directory(patient)
    yield _quota()
    yield _credentials(patient)
    yield from _leftovers(patient)


def _locked_version() -> str:
    match = re.search(r"^globus-compute-endpoint==(\S+)", _LOCK.read_text("utf-8"), re.MULTILINE)
    return match[1] if match else ""


def _endpoint(patient: Patient) -> Check:
    if patient.site.scheduler.type == "kubernetes":
        return skipped("endpoint", "it runs in a pod, from the image")
    venv = expand_home(patient.site.endpoint.venv, patient.rendering)
    command = f"{venv}/bin/globus-compute-endpoint"
    locked = _locked_version()
    # As a systemd unit would start it: with hardly any environment.
    bare = {"PATH": f"{venv}/bin:/usr/local/bin:/usr/bin:/bin", "HOME": str(patient.rendering.home)}
    done = run(command, "version", timeout=60, environment=bare)
    if done.missing:
        return warned(
            "endpoint",
            "globus-compute-endpoint is not installed yet",
            evidence=done.words,
            field="endpoint.venv",
            change="`make deploy` installs it; or the environment that holds it",
        )
    match = re.search(r"\d+\.\d+\.\d+", done.out)
    if not done.ok or match is None:
        return failed(
            "endpoint",
            "globus-compute-endpoint does not start",
            evidence=done.words,
            field="endpoint.venv",
            change="install it again from requirements/endpoint.lock",
        )
    if match[0] != locked:
        return failed(
            "endpoint",
            f"globus-compute-endpoint is {match[0]}, and this release is made for {locked}",
            evidence=done.words,
            field="endpoint.venv",
            change=f"install {locked} from requirements/endpoint.lock",
        )
    return good("endpoint", f"globus-compute-endpoint {match[0]} starts with a bare environment")


def _image(patient: Patient) -> Iterator[Check]:
    site = patient.site.pinned(patient.rendering.version)
    image = image_file(site)
    if image is not None:
        path = place(patient, image) or Path(image)
        if path.is_file() and os.access(path, os.R_OK):
            yield good("image", f"{path} is there, {path.stat().st_size / 1e9:.1f} GB")
        else:
            yield failed(
                "image",
                "the workers' image is not there",
                evidence=str(path),
                field="environment.container.image",
                change="build it (`make sif`) and copy it there, or the path where it is",
            )
    venv = site.environment.venv
    if venv is not None:
        path = place(patient, venv) or Path(venv)
        yield _worker(patient, path / "bin" / "python3")


def _worker(patient: Patient, python: Path) -> Check:
    ask = "import importlib.metadata as m; print(m.version('fitserve-worker'))"
    done = run(str(python), "-c", ask, timeout=60)
    version = patient.rendering.version
    if not done.ok:
        return failed(
            "worker",
            "fitserve-worker is not in the workers' environment",
            evidence=done.words.splitlines()[-1],
            field="environment.venv",
            change="install fitserve-worker there, or the environment that holds it",
        )
    if done.out.strip() != version:
        return failed(
            "worker",
            f"fitserve-worker is {done.out.strip()}, and the client is {version}",
            evidence=str(python),
            field="environment.venv",
            change=f"install fitserve-worker {version} there",
        )
    return good("worker", f"fitserve-worker {version}")


def _run_directory(patient: Patient) -> Check:
    if patient.site.scheduler.type == "kubernetes":
        return skipped("run directory", "it is in a pod")
    path = place(patient, patient.site.directories.run)
    field = "directories.run"
    if path is None:
        return failed(
            "run directory",
            "its path has a variable that is not set here",
            evidence=patient.site.directories.run,
            field=field,
            change="a path whose variables are set at login",
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path) as trial:
            trial.write(b"\0" * 1024**2)
            trial.flush()
            os.fsync(trial.fileno())
    except OSError as error:
        return failed(
            "run directory",
            "it cannot be written",
            evidence=str(error),
            field=field,
            change="a directory of yours with free space, on a shared file system",
        )
    free = shutil.disk_usage(path).free / 2**30
    if free < _NEEDED_GB:
        return failed(
            "run directory",
            f"its disk has {free:.1f} GiB left, logs need {_NEEDED_GB:g}",
            evidence=str(path),
            field=field,
            change="a directory on another file system",
        )
    return good("run directory", f"{path} can be written, {free:.0f} GiB are free")


def _quota() -> Check:
    done = run("quota", "--no-wrap", "--raw-grace", timeout=30)
    rows = []
    for line in done.out.splitlines():
        words = line.split()
        if len(words) > 3 and words[1].rstrip("*").isdigit():  # noqa: PLR2004
            rows.append(words)
    if not rows:
        return skipped(
            "disk quota", "this machine has no quota command that reports one", done.words
        )
    for words in rows:
        used, limit = int(words[1].rstrip("*")), max(int(words[2]), int(words[3]))
        full = used / limit if limit else 0.0
        evidence = f"{words[0]}: {used} of {limit} blocks"
        if words[1].endswith("*") or full >= 1:
            return failed(
                "disk quota",
                "a disk quota is used up",
                evidence=evidence,
                field="directories.run",
                change="remove files, or directories on another file system",
            )
        if full > _NEARLY_FULL:
            return warned(
                "disk quota",
                f"a disk quota is used up to {100 * full:.0f} %",
                evidence=evidence,
                field="directories.run",
                change="remove files, or directories on another file system",
            )
    return good("disk quota", f"{len(rows)} file systems have room")


def _credentials(patient: Patient) -> Check:
    path = Path(expand_home(places_of(patient.site).credentials, patient.rendering))
    if not path.exists():
        return skipped("credentials", "there is no credentials file yet", str(path))
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return failed(
            "credentials",
            "others can read the endpoint's credentials",
            evidence=f"{path} has mode {mode:o}",
            change=f"chmod 600 {path}, and replace the secret: it may be known",
        )
    return good("credentials", f"{path} is readable by its owner alone")


def _leftovers(patient: Patient) -> Iterator[Check]:
    name = derive(patient.site).endpoint_name
    configuration = expand_home(places_of(patient.site).configuration, patient.rendering)
    pid_file = Path(configuration) / "daemon.pid"
    alive = None
    if pid_file.is_file():
        text = pid_file.read_text(encoding="utf-8", errors="replace").strip()
        alive = int(text) if text.isdigit() and (_PROC / text).is_dir() else None
        if alive is None:
            yield warned(
                "old endpoint",
                "a dead endpoint has left its PID file",
                evidence=f"{pid_file} names {text or 'nothing'}",
                change=f"rm {pid_file}",
            )
        else:
            yield good("old endpoint", f"the endpoint is running as process {alive}")
    orphans = [] if alive else _processes(name)
    if orphans:
        yield warned(
            "old processes",
            "workers or an interchange of a dead endpoint are still running",
            evidence="; ".join(f"{pid}: {command[:60]}" for pid, command in orphans[:5]),
            change="kill " + " ".join(str(pid) for pid, _ in orphans),
        )
    elif not pid_file.is_file():
        yield good("old endpoint", "nothing is left of an earlier one")


def _processes(name: str) -> list[tuple[int, str]]:
    """Return this user's processes of an endpoint's engine: ids and command lines."""
    processes = []
    ours = re.compile(rf"/{re.escape(name)}(-HighThroughputExecutor|[ /]|$)")
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid != os.getuid():
                continue
            raw = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        command = raw.replace(b"\0", b" ").decode(errors="replace").strip()
        if "process_worker_pool" in command and ours.search(command):
            processes.append((int(entry.name), command))
    return processes


def answers(
    patient: Patient, needed: Sequence[str], timed: Sequence[tuple[str, ...]]
) -> Iterator[Check | list[Result]]:
    """Look for commands and time some of them; yields findings, and last the results.

    Parameters
    ----------
    patient
        What is examined.
    needed
        Commands that must be on the PATH.
    timed
        Commands to run and time, none of which changes anything.
    """
    kind = patient.site.scheduler.type
    absent = [name for name in needed if shutil.which(name) is None]
    if absent:
        yield failed(
            "commands",
            f"{', '.join(absent)} of {kind} are not on the PATH",
            evidence=f"looked for {', '.join(needed)}",
            field="scheduler.type",
            change="the scheduler that this machine has, or run this on its login node with the "
            "scheduler's module loaded",
        )
    results = [
        run(*command, timeout=_PATIENCE * patient.timeout)
        for command in timed
        if command[0] not in absent
    ]
    slowest = max(results, key=lambda result: result.seconds, default=None)
    if slowest is None:
        yield []
        return
    if slowest.silent or slowest.seconds > patient.timeout:
        advised = min(600, max(120, round(2 * slowest.seconds)))
        yield failed(
            "answer",
            f"{slowest.command.split()[0]} takes longer than the {patient.timeout} s that Parsl "
            "gives it",
            evidence=f"{slowest.command}: {slowest.seconds:.1f} s"
            + (" and no answer" if slowest.silent else ""),
            field="scheduler.cmd_timeout",
            change=f"cmd_timeout: {advised}",
        )
    elif slowest.seconds > _SLOW * patient.timeout:
        yield warned(
            "answer",
            f"{slowest.command.split()[0]} takes more than half of the {patient.timeout} s that "
            "Parsl gives it",
            evidence=f"{slowest.command}: {slowest.seconds:.1f} s",
            field="scheduler.cmd_timeout",
            change=f"cmd_timeout: {min(600, 2 * patient.timeout)}",
        )
    elif not absent:
        yield good(
            "answer", f"{len(results)} commands answer, the slowest in {slowest.seconds:.1f} s"
        )
    yield results
