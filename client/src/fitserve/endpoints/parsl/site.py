"""A site's engine for Parsl, from the plain data that rendering its site file wrote.

The data are what the site's Globus Compute endpoint would configure its own engine with, so
that driving a site from its login node and through the cloud service cannot differ.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.endpoints.parsl import interchange
from fitserve.errors import BackendError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from parsl.config import Config

__all__ = [
    "ENGINE_VERSION",
    "EngineDescription",
    "find_engine",
    "parsl_config",
    "read_engine",
    "site_directory",
]

ENGINE_VERSION = 1
"""Version of ``engine.json`` that this module reads, and rendering a site writes."""

_ENGINE_FIELDS = {
    "address",
    "available_accelerators",
    "cores_per_worker",
    "cpu_affinity",
    "drain_period",
    "encrypted",
    "heartbeat_period",
    "heartbeat_threshold",
    "label",
    "max_workers_per_node",
    "prefetch_capacity",
    "worker_logdir_root",
    "worker_port",
    "working_dir",
}
"""Fields that Parsl's HighThroughputExecutor takes as they are."""

# What only Globus Compute reads, or is read apart from the executor.
_APART = {
    "type",
    "provider",
    "allowed_serializers",
    "container_cmd_options",
    "container_type",
    "container_uri",
    "job_status_kwargs",
    "max_retries_on_system_failure",
}
_ADDRESSES = ("address_by_hostname", "address_by_interface", "address_by_route")
_PROVIDERS = (
    "KubernetesProvider",
    "LocalProvider",
    "PBSProProvider",
    "PodProvider",
    "SlurmProvider",
    "TorqueProvider",
)
_LAUNCHERS = (
    "AprunLauncher",
    "MpiExecLauncher",
    "MpiRunLauncher",
    "SingleNodeLauncher",
    "SrunLauncher",
)
_DOCKER_LIKE = ("docker", "podman", "podman-hpc")
_APPTAINER_LIKE = ("apptainer", "singularity")
_MODULES = "parsl.executors.high_throughput"
_POOL = "process_worker_pool.py"
# Losses of a node, a block or a worker; anything else would be lost again.
_LOST = ("ManagerLost", "WorkerLost")


class EngineDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A site's engine as ``engine.json`` holds it.

    ``engine`` has the fields of GlobusComputeEngine in an endpoint's configuration.
    """

    engine_version: int
    site: str
    rendered: str
    run_dir: str
    engine: dict[str, Any]


def find_engine(site: str) -> Path:
    """Find a site's engine by the site's name, or by the path that it was rendered to.

    Parameters
    ----------
    site
        A directory, a file ``engine.json``, or a name that is looked for below
        ``fitserve/sites`` in the user's and the system's configuration directories.

    Raises
    ------
    BackendError
        Nothing was rendered for this site.
    """
    import platformdirs

    given = Path(site).expanduser()
    places = [given, given / "engine.json"] if os.sep in site or given.suffix == ".json" else []
    if not places:
        roots = (
            platformdirs.user_config_path("fitserve"),
            platformdirs.site_config_path("fitserve"),
        )
        places = [root / "sites" / site / "engine.json" for root in roots]
    for place in places:
        if place.is_file():
            return place
    raise BackendError(
        f"nothing was rendered for site '{site}'",
        evidence=f"looked for {', '.join(str(place) for place in places)}",
        hint=f"make render SITE={site} ARGS='--out ~/.config/fitserve/sites/{Path(site).name}'",
    )


def read_engine(path: Path) -> EngineDescription:
    """Read ``engine.json``.

    Raises
    ------
    BackendError
        The file cannot be read, is damaged, or is of another version.
    """
    hint = "render the site again with this release: make render SITE=..."
    try:
        description = msgspec.json.decode(path.read_bytes(), type=EngineDescription)
    except OSError as error:
        raise BackendError(f"{path} cannot be read", evidence=str(error)) from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BackendError(
            f"{path} does not describe an engine", evidence=str(error), hint=hint
        ) from error
    if description.engine_version != ENGINE_VERSION:
        raise BackendError(
            f"{path} is of another version of fitserve",
            evidence=f"version {description.engine_version}, this release reads {ENGINE_VERSION}",
            hint=hint,
        )
    return description


def parsl_config(
    description: EngineDescription,
    *,
    run_dir: Path | None = None,
    provider_type: Callable[[type[Any]], type[Any]] = lambda base: base,
) -> Config:
    """Build Parsl's configuration of a site.

    Parameters
    ----------
    description
        The site's engine.
    run_dir
        Directory for logs, submit scripts and keys; by default the site's own. Login and
        compute nodes must both see it.
    provider_type
        Returns what to use instead of one of Parsl's providers, derived from it.

    Returns
    -------
    parsl.config.Config
        One HighThroughputExecutor with the site's provider and launcher.

    Raises
    ------
    MissingExtraError
        Parsl, or the Kubernetes client for a Kubernetes site, is not installed.
    BackendError
        The engine holds something that is not known here, or does not exist on this machine,
        such as its network interface.
    """
    try:
        from parsl.config import Config

        from fitserve.endpoints.parsl.engine import Executor
    except ImportError as error:
        raise MissingExtraError("driving a site directly", "local") from error
    engine = description.engine
    unknown = set(engine) - _ENGINE_FIELDS - _APART
    if engine.get("type") != "GlobusComputeEngine" or unknown:
        raise BackendError(
            f"the engine of site {description.site} is not one that this release knows",
            evidence=f"{engine.get('type')} with {', '.join(sorted(unknown)) or 'known fields'}",
            hint="render the site again with this release: make render SITE=...",
        )
    place = run_dir or site_directory(description)
    fields = {name: value for name, value in engine.items() if name in _ENGINE_FIELDS}
    fields["address"] = _address(description.site, engine["address"])
    provider = _provider(description.site, engine["provider"], provider_type)
    executor = Executor(
        **fields,
        provider=provider,
        interchange_launch_cmd=[sys.executable, *interchange.COMMAND],
    )
    executor.launch_cmd = _launch_command(engine, executor.launch_cmd, place)
    polling = engine["job_status_kwargs"]
    retries = engine["max_retries_on_system_failure"]
    return Config(
        executors=[executor],
        retries=retries,
        retry_handler=lambda error, _record: _retry_cost(error, retries),
        strategy=polling["strategy"],
        strategy_period=polling["strategy_period"],
        max_idletime=polling["max_idletime"],
        run_dir=str(place),
        usage_tracking=0,
    )


def site_directory(description: EngineDescription) -> Path:
    """Return the site's directory for logs, submit scripts and keys.

    Raises
    ------
    BackendError
        It is named by a variable that is not set here.
    """
    expanded = os.path.expandvars(Path(description.run_dir).expanduser())
    if "$" in expanded:
        raise BackendError(
            f"the site's run directory {description.run_dir} cannot be found here",
            evidence=f"it expands to {expanded}",
            hint="set that variable, or log in to the site",
        )
    return Path(expanded)


def _address(site: str, address: str | Mapping[str, Any]) -> str:
    if isinstance(address, str):
        return address
    import parsl.addresses

    fields = dict(address)
    how = _require_known(site, fields.pop("type"), _ADDRESSES)
    try:
        resolved: str = getattr(parsl.addresses, how)(**fields)
    except (OSError, KeyError, ValueError) as error:
        raise BackendError(
            f"this machine has no address for the workers of site {site}",
            evidence=f"{how}({', '.join(str(value) for value in fields.values())}): {error}",
            hint="log in to the site, or change network.interface in its file "
            "(`ip -brief address` lists what there is)",
        ) from error
    return resolved


def _provider(
    site: str, fields: Mapping[str, Any], provider_type: Callable[[type[Any]], type[Any]]
) -> Any:
    import parsl.launchers
    import parsl.providers
    from parsl.errors import OptionalModuleMissing

    given = {name: value for name, value in fields.items() if value is not None}
    kind = _require_known(site, given.pop("type"), _PROVIDERS)
    if "launcher" in given:
        launcher = dict(given["launcher"])
        which = _require_known(site, launcher.pop("type"), _LAUNCHERS)
        given["launcher"] = getattr(parsl.launchers, which)(**launcher)
    if kind == "PodProvider":
        from fitserve.onsite.pods import register

        register()
    try:
        return provider_type(getattr(parsl.providers, kind))(**given)
    except OptionalModuleMissing as error:
        raise MissingExtraError("a Kubernetes site", "kubernetes") from error
    except Exception as error:
        # Providers ask their scheduler or cluster when they are made, and raise what they like.
        raise BackendError(
            f"the scheduler of site {site} cannot be used from here",
            evidence=f"{kind}: {error}",
            hint=f"make doctor SITE={site}",
        ) from error


def _require_known(site: str, name: str, names: Iterable[str]) -> str:
    if name not in names:
        raise BackendError(
            f"the engine of site {site} is not one that this release knows",
            evidence=f"{name} is none of {', '.join(names)}",
            hint="render the site again with this release: make render SITE=...",
        )
    return name


def _launch_command(engine: Mapping[str, Any], command: str, run_dir: Path) -> str:
    """Return the command of a worker pool, inside the site's container if it has one.

    It is composed as GlobusComputeEngine composes it, the program itself excepted.
    """
    kind, image = engine.get("container_type"), engine.get("container_uri")
    if kind is None and engine["provider"]["type"] == "LocalProvider":
        # Workers use this very environment, whether or not it is on the PATH.
        command = command.replace(_POOL, f"{sys.executable} -m {_MODULES}.process_worker_pool", 1)
    options = engine.get("container_cmd_options") or ""
    if kind in _DOCKER_LIKE:
        command = f"{kind} run {options} -v {run_dir}:{run_dir} -t {image} {command}"
    elif kind in _APPTAINER_LIKE:
        command = f"{kind} run {options} {image} {command}"
    elif kind == "custom":
        whole = options.replace("{EXECUTOR_RUNDIR}", str(run_dir))
        command = whole.replace("{EXECUTOR_LAUNCH_CMD}", command)
    return " ".join(shlex.split(command))


def _retry_cost(error: BaseException, retries: int) -> float:
    """Return 1 for the loss of a node or worker, and more than all retries otherwise."""
    return 1.0 if type(error).__name__ in _LOST else retries + 1.0
