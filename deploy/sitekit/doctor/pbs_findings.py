"""Examine PBS Pro and Torque: commands, queue, history, and trial jobs, held and then deleted."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sitekit.derive import derive, hms
from sitekit.doctor.findings import failed, good, skipped, warned
from sitekit.doctor.machine import answers
from sitekit.doctor.slurm_findings import limit_seconds
from sitekit.shell import Result, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.errors import Check
    from sitekit.doctor.findings import Patient

__all__ = ["look"]

_COMMANDS = ("qsub", "qstat", "qdel")
_COMPLAINTS = (
    (r"[Uu]nknown queue|[Qq]ueue.*(not enabled|disabled)", "scheduler.queue", "another queue"),
    (r"[Aa]ccount|[Pp]roject", "scheduler.account", "a project of yours"),
    (r"walltime", "blocks.walltime", "a shorter time"),
    (r"filesystems", "scheduler.directives", "-l filesystems=..."),
    (r"ngpus|gpu", "node.gpus", "GPUs as the queue has them"),
    (r"ncpus|ppn", "node.cores", "no more than a node has"),
    (r"resource limits|exceeds", "scheduler.queue", "a queue whose limits fit"),
)


def look(patient: Patient, _: Path) -> Iterator[Check]:
    """Examine PBS Pro or Torque as far as the site uses it."""
    pro = patient.site.scheduler.type == "pbspro"
    commands = [("qstat", "-B"), ("qstat", "-Q")]
    results: list[Result] = []
    for item in answers(patient, _COMMANDS, commands):
        if isinstance(item, list):
            results = item
        else:
            yield item
    if not results:
        return
    broken = [result for result in results if not result.ok]
    if len(broken) == len(results):
        yield failed(
            "server",
            "the PBS server does not answer",
            evidence=broken[0].words,
            change="wait, or ask the site",
        )
        return
    yield good("server", "the PBS server is up")
    if pro:
        yield _history(patient)
    yield from _queue(patient, pro=pro)
    yield from _trial(patient, pro=pro)


def _json(result: Result, key: str) -> dict[str, Any]:
    """Return one part of qstat's JSON, empty if there is none."""
    try:
        loaded = json.loads(result.out)
        part = loaded[key]
    except (ValueError, KeyError, TypeError):
        return {}
    return part if isinstance(part, dict) else {}


def _history(patient: Patient) -> Check:
    done = run("qstat", "-B", "-f", "-F", "json", timeout=patient.timeout)
    servers = _json(done, "Server")
    if not servers:
        return failed(
            "job history",
            "qstat does not answer in JSON, which Parsl reads",
            evidence=done.words,
            field="scheduler.type",
            change="torque, if this is not PBS Pro or OpenPBS",
        )
    on = any(str(server.get("job_history_enable")) == "True" for server in servers.values())
    if not on:
        return failed(
            "job history",
            "the server keeps no job history: Parsl asks for finished jobs and fails every task",
            evidence="job_history_enable is not True",
            change="ask the site for: qmgr -c 'set server job_history_enable=True'",
        )
    return good("job history", "the server keeps finished jobs, which Parsl asks for")


def _queue_fields(patient: Patient, name: str, *, pro: bool) -> tuple[dict[str, str], Result]:
    if not pro:
        done = run("qstat", "-Q", "-f", name, timeout=patient.timeout)
        return dict(re.findall(r"^\s+([\w.]+) = (.+)$", done.out, re.MULTILINE)), done
    done = run("qstat", "-Q", "-f", "-F", "json", name, timeout=patient.timeout)
    fields = _json(done, "Queue").get(name, {})
    flat = {key: str(value) for key, value in fields.items() if not isinstance(value, dict)}
    for key, below in fields.items():
        if isinstance(below, dict):
            flat |= {f"{key}.{inner}": str(value) for inner, value in below.items()}
    return flat, done


def _queue(patient: Patient, *, pro: bool) -> Iterator[Check]:
    name = patient.site.scheduler.queue
    if name is None:
        yield skipped("queue", "the server's default is used; see the trial below")
        return
    fields, done = _queue_fields(patient, name, pro=pro)
    if not fields:
        listed = run("qstat", "-Q", timeout=patient.timeout).out.splitlines()[2:]
        names = ", ".join(line.split()[0] for line in listed if line.split())
        yield failed(
            "queue",
            f"the server has no queue {name}",
            evidence=f"{done.words}\nthere are: {names}",
            field="scheduler.queue",
            change="one of these",
        )
        return
    for state in ("enabled", "started"):
        if fields.get(state) == "False":
            yield failed(
                "queue",
                f"queue {name} is not {state}",
                evidence=f"{state} = False",
                field="scheduler.queue",
                change="wait, or another queue",
            )
    seconds = derive(patient.site).walltime_seconds or 0
    most = limit_seconds(fields.get("resources_max.walltime", ""))
    if most is not None and seconds > most:
        yield failed(
            "walltime",
            f"queue {name} allows {hms(most)}, {hms(seconds)} are asked for",
            evidence=f"resources_max.walltime = {fields['resources_max.walltime']}",
            field="blocks.walltime",
            change=f'walltime: "{hms(most)}"',
        )
    nodes = fields.get("resources_max.nodect", "")
    if nodes.isdigit() and patient.site.blocks.nodes > int(nodes):
        yield failed(
            "nodes",
            f"queue {name} allows {nodes} nodes, {patient.site.blocks.nodes} are asked for",
            evidence=f"resources_max.nodect = {nodes}",
            field="blocks.nodes",
            change=f"nodes: {nodes}",
        )
    yield good("queue", f"queue {name} is there")


def _held(patient: Patient, *, pro: bool) -> Result:
    """Submit a job like a block, held so that it never runs."""
    site = patient.site
    words = ["qsub", "-h", "-N", "fitserve-trial"]
    if site.scheduler.queue:
        words += ["-q", site.scheduler.queue]
    if site.scheduler.account:
        words += ["-A", site.scheduler.account]
    words += ["-l", f"walltime={hms(derive(site).walltime_seconds or 0)}"]
    if pro:
        chunk = [f"{site.blocks.nodes}", f"ncpus={site.node.cpus}", *site.scheduler.select]
        if site.node.gpus and site.node.gpus.request == "ngpus":
            chunk.append(f"ngpus={site.node.gpus.count}")
        words += ["-l", f"select={':'.join(chunk)}"]
    else:
        words += ["-l", f"nodes={site.blocks.nodes}:ppn=1"]
    for option in site.scheduler.directives:
        words += option.split(" ")
    # As a file: not every qsub reads a script from its standard input.
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "trial.sh"
        script.write_text("#!/bin/bash\ntrue\n", encoding="utf-8")
        return run(*words, str(script), timeout=patient.timeout)


def _trial(patient: Patient, *, pro: bool) -> Iterator[Check]:
    jobs = []
    try:
        for _ in range(2 if pro else 1):
            done = _held(patient, pro=pro)
            if not done.ok:
                yield _refused(done)
                return
            jobs.append(done.out.strip().splitlines()[-1])
        yield good("trial", f"qsub accepts such a job (held: {', '.join(jobs)})")
        yield _status(patient, jobs, pro=pro)
    finally:
        if jobs:
            gone = run("qdel", *jobs, timeout=patient.timeout)
            if not gone.ok:
                yield warned(
                    "trial",
                    "the held jobs of the trial could not be removed",
                    evidence=gone.words,
                    change=f"qdel {' '.join(jobs)}",
                )


def _refused(done: Result) -> Check:
    for pattern, field, change in _COMPLAINTS:
        if re.search(pattern, done.err or done.out):
            return failed(
                "trial", "qsub refuses such a job", evidence=done.words, field=field, change=change
            )
    return failed(
        "trial",
        "qsub refuses such a job",
        evidence=done.words,
        field="scheduler",
        change="what qsub complains about",
    )


def _status(patient: Patient, jobs: list[str], *, pro: bool) -> Check:
    """Ask for the jobs exactly as Parsl's provider does."""
    if pro:
        done = run("qstat", "-x", "-f", "-F", "json", *jobs, timeout=patient.timeout)
        shown = _json(done, "Jobs")
        lost = [job for job in jobs if not any(job.startswith(key) for key in shown)]
        if not done.ok or lost:
            return failed(
                "job status",
                f"qstat shows {len(shown)} of {len(jobs)} jobs that are asked for at once: Parsl "
                "takes the others for finished and keeps submitting more",
                evidence=done.words if not done.ok else f"missing: {', '.join(lost)}",
                change="blocks: {max: 1} until the site has an OpenPBS that answers for all",
                field="blocks.max",
            )
        return good("job status", "qstat answers for several jobs at once, as Parsl asks")
    done = run("qstat", *jobs, timeout=patient.timeout)
    rows = [line.split() for line in done.out.splitlines()]
    matches = [row for row in rows if len(row) > 4 and jobs[0].startswith(row[0].rstrip("*"))]  # noqa: PLR2004
    if not matches:
        return failed(
            "job status",
            "qstat does not show a job in the columns that Parsl reads",
            evidence=done.words,
            field="scheduler.type",
            change="pbspro, if this is PBS Pro or OpenPBS",
        )
    return good("job status", f"qstat shows a job's state ({matches[0][4]}), as Parsl reads it")
