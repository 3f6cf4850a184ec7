"""Write the lock files in requirements/ from the three distributions' own declarations.

Usage: .venv/bin/python tools/lock.py [--upgrade]

dev.lock pins everything, run.lock the part of it that running fitserve needs, at the same
versions; endpoint.lock pins what runs a Globus Compute endpoint, apart from them; site.lock, what
`make deploy` installs on a site: an endpoint, its worker and the client, with the endpoint's
versions. root.lock is ROOT, for tests. ansible.lock and ansible-lint.lock are for deploying.
worker.lock is what the image of a worker holds, at site.lock's versions, worker-cuda12.lock and
worker-cuda13.lock the same for GPUs, worker-endpoint.lock that, the client, and what an endpoint
needs to start pods; image-tools.lock is what builds images, image-lint.lock what checks their
sources; reinterpretation.lock what adaptors are tested with, at dev.lock's versions. All hold for
every Python from the oldest supported one on, with hashes.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "requirements"
OLDEST = "3.11"
RUN_EXTRAS = ("local", "plot")
SITE_EXTRAS = ("local", "globus", "plot")
OWN = ("fitserve",)


def main(options: list[str]) -> None:
    """Write dev.lock, then run.lock within its versions."""
    contract = _load("contract")["project"]["dependencies"]
    client = [*contract, *_load("client")["tool"]["fitserve"]["dependencies"]]
    worker = [*contract, *_load("worker")["tool"]["fitserve"]["dependencies"]]
    extras = _load("client")["project"]["optional-dependencies"]
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    base = [*client, *worker, *groups["build"]]
    every = [found for listed in extras.values() for found in listed]
    few = [found for name in RUN_EXTRAS for found in extras[name]]
    _compile("dev", [*base, *every, *groups["dev"]], options)
    within_dev = ["--constraints", str(OUT / "dev.lock"), *options]
    _compile("run", [*base, *few], within_dev)
    _compile("endpoint", groups["endpoint"], options)
    site = [found for name in SITE_EXTRAS for found in extras[name]]
    # uv installs the others: the Python of a site may come without pip.
    site += [*groups["endpoint"], *client, *worker, "uv>=0.5"]
    _compile("site", site, ["--constraints", str(OUT / "endpoint.lock"), *options])
    _compile("reinterpretation", [*worker, *groups["reinterpretation"]], within_dev)
    _images(client, [*worker, *extras["local"]], groups, options)
    _compile("root", groups["root"], options)
    _compile("ansible", groups["ansible"], options)
    _compile("ansible-lint", groups["ansible-lint"], options)


def _images(client: list[str], worker: list[str], groups: dict, options: list[str]) -> None:
    within = ["--constraints", str(OUT / "site.lock"), *options]
    # Workers of Globus Compute import its endpoint; Kubernetes' client is for the endpoint alone.
    alone = [found for found in groups["endpoint"] if not found.startswith("kubernetes")]
    _compile("worker", [*worker, *alone], within)
    _compile("worker-endpoint", [*client, *worker, *groups["endpoint"]], within)
    for cuda in ("cuda12", "cuda13"):
        _compile(f"worker-{cuda}", [*worker, *alone, f"jax[{cuda}]"], within)
    for name in ("image-tools", "image-lint"):
        _compile(name, groups[name], options)


def _load(name: str) -> dict:
    return tomllib.loads((ROOT / name / "pyproject.toml").read_text())


def _compile(name: str, requirements: list[str], options: list[str]) -> None:
    # The distributions themselves are installed from the tree, not from an index.
    wanted = sorted({one for one in requirements if not one.startswith(OWN)})
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet"),
            *("--universal", "--python-version", OLDEST, "--generate-hashes"),
            *("--no-emit-index-url", "--no-header", "--no-annotate"),
            *("--output-file", str(OUT / f"{name}.lock")),
            *options,
        ],
        input="\n".join(wanted),
        text=True,
        check=True,
        cwd=ROOT,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
