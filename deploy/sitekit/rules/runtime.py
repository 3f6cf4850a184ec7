"""Rules of the network, the worker's environment and directories."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sitekit.schedulers import BATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.fields import Container
    from sitekit.problems import Problem
    from sitekit.site import Site

__all__ = ["RULES"]

_CONTAINERS = {
    **{name: one.containers for name, one in BATCH.items()},
    "local": ("apptainer", "singularity", "docker", "podman"),
}
_NOT_SHARED = ("/tmp", "/var/tmp", "/dev/shm", "$TMPDIR")  # noqa: S108
_NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108
_MUTABLE_TAG = re.compile(r":(latest|main|master|nightly|dev|stable)\Z")
_VERSIONED = re.compile(r"(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9_.-]*)\Z")


def address(site: Site) -> Iterator[Problem]:
    """Check that workers get one address, and can reach it."""
    kind = site.scheduler.type
    network = site.network
    named = {"interface": network.interface, "address": network.address, "method": network.method}
    ways = [name for name, value in named.items() if value]
    advice = {
        "kubernetes": "method: route",
        "local": "address: 127.0.0.1",
    }.get(kind, "interface: <the interface that compute nodes reach, see `ip -brief address`>")
    if len(ways) != 1:
        names = " and ".join(ways) or "none"
        yield site.problem(
            "network",
            f"expected one of interface, address and method, found {names}; without any, Parsl "
            "asks a service on the internet and waits 30 s for it",
            advice,
        )
        return
    if "method" in ways and kind not in {"kubernetes", "local"}:
        yield site.problem(
            "network.method",
            f"expected the interface or address that compute nodes of {kind} reach: a login node "
            "has several",
            advice,
        )
    loopback = network.address or network.interface or ""
    if kind != "local" and (loopback.startswith("127.") or loopback in {"localhost", "::1", "lo"}):
        yield site.problem(
            f"network.{ways[0]}",
            f"expected an address that other nodes reach, found {loopback}",
            advice,
        )
    if network.lost_after_seconds < 2 * network.heartbeat_seconds:
        yield site.problem(
            "network.lost_after_seconds",
            "expected at least two heartbeats "
            f"({2 * site.network.heartbeat_seconds} s), found "
            f"{site.network.lost_after_seconds}",
            f"lost_after_seconds: {4 * site.network.heartbeat_seconds}",
        )
    if site.network.worker_port and site.access.mode == "multi-user":
        yield site.problem(
            "network.worker_port",
            "expected none for a multi-user endpoint: each user's child needs a port of its own",
            "nothing: open 54000-55000 instead",
        )


def encryption(site: Site) -> Iterator[Problem]:
    """Check that encryption is off on Kubernetes, where keys reach no pod, and nowhere else."""
    kind, encrypted = site.scheduler.type, site.network.encrypted
    reason = site.network.encrypted_reason
    if kind != "kubernetes" and not encrypted:
        yield site.problem(
            "network.encrypted",
            f"expected true on {kind}: without it, anyone on the network can hand work to the "
            "workers",
            "encrypted: true",
        )
    if kind == "kubernetes" and encrypted:
        yield site.problem(
            "network.encrypted",
            "expected false on Kubernetes: the keys are files, and a pod shares none with the "
            "endpoint, so that workers would never connect",
            "encrypted: false, and encrypted_reason",
        )
    if kind == "kubernetes" and not encrypted and not reason:
        yield site.problem(
            "network.encrypted_reason",
            "expected why it is off, and what protects the traffic instead",
            "encrypted_reason: <keys cannot reach a pod; a NetworkPolicy confines the traffic>",
        )
    if encrypted and reason:
        yield site.problem("network.encrypted_reason", "expected none: it is on", "nothing")


def environment(site: Site) -> Iterator[Problem]:
    """Check that a worker runs in exactly one environment, which the scheduler can start."""
    kind = site.scheduler.type
    fields = site.environment
    named = {"venv": fields.venv, "conda": fields.conda, "inherit": fields.inherit}
    ways = [name for name, value in named.items() if value]
    box = fields.container if fields.container and fields.container.type != "none" else None
    if box:
        ways.append("container")
    if kind == "kubernetes":
        yield from _environment_of_pods(site, ways)
        return
    if site.kubernetes is not None:
        yield site.problem("kubernetes", f"expected nothing for {kind}", "nothing")
    if len(ways) != 1:
        yield site.problem(
            "environment",
            "expected exactly one of container, venv, conda and inherit, found "
            f"{' and '.join(ways) or 'none'}",
            "container: {type: apptainer, image: <path of the image>}",
        )
    if fields.inherit and kind != "local":
        yield site.problem(
            "environment.inherit",
            f"expected an environment that compute nodes of {kind} see, found the endpoint's own",
            "venv: <path on a shared file system>",
        )
    if box:
        yield from _container(site, kind, box)


def _environment_of_pods(site: Site, ways: list[str]) -> Iterator[Problem]:
    if "container" in ways:
        yield site.problem(
            "environment.container.type",
            "expected none on Kubernetes, which starts containers itself",
            "type: none, and kubernetes.image",
        )
    elif ways or site.environment.modules:
        yield site.problem(
            "environment", "expected only variables: everything is in kubernetes.image", ""
        )
    if site.kubernetes is None:
        yield site.problem(
            "kubernetes",
            "expected where and how pods run",
            "kubernetes: {namespace: ..., image: ..., cpu: ..., memory: ...}",
        )


def _container(site: Site, kind: str, box: Container) -> Iterator[Problem]:
    if box.type not in _CONTAINERS[kind]:
        yield site.problem(
            "environment.container.type",
            f"expected one of {', '.join(_CONTAINERS[kind])} for {kind}, found {box.type}",
            f"type: {_CONTAINERS[kind][0]}",
        )
    if box.image is None:
        yield site.problem(
            "environment.container.image",
            "expected the image",
            "image: <path of the SIF file, or NAME:VERSION>",
        )


def images(site: Site) -> Iterator[Problem]:
    """Check that images are pinned: what runs tomorrow is what was checked today."""
    box, pods = site.environment.container, site.kubernetes
    for field, image in (
        ("environment.container.image", box.image if box else None),
        ("kubernetes.image", pods.image if pods else None),
    ):
        if image is None or (image.startswith(("/", "~", "$")) and "://" not in image):
            continue
        name = image.rpartition("/")[2].replace("{version}", "0")
        if not _VERSIONED.search(name) or _MUTABLE_TAG.search(name):
            yield site.problem(
                field,
                f"expected an image with its version or digest, found {image}",
                f"image: {image.partition(':')[0]}:<version>, or @sha256:<digest>",
            )
        elif image.startswith(("docker://", "oras://", "library://")):
            yield site.problem(
                field,
                "a registry image is pulled and converted on the node at every start of a block",
                "image: <path of a SIF file, made once by `apptainer pull`>",
                "warning",
            )


def scratch(site: Site) -> Iterator[Problem]:
    """Check that the scratch directory is there on every node of a block."""
    most = site.nodes_max
    path = site.directories.scratch
    base = next((base for base in _NODE_LOCAL if path.startswith(f"{base}/")), None)
    if most > 1 and base:
        yield site.problem(
            "directories.scratch",
            f"expected a directory that each of {most} nodes has already: a block prepares its "
            f"first node only, and {path} would be missing on the others",
            f"scratch: {base}",
        )


def directories(site: Site) -> Iterator[Problem]:
    """Check that login and compute nodes can both see the run directory."""
    if site.scheduler.type not in BATCH:
        return
    run = site.directories.run
    if any(run == base or run.startswith(f"{base}/") for base in _NOT_SHARED):
        yield site.problem(
            "directories.run",
            f"expected a directory on a shared file system, found {run}, which is another on each "
            "node: keys and submit scripts would not be there",
            "run: $HOME/.fitserve/run",
        )


RULES: tuple[Callable[[Site], Iterator[Problem]], ...] = (
    address,
    encryption,
    environment,
    images,
    scratch,
    directories,
)
