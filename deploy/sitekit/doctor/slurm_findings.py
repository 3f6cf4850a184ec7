"""Examine Slurm: controller, partition, account, QOS, node shape, and a trial submission."""

from __future__ import annotations

import getpass
import re
from typing import TYPE_CHECKING

from fitserve.schedulers.base import clock_seconds
from sitekit.derive import derive, hms
from sitekit.doctor.findings import failed, good, skipped, warned
from sitekit.doctor.machine import answers
from sitekit.jobs import find_jobs
from sitekit.shell import Result, run

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from fitserve.errors import Check
    from sitekit.doctor.findings import Patient

__all__ = ["limit_seconds", "look"]

_COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol", "sacct")
# Messages of sbatch, the field that each is about, and what to write there.
_COMPLAINTS = (
    (r"[Ii]nvalid account", "scheduler.account", "an account of yours"),
    (r"[Ii]nvalid qos", "scheduler.qos", "a QOS that your account may use"),
    (r"[Ii]nvalid partition", "scheduler.partition", "a partition that `sinfo` shows"),
    (r"[Ii]nvalid feature", "scheduler.constraint", "a feature that `sinfo -o %f` shows"),
    (r"[Ii]nvalid generic resource|gres", "node.gpus", "GPUs as `sinfo -o %G` shows them"),
    (r"time limit", "blocks.walltime", "a shorter time"),
    (r"[Mm]emory", "node.memory_gb", "less memory"),
    (r"node configuration|CPU count|[Tt]oo many", "node.cores", "no more than a node has"),
)


def limit_seconds(text: str) -> int | None:
    """Return the seconds of one of Slurm's time limits, or None if it is unlimited.

    Examples
    --------
    >>> limit_seconds("2-00:00:00"), limit_seconds("30:00"), limit_seconds("UNLIMITED")
    (172800, 1800, None)
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", text.strip())
    if match is None:
        return None
    days, clock = match.groups()
    # After days come hours; a number alone is of minutes.
    missing = 2 - clock.count(":") if days else int(":" not in clock)
    return int(days or 0) * 86400 + clock_seconds(clock + ":0" * missing)


def look(patient: Patient, script: Path) -> Iterator[Check]:
    """Examine Slurm as far as the site uses it.

    Parameters
    ----------
    patient
        What is examined.
    script
        The rendered pre-flight job, which is submitted for trial only.
    """
    commands = [
        ("scontrol", "ping"),
        ("squeue", "--noheader", "--me"),
        ("sacct", "-X", "--noheader"),
    ]
    results: list[Result] = []
    for item in answers(patient, _COMMANDS, commands):
        if isinstance(item, list):
            results = item
        else:
            yield item
    by_name = {result.command.split()[0]: result for result in results}
    if not {"scontrol", "squeue"} <= set(by_name):
        return
    if (by_name["scontrol"].ok and "DOWN" in by_name["scontrol"].out) or not by_name["squeue"].ok:
        yield failed(
            "controller",
            "Slurm's controller does not answer",
            evidence=by_name["squeue"].words
            if not by_name["squeue"].ok
            else by_name["scontrol"].out,
            change="wait, or ask the site",
        )
        return
    yield good("controller", "Slurm's controller is up")
    if "sacct" in by_name:
        yield _accounting(by_name["sacct"])
    partition = yield from _partition(patient)
    if partition:
        yield from _nodes(patient, partition)
    yield _account(patient)
    yield from _qos(patient)
    yield _trial(patient, script)
    yield _old_jobs(patient)


def _accounting(result: Result) -> Check:
    if result.ok:
        return good("accounting", "sacct works, so Parsl can tell how a block ended")
    return warned(
        "accounting",
        "sacct does not work: Parsl falls back to squeue and takes every lost block for a "
        "finished one",
        evidence=result.words,
        change="ask the site to switch accounting storage on",
    )


def _partition(patient: Patient) -> Generator[Check, None, str | None]:
    site, timeout = patient.site, patient.timeout
    name: str | None = site.scheduler.partition
    listed = run("sinfo", "--noheader", "--format=%P", timeout=timeout)
    names = listed.out.split()
    if name is None:
        name = next((entry.rstrip("*") for entry in names if entry.endswith("*")), None)
        if name is None:
            yield failed(
                "partition",
                "Slurm has no default partition",
                evidence=f"there are: {', '.join(names)}",
                field="scheduler.partition",
                change=f"partition: {names[0] if names else '<name>'}",
            )
            return None
    shown = run("scontrol", "show", "partition", name, "--oneliner", timeout=timeout)
    if not shown.ok or f"PartitionName={name}" not in shown.out:
        yield failed(
            "partition",
            f"Slurm knows no partition {name}",
            evidence=f"{shown.words}\nthere are: {', '.join(n.rstrip('*') for n in names)}",
            field="scheduler.partition",
            change="one of these",
        )
        return None
    fields = dict(re.findall(r"(\w+)=(\S+)", shown.out))
    if fields.get("State") not in {None, "UP"}:
        yield failed(
            "partition",
            f"partition {name} is {fields['State']}",
            evidence=f"State={fields['State']}",
            field="scheduler.partition",
            change="wait, or another partition",
        )
    seconds, most = derive(site).walltime_seconds or 0, limit_seconds(fields.get("MaxTime", ""))
    if most is not None and seconds > most:
        yield failed(
            "walltime",
            f"partition {name} allows {hms(most)}, {hms(seconds)} are asked for: such jobs wait "
            "for ever",
            evidence=f"MaxTime={fields['MaxTime']}",
            field="blocks.walltime",
            change=f'walltime: "{hms(most)}"',
        )
    nodes = fields.get("MaxNodes", "")
    if nodes.isdigit() and site.blocks.nodes > int(nodes):
        yield failed(
            "nodes",
            f"partition {name} allows {nodes} nodes, {site.blocks.nodes} are asked for",
            evidence=f"MaxNodes={nodes}",
            field="blocks.nodes",
            change=f"nodes: {nodes}",
        )
    account, allowed = site.scheduler.account, fields.get("AllowAccounts", "ALL")
    if account and allowed != "ALL" and account not in allowed.split(","):
        yield failed(
            "account",
            f"partition {name} is not for account {account}",
            evidence=f"AllowAccounts={allowed}",
            field="scheduler.account",
            change=f"one of {allowed}",
        )
    yield good("partition", f"partition {name} is there, up to {fields.get('MaxTime', '?')}")
    return name


def _nodes(patient: Patient, partition: str) -> Iterator[Check]:
    site = patient.site
    form = "--format=%c|%m|%G|%f|%a"
    done = run("sinfo", "--noheader", f"--partition={partition}", form, timeout=patient.timeout)
    rows = [line.split("|") for line in done.out.splitlines() if line.count("|") >= 4]  # noqa: PLR2004
    if not rows:
        yield skipped("node shape", "sinfo shows no nodes of this partition", done.words)
        return
    cpus = max(int(row[0].rstrip("+")) for row in rows)
    memory = max(int(row[1].rstrip("+")) for row in rows) / 1024
    needed_cpus = site.node.cpus
    if needed_cpus > cpus:
        yield failed(
            "node shape",
            f"nodes of {partition} have {cpus} CPUs at most, {needed_cpus} are asked for",
            evidence=f"sinfo %c: {', '.join(sorted({row[0] for row in rows}))}",
            field="node.cores",
            change=f"cores: {cpus // site.node.cpus_per_core}",
        )
    needed_memory = site.node.memory_gb or 0
    if needed_memory > memory:
        yield failed(
            "node shape",
            f"nodes of {partition} have {memory:.0f} GiB at most, {needed_memory} are asked for",
            evidence=f"sinfo %m: {', '.join(sorted({row[1] for row in rows}))} MiB",
            field="node.memory_gb",
            change=f"memory_gb: {int(memory)}",
        )
    if site.node.gpus and not any("gpu" in row[2] for row in rows):
        yield failed(
            "GPUs",
            f"nodes of {partition} have no GPUs",
            evidence=f"sinfo %G: {', '.join(sorted({row[2] for row in rows}))}",
            field="scheduler.partition",
            change="a partition with GPUs, see `sinfo -o '%P %G'`",
        )
    feature = site.scheduler.constraint
    plain = feature and re.fullmatch(r"\w+", feature)
    if plain and not any(feature in re.split(r"[,|&]", row[3]) for row in rows):
        yield failed(
            "constraint",
            f"no node of {partition} has feature {feature}",
            evidence=f"sinfo %f: {', '.join(sorted({row[3] for row in rows}))}",
            field="scheduler.constraint",
            change="one of these, or none",
        )


def _account(patient: Patient) -> Check:
    account = patient.site.scheduler.account
    done = run(
        "sacctmgr", "--noheader", "--parsable2", "show", "associations",
        f"user={getpass.getuser()}", "format=account,qos", timeout=patient.timeout,
    )  # fmt: skip
    accounts = sorted({line.split("|")[0] for line in done.out.splitlines() if line.strip()})
    if not done.ok or not accounts:
        return skipped("account", "sacctmgr shows no accounts; see the trial below", done.words)
    if account and account not in accounts:
        return failed(
            "account",
            f"you are not in account {account}",
            evidence=f"yours: {', '.join(accounts)}",
            field="scheduler.account",
            change=f"account: {accounts[0]}",
        )
    return good("account", f"your accounts: {', '.join(accounts)}")


def _qos(patient: Patient) -> Iterator[Check]:
    name = patient.site.scheduler.qos
    if name is None:
        return
    done = run(
        "sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=name,maxwall",
        timeout=patient.timeout,
    )  # fmt: skip
    limits = dict(line.split("|")[:2] for line in done.out.splitlines() if "|" in line)
    if not done.ok or not limits:
        yield skipped("QOS", "sacctmgr shows none; see the trial below", done.words)
        return
    if name not in limits:
        yield failed(
            "QOS",
            f"Slurm knows no QOS {name}",
            evidence=f"there are: {', '.join(limits)}",
            field="scheduler.qos",
            change="one of these",
        )
        return
    most, seconds = limit_seconds(limits[name]), derive(patient.site).walltime_seconds or 0
    if most is not None and seconds > most:
        yield failed(
            "walltime",
            f"QOS {name} allows {hms(most)}, {hms(seconds)} are asked for: such jobs wait for ever",
            evidence=f"MaxWall={limits[name]}",
            field="blocks.walltime",
            change=f'walltime: "{hms(most)}"',
        )
    else:
        yield good("QOS", f"QOS {name} is there")


def _trial(patient: Patient, script: Path) -> Check:
    site = patient.site
    walltime = hms(derive(site).walltime_seconds or 0)
    done = run(
        "sbatch", "--test-only", f"--time={walltime}", f"--nodes={site.blocks.nodes}",
        script.name, timeout=patient.timeout, cwd=script.parent,
    )  # fmt: skip
    if done.ok:
        return good("trial", "sbatch --test-only accepts such a job", done.words)
    for pattern, field, change in _COMPLAINTS:
        if re.search(pattern, done.words):
            return failed(
                "trial",
                "sbatch refuses such a job",
                evidence=done.words,
                field=field,
                change=change,
            )
    return failed(
        "trial",
        "sbatch refuses such a job",
        evidence=done.words,
        field="scheduler",
        change="what sbatch complains about",
    )


def _old_jobs(patient: Patient) -> Check:
    old = [job.id for job in find_jobs(patient.site, derive(patient.site).endpoint_name)]
    if old:
        return warned(
            "old jobs",
            f"{len(old)} jobs of this endpoint are in the queue; none should be if it is not "
            "running",
            evidence=", ".join(old),
            change=f"scancel {' '.join(old)}, if the endpoint is stopped",
        )
    return good("old jobs", "no job of an earlier endpoint is in the queue")
