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
        lines.append(f"job        {job['id']} {job['state']}{reason}{whose}")
    if not jobs:
        lines.append("jobs       none")
    workers = found["workers"]
    there = workers.get("processes", workers.get("of_running_jobs"))
    most = f", at most {workers['most']}" if workers["most"] is not None else ""
    lines.append(f"workers    {there}{most}")
    for name, disk in found["disk"].items():
        lines.append(f"disk       {name}: {disk['free_gb']} GB free at {disk['path']}")
    lines.append(f"release    {versions['release']}, before it {versions['previous'] or 'none'}")
    lines += [
        f"fitted     {fit['ago_seconds']} s ago, task {fit['task'][:12]}"
        for fit in found["last_fits"]
    ]
    if found["orphans"]:
        count = found.get("orphans_ended")
        said = f"{count} ended" if count is not None else "end them with ARGS=--end-orphans"
        lines.append(f"orphans    {len(found['orphans'])} processes of dead children; {said}")
    return "\n".join(lines)


def _endpoint(found: dict[str, Any]) -> str:
    endpoint = found["endpoint"]
    if endpoint is None:
        return f"endpoint   none: {found['site']} is for direct use"
    if endpoint["pid"] is None:
        return f"endpoint   {endpoint['id']} is stopped"
    pending = "; to be started anew when idle" if endpoint["restart_pending"] else ""
    return (
        f"endpoint   {endpoint['id']} runs since {endpoint['since']} (process {endpoint['pid']}, "
        f"kept by {endpoint['kept_by']}, started at boot by {endpoint['at_boot']}){pending}"
    )
