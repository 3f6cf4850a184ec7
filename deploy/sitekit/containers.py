"""The command that starts a worker pool in a site's container, as Globus Compute composes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sitekit.derive import DOCKER_LIKE, derive

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = ["Container", "container", "home", "image_file", "probe_command"]

# Variables that worker_init sets; runtimes that start with a clean environment must be given them.
_PASSED = (
    "FITSERVE_THREADS",
    "FITSERVE_CACHE_DIR",
    "FITSERVE_JIT_CACHE",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "TMPDIR",
    "PARSL_CORES",
)
_GPU_OPTIONS = {
    "apptainer": ["--nv"],
    "singularity": ["--nv"],
    "docker": ["--gpus=all"],
    "podman": ["--device=nvidia.com/gpu=all"],
    "podman-hpc": ["--gpu"],
    "shifter": ["--module=gpu"],
}


@dataclass(frozen=True)
class Container:
    """A container as the engine takes it.

    Attributes
    ----------
    type
        ``container_type`` of GlobusComputeEngine; Shifter is one of its ``custom`` ones.
    uri
        Image; None for a custom one, where it is in the options.
    options
        ``container_cmd_options``. The engine splits and joins it at blanks, without quotes.
    """

    type: str
    uri: str | None
    options: str


def home(path: str) -> str:
    """Return a path with ``$HOME`` for a leading ``~``, which a shell expands anywhere.

    Examples
    --------
    >>> home("~/cache"), home("$SCRATCH/x")
    ('$HOME/cache', '$SCRATCH/x')
    """
    return re.sub(r"\A~(?=/|\Z)", "$HOME", path)


def image_file(site: Site) -> str | None:
    """Return the path of the image where it is a file that a node must be able to read."""
    box = site.environment.container
    image = box.image if box else None
    if image is None or "://" in image or not image.startswith(("/", "~", "$")):
        return None
    return home(image)


def container(site: Site) -> Container | None:
    """Return the container of a site's workers, or None where they run without one."""
    box, directories = site.environment.container, site.directories
    if box is None or box.type == "none":
        return None
    kind = box.type
    gpu = _GPU_OPTIONS[kind] if derive(site).gpus else []
    image = home(box.image or "")
    own_directories = [directories.run, directories.cache, directories.scratch]
    binds = [
        # Every runtime brings a /tmp of its own.
        *(home(path) for path in own_directories if path != "/tmp"),  # noqa: S108
        *(home(bind) for bind in box.binds),
    ]
    own = box.options
    if kind in DOCKER_LIKE:
        options = [*_locked_down(kind), *gpu]
        passed = [*_PASSED, *site.environment.variables]
        if gpu:
            passed += ["XLA_PYTHON_CLIENT_PREALLOCATE"]
        options += [f"-e {name}" for name in passed] + ["-e HOME=/tmp"]
        options += [f"-v {bind if ':' in bind else f'{bind}:{bind}'}" for bind in binds]
        return Container(kind, image, " ".join([*options, *own]))
    if kind == "shifter":
        volumes = [f"--volume={bind if ':' in bind else f'{bind}:{bind}'}" for bind in binds]
        words = ["shifter", f"--image={image}", *gpu, *volumes, *own, "{EXECUTOR_LAUNCH_CMD}"]
        return Container("custom", None, " ".join(words))
    return Container(kind, image, " ".join([*gpu, *(f"--bind {bind}" for bind in binds), *own]))


def probe_command(site: Site) -> str:
    """Return the shell command that runs ``probe.py`` where a worker would run."""
    launcher = site.scheduler.launcher
    words = []
    if launcher is not None and launcher.type == "aprun":
        words = ["aprun", "-n", "1", "-N", "1", "-b"]
    box = container(site)
    if box is None:
        words += ["python3", "probe.py"]
    elif box.type == "custom":
        words.append(box.options.replace("{EXECUTOR_LAUNCH_CMD}", "python3 probe.py"))
    elif box.type in DOCKER_LIKE:
        here = '-v "$PWD:$PWD" -w "$PWD"'
        words += [box.type, "run", box.options, here, str(box.uri), "python3 probe.py"]
    else:
        here = '--bind "$PWD" --pwd "$PWD"'
        words += [box.type, "exec", box.options, here, str(box.uri), "python3 probe.py"]
    return " ".join(words)


def _locked_down(kind: str) -> list[str]:
    """Return options that leave a container only what a fit needs."""
    options = ["--rm", "--network=host", "--read-only", "--tmpfs=/tmp"]
    options += ["--cap-drop=all", "--security-opt=no-new-privileges"]
    # The files of the run directory stay the user's own, whatever account the image names.
    if kind == "podman":
        options.append("--userns=keep-id")
    if kind in {"docker", "podman"}:
        options.append("--user=$(id -u):$(id -g)")
    return options
