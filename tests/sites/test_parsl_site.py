"""A site's engine for Parsl is what its endpoint would have, and runs."""

from __future__ import annotations

import gc
import json
import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec
import pytest

from fitserve.endpoints.parsl.site import EngineDescription, find_engine, parsl_config, read_engine
from fitserve.errors import BackendError, MissingExtraError
from sitekit.golden import GOLDEN
from sitekit.load import load_site, shipped_sites
from sitekit.render import Rendering, render_site, write_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from sitekit.site import Site

SITES = shipped_sites()
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: none
contexts: [{name: none, context: {cluster: none, user: none}}]
clusters: [{name: none, cluster: {server: "https://192.0.2.1"}}]
users: [{name: none, user: {}}]
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to be on the site's login node: its interface, variables and cluster are there."""
    for name in ("address_by_interface", "address_by_route"):
        monkeypatch.setattr(f"parsl.addresses.{name}", lambda **_: "192.0.2.10")
    for name in ("HOME", "WORK", "SCRATCH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("USER", "ada")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))


def _description(name: str) -> EngineDescription:
    return read_engine(GOLDEN / name / "engine.json")


def _changed(name: str, **changes: Any) -> EngineDescription:
    described = json.loads((GOLDEN / name / "engine.json").read_text())
    described["engine"].update(changes)
    return msgspec.json.decode(json.dumps(described), type=EngineDescription)


@pytest.mark.parametrize("name", SITES)
def test_every_site_gives_a_configuration(name: str, rendered: Path, tmp_path: Path) -> None:
    described = read_engine(rendered / name / "engine.json")
    config = parsl_config(described)
    [executor] = config.executors
    engine = described.engine
    assert type(executor.provider).__name__ == engine["provider"]["type"]
    assert executor.drain_period == engine.get("drain_period")
    assert executor.encrypted == engine["encrypted"]
    assert executor.address in {"192.0.2.10", "127.0.0.1"}
    assert config.retries == engine["max_retries_on_system_failure"]
    assert config.max_idletime == engine["job_status_kwargs"]["max_idletime"]
    assert config.usage_tracking == 0
    assert "$" not in config.run_dir
    assert "~" not in config.run_dir
    for field in ("max_blocks", "init_blocks", "min_blocks", "parallelism"):
        assert getattr(executor.provider, field) == engine["provider"][field]


@pytest.mark.endpoint
@pytest.mark.parametrize("kind", ["none", "apptainer", "docker", "podman", "shifter"])
def test_workers_start_as_the_endpoint_starts_them(
    make_site: Callable[..., Site], tmp_path: Path, endpoint: Path, kind: str
) -> None:
    """The real engine's command and ours differ in the program alone."""
    from sitekit.golden import build

    environment: dict[str, Any] = {"container": {"type": kind, "image": "fit/w:1"}}
    if kind == "none":
        environment = {"container": None, "venv": "~/venv"}
    directory = tmp_path / "site"
    site = make_site("slurm", environment=environment)
    write_files(render_site(site, Rendering("1", tmp_path))[0], directory)
    [theirs] = build([(directory, None)], tmp_path)
    config = parsl_config(read_engine(directory / "engine.json"), run_dir=Path("/RUN"))
    [executor] = config.executors
    executor.worker_port, executor.cert_dir = 54321, "/RUN/certificates"
    executor.logconf_path, executor.run_dir = "/RUN/log_config", "/RUN"
    executor.initialize_scaling()
    ours = executor.launch_cmd.format(block_id="0").split()
    [line] = [line for line in theirs["script"].splitlines() if "process_worker_pool" in line]
    program = "globus-compute-endpoint python-exec parsl.executors.high_throughput."
    expected = line.replace(f"{program}process_worker_pool", "process_worker_pool.py").split()
    suffix = "-HighThroughputExecutor"
    assert [word.removesuffix(suffix) for word in expected] == ours


def test_tasks_run_through_the_local_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Render the local site, build its configuration, and run functions through it."""
    import parsl

    files, _ = render_site(load_site("local")[0], Rendering("1", tmp_path))
    write_files(files, tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    config = parsl_config(read_engine(tmp_path / "site" / "engine.json"))
    config.initialize_logging = False
    config.strategy_period = 0.2
    [executor] = config.executors
    executor.max_workers_per_node = 2
    with parsl.load(config) as kernel:
        # Functions of the standard library: workers cannot import this file.
        variable = parsl.python_app(os.getenv, data_flow_kernel=kernel)
        scripts = parsl.python_app(sysconfig.get_path, data_flow_kernel=kernel)
        names = ["JAX_PLATFORMS", "OMP_NUM_THREADS", "FITSERVE_CACHE_DIR"]
        found = [variable(name).result(timeout=120) for name in names]
        where = scripts("scripts").result(timeout=60)
    assert found == ["cpu", "1", str(tmp_path / ".cache" / "fitserve")]
    assert where == str(Path(sys.executable).parent)


def test_only_losses_are_tried_again() -> None:
    from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

    config = parsl_config(_description("slurm"))
    assert config.retry_handler is not None
    assert config.retry_handler(ManagerLost(b"x", "node"), {}) == 1.0
    assert config.retry_handler(WorkerLost(1, "node"), {}) == 1.0
    assert config.retry_handler(ValueError("wrong"), {}) > config.retries


def test_an_engine_is_found_by_name_or_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    directory = tmp_path / "config" / "fitserve" / "sites" / "mine"
    directory.mkdir(parents=True)
    (directory / "engine.json").write_text((GOLDEN / "slurm" / "engine.json").read_text())
    assert find_engine("mine") == directory / "engine.json"
    assert find_engine(str(directory)) == directory / "engine.json"
    assert find_engine(str(directory / "engine.json")) == directory / "engine.json"
    with pytest.raises(BackendError, match="nothing was rendered for site 'other'") as missing:
        find_engine("other")
    assert "make render SITE=other" in missing.value.hint
    assert missing.value.exit_code == 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"engine_version": 2, "site": "a", "rendered": "", "run_dir": "/a", "engine": {}}',
        '{"engine_version": 1, "site": "a", "rendered": "", "run_dir": "/a", "engine": {}, "x": 1}',
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "engine.json"
    path.write_text(text)
    with pytest.raises(BackendError):
        read_engine(path)
    with pytest.raises(BackendError, match="cannot be read"):
        read_engine(tmp_path / "gone.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "ThreadPoolEngine"},
        {"launch_cmd": "id"},
        {"provider": {"type": "AdHocProvider"}},
        {"address": {"type": "address_by_query"}},
    ],
)
def test_what_is_not_known_here_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match="not one that this release knows"):
        parsl_config(_changed("slurm", **changes))


def test_an_unknown_launcher_is_refused() -> None:
    described = _description("slurm")
    described.engine["provider"]["launcher"]["type"] = "WrappedLauncher"
    with pytest.raises(BackendError, match="not one that this release knows"):
        parsl_config(described)


# Parsl leaves its socket open when there is no such interface.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_missing_interface_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(BackendError, match="has no address for the workers") as refused:
        parsl_config(_changed("slurm", address={"type": "address_by_interface", "ifname": "no0"}))
    evidence, hint = refused.value.evidence, refused.value.hint
    del refused
    gc.collect()
    assert "no0" in evidence
    assert "network.interface" in hint


def test_a_missing_directory_variable_says_so(
    rendered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = read_engine(rendered / "perlmutter" / "engine.json")
    monkeypatch.delenv("SCRATCH")
    with pytest.raises(BackendError, match="run directory") as refused:
        parsl_config(described)
    assert "SCRATCH" in refused.value.evidence


def test_a_broken_provider_says_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        mock.patch("parsl.providers.SlurmProvider", side_effect=RuntimeError("no sacct")),
        pytest.raises(BackendError, match="cannot be used from here") as refused,
    ):
        parsl_config(_description("slurm"))
    assert "no sacct" in refused.value.evidence
    assert "make doctor" in refused.value.hint


def test_a_missing_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsl.providers.kubernetes.kube._kubernetes_enabled", False)
    with pytest.raises(MissingExtraError, match="Kubernetes"):
        parsl_config(_description("kubernetes"))
    monkeypatch.setitem(sys.modules, "parsl.config", None)
    with pytest.raises(MissingExtraError, match="driving a site"):
        parsl_config(_description("slurm"))
