"""Fixtures of the site tests: site files made from a shipped one, with changes."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sitekit.golden import GOLDEN_RENDERING
from sitekit.load import CONFIGS, load_site, shipped_sites
from sitekit.render import render_site, write_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sitekit.site import Site


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``under`` changed by ``over``; a value of None takes a field away."""
    merged = dict(under)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


@pytest.fixture
def write_site(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a shipped site with changes as a file of its own."""

    def write(base: str = "slurm", /, name: str = "mine", **changes: Any) -> Path:
        given = dict(load_site(CONFIGS / "sites" / f"{base}.yaml")[0].origin.given)
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merge(given, changes), sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_site(write_site: Callable[..., Path]) -> Callable[..., Site]:
    """Return a function that loads a shipped site with changes."""
    return lambda base="slurm", /, **changes: load_site(write_site(base, **changes))[0]


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of what every shipped site renders to, below its name."""
    directory = tmp_path_factory.mktemp("rendered")
    for name in shipped_sites():
        files, _ = render_site(load_site(CONFIGS / "sites" / f"{name}.yaml")[0], GOLDEN_RENDERING)
        write_files(files, directory / name)
    return directory


@pytest.fixture(scope="session")
def endpoint() -> Path:
    """Return the environment of globus-compute-endpoint; in CI it must be there."""
    from fitserve.errors import BackendError
    from sitekit.golden import endpoint_venv

    try:
        return endpoint_venv()
    except BackendError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


RUN_JOB = """
( {variable}="$PWD" bash preflight.sh > preflight.out 2>&1 ) &
disown
"""


HELD = """
if [ "$1" = "-h" ]; then
  number=$(cat "$0.count" 2> /dev/null || echo 10); echo $((number + 1)) > "$0.count"
  echo "$number.server"
else
"""


# What scripts of ours call on any machine.
_REAL = (
    "bash", "sh", "cat", "cp", "env", "expr", "find", "mkdir", "sleep", "rm", "seq", "dirname",
    "true", "touch",
)  # fmt: skip


class Fakes:
    """A PATH that holds a few real commands and what a test puts there."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        directory.mkdir()
        for name in _REAL:
            found = shutil.which(name)
            if found:
                (directory / name).symlink_to(found)
        # Not a link: Python would look for its packages beside it.
        self("python3", f'exec {sys.executable} "$@"')
        monkeypatch.setenv("PATH", str(directory))

    def __call__(self, name: str, script: str) -> None:
        """Make a command of a few lines of bash."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def remove(self, name: str) -> None:
        """Take a command away."""
        (self.directory / name).unlink()

    def slurm(self) -> None:
        """Put a Slurm in order on the PATH; a submitted job runs at once, here."""
        self(
            "scontrol",
            """case "$*" in
                ping) echo "Slurmctld(primary) at head is UP" ;;
                "show partition debug"*) echo "PartitionName=debug AllowAccounts=ALL \
 MaxNodes=UNLIMITED MaxTime=2-00:00:00 State=UP" ;;
                "show partition"*) echo "Partition $3 not found" >&2; exit 1 ;;
              esac""",
        )
        self(
            "sinfo",
            """case "$*" in
                *%P*) echo "debug*"; echo long ;;
                *%c*) echo "8|32000|gpu:2|haswell,ib|up" ;;
              esac""",
        )
        self("squeue", "exit 0")
        self("scancel", 'echo "$@" >> "$0.gone"')
        self("sacct", "exit 0")
        self(
            "sacctmgr",
            """case "$*" in
                *associations*) echo "physics|normal"; echo "hep|normal,short" ;;
                *qos*) echo "normal|"; echo "short|00:30:00" ;;
              esac""",
        )
        self(
            "sbatch",
            'case "$*" in *--test-only*) echo "sbatch: Job 7 to start at noon" >&2 ;;\n *)'
            + RUN_JOB.format(variable="SLURM_SUBMIT_DIR")
            + "echo 7 ;; esac",
        )

    def pbspro(self) -> None:
        """Put an OpenPBS in order on the PATH."""
        self("qsub", HELD + RUN_JOB.format(variable="PBS_O_WORKDIR") + 'echo "7.server"; fi')
        self("qdel", 'echo "$@" >> "$0.gone"')
        self(
            "qstat",
            """case "$*" in
                "-B") echo "Server Max Tot"; echo "server 0 1" ;;
                "-Q") echo "Queue Max"; echo "-----"; echo "workq 0"; echo "debug 0" ;;
                "-B -f -F json") echo '{"Server": {"server": {"job_history_enable": "True"}}}' ;;
                "-Q -f -F json workq") echo '{"Queue": {"workq": {"enabled": "True", \
 "started": "True", "resources_max": {"walltime": "48:00:00", "nodect": 10}}}}' ;;
                "-Q -f -F json"*) echo "qstat: Unknown queue $5" >&2; exit 170 ;;
                "-x -f -F json"*) shift 4; printf '{"Jobs": {'; comma=""
                  for job; do case "$job" in 7.*) state=F ;; *) state=H ;; esac
                    printf '%s"%s": {"job_state": "%s"}' "$comma" "$job" "$state"; comma=", "
                  done
                  echo '}}' ;;
                *) exit 0 ;;
              esac""",
        )

    def torque(self) -> None:
        """Put a Torque in order on the PATH."""
        self("qsub", HELD + RUN_JOB.format(variable="PBS_O_WORKDIR") + 'echo "7.server"; fi')
        self("qdel", 'echo "$@" >> "$0.gone"')
        self(
            "qstat",
            """case "$*" in
                "-B") echo "server up" ;;
                "-Q") echo "Queue Max"; echo "-----"; echo "batch 0" ;;
                "-Q -f batch") echo "Queue: batch"; echo "    enabled = True"
                  echo "    started = True"
                  echo "    resources_max.walltime = 24:00:00" ;;
                "-Q -f"*) echo "qstat: Unknown queue" >&2; exit 170 ;;
                *.server) echo "Job ID Name User Time Use S Queue"; echo "--- --- --- --- - ---"
                  echo "$1 fitserve ada 0 H batch" ;;
              esac""",
        )

    def kubernetes(self) -> None:
        """Put a cluster in order behind kubectl."""
        self(
            "kubectl",
            """case "$*" in
                "get --raw=/readyz") echo ok ;;
                "get namespace"*) echo namespace/fitserve ;;
                "auth can-i"*) echo yes ;;
                "get serviceaccount"*) echo serviceaccount/fitserve-worker ;;
                "get secret"*) echo secret/registry ;;
                "get resourcequota"*) echo '{"items": [{"status": {"hard": {"pods": "50",\
 "limits.memory": "100Gi", "requests.cpu": "32"}}}]}' ;;
                "get nodes"*) echo '{"items": [{"status": {"allocatable": \
 {"nvidia.com/gpu": "4"}}}]}' ;;
                "run"*) exec python3 - ;;
              esac""",
        )


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Return a PATH of pretended commands."""
    return Fakes(tmp_path / "bin", monkeypatch)
