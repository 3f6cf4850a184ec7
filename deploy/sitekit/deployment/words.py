"""What a machine answered, in words."""

from __future__ import annotations

from typing import Any

__all__ = ["stages_words", "status_words"]


def stages_words(stages: list[dict[str, Any]]) -> str:
    """Return the stages of a smoke test, one line each.

    Examples
    --------
    >>> print(stages_words([{"what": "fit", "told": "CLs 0.1", "seconds": 1.2, "ok": True,
    ...                      "next": ""}]))
    ok      fit           1.2 s  CLs 0.1
    """
    lines = []
    for stage in stages:
        mark = "ok" if stage["ok"] else "FAILED"
        lines.append(f"{mark:<7} {stage['what']:<10} {stage['seconds']:>6.1f} s  {stage['told']}")
        if stage["next"]:
            lines.append(f"{'':<29}next: {stage['next']}")
    return "\n".join(lines)


def status_words(found: dict[str, Any]) -> str:
    """Return the status of an endpoint, one thing on a line."""
    versions = found["versions"]
    lines = [_endpoint(found)]
    if found["endpoint"] is not None:
        lines.append(f"users      {len(found['children'])} child endpoints")
    jobs = found["jobs"]
    for job in jobs:
        whose = "" if job["of_endpoint"] else ", of a client on this machine"
        reason = f": {job['reason']}" if job["reason"] else ""
        if job["id"] in found.get("jobs_ended", ()):
            reason = ": its endpoint was dead; ended"
        lines.append(f"job        {job['id']} {job['state']}{reason}{whose}")
    if not jobs:
        lines.append("jobs       none")
    lines.append(_workers(found["workers"]))
    for name, disk in found["disk"].items():
        lines.append(f"disk       {name}: {disk['free_gb']} GB free at {disk['path']}")
    lines.append(f"release    {versions['release']}, before it {versions['previous'] or 'none'}")
    if found["last_fits"] is None:
        lines.append("fitted     not known here: answers are in the users' own directories")
    lines += [
        f"fitted     {fit['ago_seconds']} s ago, task {fit['task'][:12]}"
        for fit in found["last_fits"] or ()
    ]
    if found["orphans"]:
        count = found.get("orphans_ended")
        said = f"{count} ended" if count is not None else "end them with ARGS=--end-orphans"
        lines.append(f"orphans    {len(found['orphans'])} processes of dead children; {said}")
    return "\n".join(lines)


def _workers(workers: dict[str, int | None]) -> str:
    """Say which figure it is: processes are counted here, those on nodes are not seen."""
    most = f", at most {workers['most']}" if workers["most"] is not None else ""
    if "processes" in workers:
        return f"workers    {workers['processes']} processes on this machine{most}"
    return f"workers    {workers['of_running_jobs']} to be expected of the running jobs{most}"


def _endpoint(found: dict[str, Any]) -> str:
    endpoint = found["endpoint"]
    if endpoint is None:
        return f"endpoint   none: {found['site']} is for direct use"
    if endpoint["pid"] is None:
        return f"endpoint   {endpoint['id']} is stopped"
    pending = "; to be started anew when idle" if endpoint["restart_pending"] else ""
    boot = f"started at boot by {endpoint['at_boot']}"
    if endpoint["at_boot"] == "login":
        boot = "until its user logs out: `loginctl enable-linger` was refused"
    return (
        f"endpoint   {endpoint['id']} runs since {endpoint['since']} (process {endpoint['pid']}, "
        f"kept by {endpoint['kept_by']}, {boot}){pending}"
    )
