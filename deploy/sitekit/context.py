"""The values that fill the templates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from sitekit.containers import container, home, image_file, probe_command
from sitekit.derive import LAUNCHERS, Derived, derive
from sitekit.pods import COMMANDS, labels, worker_account
from sitekit.schedulers import scheduler_of

if TYPE_CHECKING:
    from pathlib import Path

    from sitekit.site import Site

__all__ = ["Rendering", "build_context", "endpoint_path", "expand_home"]

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Rendering:
    """What a rendering depends on besides the site.

    Attributes
    ----------
    version
        Version of fitserve that is named in the files.
    home
        Home directory of the endpoint's user, which ``~`` in `endpoint.venv` stands for.
    endpoint_id, function_id
        Ids that are known once the endpoint and the function are registered; they replace those
        of the site file.
    workers_venv
        The release that the site file's environment, which is a link, leads to now: blocks of a
        child stay with it when the link changes.
    """

    version: str
    home: Path
    endpoint_id: str | None = None
    function_id: str | None = None
    workers_venv: str | None = None


def expand_home(path: str, rendering: Rendering) -> str:
    """Return a path with ``~`` expanded now, for files that no shell reads."""
    return re.sub(r"\A~(?=/|\Z)", str(rendering.home), path)


def header(site: Site, rendering: Rendering) -> str:
    """Return the line by which each file says where it is from."""
    return (
        f"Rendered from site {site.name} (sha256 {site.digest[:12]}) by fitserve "
        f"{rendering.version}: change the site file, not this one."
    )


def endpoint_path(venv: object) -> str:
    """Return the PATH of an endpoint from its environment, or from the link to it.

    A deployment's own commands come first, then those of Globus Compute.
    """
    return f"{venv}/fitserve/bin:{venv}/bin:{_SYSTEM_PATH}"


def build_context(site: Site, rendering: Rendering) -> dict[str, Any]:
    """Return everything that the templates of a site read.

    Parameters
    ----------
    site
        A site that passed every check.
    rendering
        What else the files depend on.
    """
    line = header(site, rendering)
    site = site.pinned(rendering.version)
    derived = derive(site)
    heartbeat = site.endpoint.heartbeat_seconds
    venv = expand_home(site.endpoint.venv, rendering)
    functions = [rendering.function_id] if rendering.function_id else site.access.functions
    access = msgspec.structs.replace(site.access, functions=functions)
    cores = site.node.cores
    multi = site.access.mode == "multi-user"
    path = endpoint_path(venv)
    if site.scheduler.type == "kubernetes":
        path = f"{COMMANDS}:{path}"
    config = "/etc/fitserve" if multi else f"{rendering.home}/.config/fitserve"
    return {
        "site": msgspec.structs.replace(site, access=access),
        "name": site.name,
        "derived": derived,
        "header": line,
        "options": _options(site, derived),
        "cores": derived.workers_per_node,
        "threads_expression": _threads(site, derived),
        "cpus": (cores or derived.workers_per_node or 1) * site.node.cpus_per_core,
        "request_memory": _request_memory(site),
        "select": _select(site),
        "launcher": _launcher(site),
        "container": container(site),
        "image_file": image_file(site),
        "probe_command": probe_command(site),
        "idle_soft": max(1, site.endpoint.idle_minutes * 60 // heartbeat),
        "idle_hard": max(1, site.endpoint.stuck_hours * 3600 // heartbeat),
        "endpoint_venv": venv,
        # Of the deployment, as in `sitekit.target.places`.
        "state": f"{PurePosixPath(venv).parent}/{derived.endpoint_name}",
        "workers_venv": _workers_venv(site, rendering),
        "endpoint_path": path,
        "worker_labels": labels(derived.endpoint_name, "worker"),
        "worker_account": worker_account(site, derived.endpoint_name),
        "credentials_file": f"{config}/{derived.endpoint_name}.env",
        "identity_mapping_path": site.access.identity_mapping
        or f"{rendering.home}/.globus_compute/{derived.endpoint_name}/identity_mapping.json",
    }


def _workers_venv(site: Site, rendering: Rendering) -> str | None:
    named = site.environment.venv
    return named and (rendering.workers_venv or named)


def _threads(site: Site, derived: Derived) -> str:
    """Return the endpoint's expression of a worker's threads, which follow its workers."""
    threads = site.workers.threads
    cores = site.node.cores
    if threads is not None or cores is None:
        return str(threads or derived.threads or 1)
    return f"{cores} // _workers_per_node"


def _options(site: Site, derived: Derived) -> dict[str, str]:
    """Return the endpoint's expression of each value that users may be allowed to set."""
    settable = site.user_options.allowed()

    def text(name: str, default: str | None) -> str:
        own = "none" if default is None else f"'\"{default}\"'"
        return f"{name} | default({own})" if name in settable else own

    def number(name: str, default: int) -> str:
        return f"{name} | default({default}) | int" if name in settable else str(default)

    options: dict[str, str] = {}
    batch = scheduler_of(site)
    if batch is not None:
        options |= {name: text(name, getattr(site.scheduler, name)) for name in batch.options}
        minutes = (derived.walltime_seconds or 0) // 60
        options["walltime_minutes"] = number("walltime_minutes", minutes)
        options["nodes_per_block"] = number("nodes_per_block", site.blocks.nodes)
    options["max_blocks"] = number("max_blocks", site.blocks.max)
    if derived.workers_per_node is not None:
        options["workers_per_node"] = number("workers_per_node", derived.workers_per_node)
    return options


def _request_memory(site: Site) -> bool:
    request = site.node.request_memory
    if request is None:
        request = site.scheduler.exclusive is False
    return bool(request) and site.node.memory_gb is not None


def _select(site: Site) -> list[str]:
    """Return what each chunk of a PBS Pro block asks for besides its cores."""
    resources = list(site.scheduler.select)
    gpus = site.node.gpus
    if gpus is not None and gpus.request == "ngpus":
        resources.insert(0, f"ngpus={gpus.count}")
    if site.node.request_memory and site.node.memory_gb:
        resources.append(f"mem={site.node.memory_gb}gb")
    return resources


def _launcher(site: Site) -> dict[str, Any] | None:
    launcher = site.scheduler.launcher
    if launcher is None:
        return None
    options = [home(option) for option in launcher.options]
    if launcher.type == "srun" and not any(
        o.startswith(("--cpus-per-task", "-c")) for o in options
    ):
        # Since Slurm 22.05, srun no longer takes this from the job: without it, all workers
        # of a node would share one core.
        options.insert(0, f"--cpus-per-task={site.node.cpus}")
    return {
        "cls": LAUNCHERS[launcher.type],
        "bind_option": launcher.bind_option,
        "options": " ".join(options),
    }
