"""The parts of deploying that need no Ansible: reach, paths, site files, jobs, removal."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

from fitserve.errors import BackendError, InputError, StoreError
from sitekit import jobs
from sitekit.deployment.bundle import requirements_for
from sitekit.deployment.host import Host, HostOptions, inventory
from sitekit.deployment.targets import stages_text
from sitekit.load import flat_site, load_site, shipped_sites
from sitekit.target import processes, removal, service, supervisor
from sitekit.target import survey as survey_module
from sitekit.target.deployed import Deployed, Manifest, read_manifest, write_manifest
from sitekit.target.places import places_of
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.site import Site


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("HOME", str(place))
    return place


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Site]:
    def make(**fields: Any) -> Site:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"extends": "slurm", **fields}))
        return load_site(str(path))[0]

    return make


def _host(site: Site, reach: HostOptions) -> dict[str, Any]:
    found = inventory(site, reach)["all"]["children"]["site"]["hosts"]
    [(name, variables)] = found.items()
    assert name == site.name
    return variables


# -- how a machine is reached --------------------------------------------------------------------


def test_the_site_file_says_how_to_reach_it(make_site: Callable[..., Site]) -> None:
    site = make_site(login={"host": "login.example.edu", "user": "fits", "jump_host": "gate"})
    found = _host(site, HostOptions())
    assert (found["ansible_host"], found["ansible_user"]) == ("login.example.edu", "fits")
    assert "-J gate" in found["ansible_ssh_common_args"]
    assert "BatchMode=yes" in found["ansible_ssh_common_args"]
    assert found["ansible_become"] is False
    other = _host(site, HostOptions(host="other", user="me"))
    assert (other["ansible_host"], other["ansible_user"]) == ("other", "me")
    assert _host(site, HostOptions(here=True))["ansible_connection"] == "local"


def test_without_a_host_it_is_this_machine(make_site: Callable[..., Site]) -> None:
    assert _host(make_site(), HostOptions())["ansible_connection"] == "local"


def test_a_multi_user_endpoint_is_roots(make_site: Callable[..., Site]) -> None:
    site = make_site(
        access={"mode": "multi-user", "domains": ["example.edu"]},
        endpoint={"venv": "/opt/fitserve/venv"},
    )
    assert _host(site, HostOptions())["ansible_become"] is True
    places = places_of(site)
    assert places.unit == "/etc/systemd/system/fitserve-mine.service"
    assert places.credentials == "/etc/fitserve/fitserve-mine.env"
    assert places.command == ""


@pytest.mark.parametrize(("name", "said"), [("kubernetes", "login node"), ("bluewaters", "gone")])
def test_what_has_no_login_node_is_not_deployed_to(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        inventory(load_site(name)[0], HostOptions())


# -- paths and site files ------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_sites())
def test_a_flat_site_is_the_site(name: str, tmp_path: Path) -> None:
    site, _ = load_site(name)
    path = tmp_path / f"{name}.yaml"
    path.write_text(flat_site(site), encoding="utf-8")
    flat, _ = load_site(str(path))
    assert flat.digest == site.digest
    assert "extends" not in path.read_text().replace("all that it extends", "")


def test_a_trial_names_its_own_release(make_site: Callable[..., Site], tmp_path: Path) -> None:
    venv = "~/.local/share/fitserve/venv"
    site = make_site(environment={"container": None, "venv": venv}, endpoint={"venv": venv})
    place = tmp_path / "trial"
    place.mkdir()
    (place / "mine.yaml").write_text(flat_site(site, "/home/a/releases/1-ab"))
    trial, _ = load_site(str(place / "mine.yaml"))
    assert trial.environment.venv == trial.endpoint.venv == "/home/a/releases/1-ab"


def test_everything_is_made_after_what_it_is_in(make_site: Callable[..., Site]) -> None:
    made = places_of(make_site()).made
    for number, path in enumerate(made):
        assert not any(other.startswith(f"{path}/") for other in made[:number])


def test_requirements_of_another_python() -> None:
    lock = Path(__file__).parents[2] / "requirements" / "site.lock"
    text = lock.read_text(encoding="utf-8")
    old, new = (requirements_for(text, minor, "x86_64") for minor in ("3.11", "3.12"))
    for wanted in (old, new):
        lines = wanted.splitlines()
        names = [line.split("==")[0] for line in lines]
        assert len(names) == len(set(names))
        assert all(" --hash=sha256:" in line for line in lines)
        assert {"jax", "globus-compute-endpoint", "uv"} <= set(names)
    assert old != new


# -- before anything is installed ----------------------------------------------------------------


def _survey(site: Site, home: Path) -> dict[str, Any]:
    asked = {"paths": places_of(site).as_data(), "multi_user": False}
    done = subprocess.run(
        [sys.executable, "-I", survey_module.__file__, json.dumps(asked)],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_bare_account_is_seen_as_one(make_site: Callable[..., Site], home: Path) -> None:
    found = _survey(make_site(), home)
    assert found["home"] == str(home)
    assert found["manifest"] is None
    assert found["release"] is None
    assert found["there"] == []
    assert found["others"] == []
    assert found["paths"]["configuration"] == str(home / ".globus_compute" / "fitserve-mine")
    assert not list(home.iterdir())


def test_another_endpoint_with_the_same_environment_is_seen(
    make_site: Callable[..., Site], home: Path
) -> None:
    root = home / ".local" / "share" / "fitserve"
    (root / "fitserve-other").mkdir(parents=True)
    other = Manifest(endpoint="fitserve-other", site="other", links=[str(root / "venv")])
    write_manifest(root / "fitserve-other" / "manifest.json", other, current="1-ab")
    assert _survey(make_site(), home)["others"] == ["fitserve-other"]


# -- on the machine ------------------------------------------------------------------------------


@pytest.fixture
def deployed(make_site: Callable[..., Site], home: Path) -> Deployed:
    deployed = Deployed(make_site())
    deployed.state.mkdir(parents=True)
    return deployed


def test_credentials_that_others_can_read_are_refused(deployed: Deployed) -> None:
    assert deployed.credentials() == {}
    path = deployed.path(deployed.places.credentials)
    path.parent.mkdir(parents=True)
    path.write_text("# said once\nGLOBUS_COMPUTE_CLIENT_ID=a\nGLOBUS_COMPUTE_CLIENT_SECRET=b=c\n")
    path.chmod(0o640)
    with pytest.raises(BackendError, match="chmod 600"):
        deployed.credentials()
    path.chmod(0o600)
    assert deployed.credentials()["GLOBUS_COMPUTE_CLIENT_SECRET"] == "b=c"  # noqa: S105
    environment = deployed.environment()
    assert environment["GLOBUS_COMPUTE_CLIENT_ID"] == "a"
    assert environment["PATH"].startswith(f"{deployed.link}/fitserve/bin:{deployed.link}/bin:")


def test_nothing_deployed_is_said(deployed: Deployed) -> None:
    with pytest.raises(StoreError, match="nothing was deployed here"):
        _ = deployed.manifest


def test_only_what_an_endpoint_reads_at_its_start_starts_it_anew(deployed: Deployed) -> None:
    deployed.configuration.mkdir(parents=True)
    config = deployed.configuration / "config.yaml"
    config.write_text("# by fitserve 1\nheartbeat_period: 30\n")
    (deployed.configuration / "user_environment.yaml").write_text("PATH: /usr/bin\n")
    before = processes.wanted_digest(deployed)
    config.write_text("# by fitserve 2\nheartbeat_period: 30\n")
    (deployed.configuration / "user_config_template.yaml.j2").write_text("engine: {}\n")
    assert processes.wanted_digest(deployed) == before
    config.write_text("# by fitserve 2\nheartbeat_period: 31\n")
    assert processes.wanted_digest(deployed) != before


def _fake(directory: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    directory.mkdir(exist_ok=True)
    for name, body in commands.items():
        (directory / name).write_text(f"#!/bin/sh\n{body}\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


SQUEUE = """cat <<'END'
11|parsl.fitserve-mine-HighThroughputExecutor.block-0.1|RUNNING|None|1:02|1|c1
12|parsl.fitserve-mine-HighThroughputExecutor.block-1.1|PENDING|Resources|0:00|1|
13|parsl.fitserve-mine.block-0.2|RUNNING|None|0:10|1|c2
14|parsl.fitserve-mine2-HighThroughputExecutor.block-0.1|RUNNING|None|0:10|1|c2
15|analysis|RUNNING|None|9:00|1|c2
END"""


def test_jobs_are_told_apart_and_only_the_endpoints_are_cancelled(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = tmp_path / "cancelled"
    _fake(tmp_path / "bin", monkeypatch, squeue=SQUEUE, scancel=f'echo "$@" >> {cancelled}')
    found = jobs.find_jobs(deployed.site, deployed.name)
    assert [(job.id, job.state, job.reason, job.of_endpoint) for job in found] == [
        ("11", "running", "", True),
        ("12", "queued", "Resources", True),
        ("13", "running", "", False),
    ]
    assert jobs.cancel_jobs(deployed.site, deployed.name) == ["11", "12"]
    assert cancelled.read_text().split() == ["11", "12"]


QSTAT = """cat <<'END'
Job Id: 7.head
    Job_Name = parsl.fitserve-mine-HighThroughput
\tExecutor.block-0.1
    job_state = Q
    comment = Not Running: Insufficient amount of resource: ncpus
Job Id: 8.head
    Job_Name = parsl.fitserve-mine-HighThroughputExecutor.block-1.1
    job_state = F
END"""


def test_jobs_of_pbs(
    make_site: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(extends="pbspro")
    _fake(tmp_path / "bin", monkeypatch, qstat=QSTAT)
    [job] = jobs.find_jobs(site, "fitserve-mine")
    assert (job.id, job.state, job.of_endpoint) == ("7.head", "queued", True)
    assert job.reason.startswith("Not Running")


def test_jobs_of_torque_are_known_by_the_name_that_parsl_gives_them(
    make_site: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = QSTAT.replace("parsl.fitserve-mine", "parsl.parsl.fitserve-mine")
    _fake(tmp_path / "bin", monkeypatch, qstat=shown)
    [job] = jobs.find_jobs(make_site(extends="torque"), "fitserve-mine")
    assert (job.id, job.of_endpoint) == ("7.head", True)


def test_one_line_of_the_crontab_comes_and_goes(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "crontab.txt"
    table.write_text("5 4 * * * true\n")
    body = f'case "$1" in -l) cat {table};; -) cat > {table};; esac'
    _fake(tmp_path / "bin", monkeypatch, crontab=body, squeue="true")
    assert service.boot(deployed) == "nothing"
    assert service._enable(deployed)
    assert not service._enable(deployed)
    assert service.boot(deployed) == "cron"
    assert table.read_text().startswith("5 4 * * * true\n@reboot ")
    service.stop(deployed, disable=True)
    assert table.read_text() == "5 4 * * * true\n"


SYSTEMCTL = """echo "$@" >> {log}
case "$2" in
  is-enabled) test -e {log}.enabled ;;
  enable) touch {log}.enabled ;;
  is-active) test -e {log}.active ;;
  start|restart) touch {log}.active ;;
esac"""


LOGINCTL = """echo "loginctl $@" >> {log}
case "$1" in
  enable-linger) test -e {log}.refuses && exit 1; touch {log}.lingers ;;
  show-user) test -e {log}.lingers && echo yes || echo no ;;
esac"""


@pytest.fixture
def unit(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Deployed, Path]]:
    """Return an endpoint that a systemd looks after, and what was asked of it."""
    log = tmp_path / "systemctl.log"
    logind = LOGINCTL.format(log=log)
    _fake(tmp_path / "bin", monkeypatch, systemctl=SYSTEMCTL.format(log=log), loginctl=logind)
    path = deployed.path(deployed.places.unit)
    path.parent.mkdir(parents=True)
    path.write_text("[Service]\n")
    deployed.configuration.mkdir(parents=True)
    (deployed.configuration / "config.yaml").write_text("heartbeat_period: 30\n")
    (deployed.configuration / "user_environment.yaml").write_text("PATH: /usr/bin\n")
    identity = "11111111-2222-4333-8444-555555555555"
    (deployed.configuration / "endpoint.json").write_text(json.dumps({"endpoint_id": identity}))
    # In the endpoint's place: its name is on the command line, as it is on the real one's.
    waiting = [sys.executable, "-c", "import time; time.sleep(60)", deployed.name]
    with subprocess.Popen(waiting) as process:
        (deployed.configuration / "daemon.pid").write_text(f"{process.pid}\n")
        yield deployed, log
        process.kill()


def test_systemd_is_told_to_start_it_now_and_at_boot(unit: tuple[Deployed, Path]) -> None:
    deployed, log = unit
    said = service.ensure(deployed, drain_seconds=0)
    assert said["changed"]
    assert said["boot"] == "systemd"
    asked = log.read_text().splitlines()
    name = f"{deployed.name}.service"
    for line in (f"--user enable {name}", "loginctl enable-linger", f"--user start {name}"):
        assert line in asked
    assert not service.ensure(deployed, drain_seconds=0)["changed"]


def test_an_endpoint_that_may_not_linger_is_said_to_end_at_logout(
    unit: tuple[Deployed, Path],
) -> None:
    deployed, log = unit
    refuses = log.with_name(f"{log.name}.refuses")
    refuses.touch()
    said = service.ensure(deployed, drain_seconds=0)
    assert (said["boot"], service.boot(deployed)) == ("login", "login")
    assert not service.ensure(deployed, drain_seconds=0)["changed"]
    refuses.unlink()  # the administrators were asked
    said = service.ensure(deployed, drain_seconds=0)
    assert (said["boot"], said["changed"]) == ("systemd", True)


def test_what_a_killed_endpoint_left_is_ended_with_its_jobs(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = tmp_path / "cancelled"
    _fake(tmp_path / "bin", monkeypatch, squeue=SQUEUE, scancel=f'echo "$@" >> {cancelled}')
    assert str(supervisor.tidy(deployed)) == ""  # never registered: it had no jobs
    deployed.configuration.mkdir(parents=True)
    endpoint, child = (f"{digit * 8}-2222-4333-8444-555555555555" for digit in "34")
    registered = json.dumps({"endpoint_id": endpoint})
    (deployed.configuration / "endpoint.json").write_text(registered)
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    orphan = subprocess.Popen(waiting, env={"NAME": f"uep.{endpoint}.{child}"})
    manager = subprocess.Popen([*waiting, deployed.name])
    (deployed.configuration / "daemon.pid").write_text(f"{manager.pid}\n")
    with orphan, manager:
        # The kernel shows them a moment after they were started.
        seen = Path(f"/proc/{manager.pid}/cmdline"), Path(f"/proc/{orphan.pid}/environ")
        wait_for("the command", lambda: deployed.name in seen[0].read_text())
        wait_for("the variable", lambda: child in seen[1].read_text())
        found = supervisor.tidy(deployed)
        # By SIGKILL where the machine was too busy for the other.
        for process in (manager, orphan):
            assert process.wait(10) in {-signal.SIGTERM, -signal.SIGKILL}
    assert found == (manager.pid, 1, ["11", "12"])
    assert str(found) == f"endpoint {manager.pid}, 1 processes, jobs 11, 12"
    assert cancelled.read_text().split() == ["11", "12"]


def test_another_configuration_waits_for_users_fits(
    unit: tuple[Deployed, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed, log = unit
    service.ensure(deployed, drain_seconds=0)
    (deployed.configuration / "config.yaml").write_text("heartbeat_period: 31\n")
    busy = ["a child"]
    monkeypatch.setattr(service, "busy_children", lambda _: busy)
    said = service.ensure(deployed, drain_seconds=0)
    assert (said["pending"], said["changed"]) == (True, False)
    assert "restart" not in log.read_text()
    busy.clear()
    said = service.ensure(deployed, drain_seconds=0)
    assert (said["pending"], said["changed"]) == (False, True)
    assert f"--user restart {deployed.name}.service" in log.read_text()


def test_destroy_removes_what_was_made_and_nothing_else(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    _fake(tmp_path / "bin", monkeypatch, squeue="true", crontab="exit 1")
    (home / ".config").mkdir()
    paths = [deployed.path(path) for path in deployed.places.made]
    made = [str(path) for path in paths if path != home / ".config"]
    release = deployed.path(deployed.places.releases) / "1-ab"
    release.mkdir(parents=True)
    deployed.link.symlink_to(release)
    deployed.configuration.mkdir(parents=True)
    (deployed.configuration / "config.yaml").write_text("")
    (home / ".local" / "share" / "theirs").write_text("")
    manifest = Manifest(endpoint=deployed.name, site="mine", made=made, releases=["1-ab"])
    write_manifest(deployed.path(deployed.places.manifest), manifest, current="1-ab")
    said = removal.destroy(deployed)
    left = sorted(str(path.relative_to(home)) for path in home.rglob("*"))
    assert left == [".config", ".local", ".local/share", ".local/share/theirs"]
    assert sorted(said["left"]) == [str(home / ".local"), str(home / ".local" / "share")]


def test_what_torque_put_at_home_is_the_endpoints_by_the_jobs_name(
    make_site: Callable[..., Site], home: Path
) -> None:
    ours = (
        "parsl.fitserve-mine-HighThroughputExecutor.block-0.1764344000.1234.o17",
        "parsl.fitserve-mine-HighThroughputExecutor.block-0.1764344000.1234.e17",
        "parsl.fitserve-mine.block-3.1764344000.5.o18",
        # Debian's qsub over Slurm: by the script that was given to it.
        "parsl.fitserve-mine-HighThroughputExecutor.block-1.1764344000.1234.submit.e21",
        "parsl.parsl.fitserve-mine.block-0.1795884810.9595392.submit.o3",
    )
    others = (
        "parsl.fitserve-mine2.block-0.1764344000.1234.o19",
        "parsl.fitserve-mine.block-0.notes",
        "analysis.o20",
    )
    for name in (*ours, *others):
        (home / name).write_text("")
    site = make_site(extends="torque")
    found = jobs.outputs_at_home(site, "fitserve-mine")
    assert {path.name for path in found} == set(ours)
    assert jobs.outputs_at_home(make_site(), "fitserve-mine") == []


def test_a_release_of_another_endpoint_stays(deployed: Deployed, home: Path) -> None:
    releases = deployed.path(deployed.places.releases)
    for name in ("1-aa", "1-bb"):
        (releases / name).mkdir(parents=True)
    other = deployed.state.parent / "fitserve-other"
    other.mkdir()
    write_manifest(
        other / "manifest.json",
        Manifest(endpoint="fitserve-other", site="other"),
        releases=["1-aa"],
    )
    mine = Manifest(endpoint=deployed.name, site="mine", releases=["1-aa", "1-bb"])
    assert removal._unused(deployed, mine) == [releases / "1-bb"]


def test_an_image_that_another_site_runs_stays(make_site: Callable[..., Site], home: Path) -> None:
    container = {"type": "apptainer", "image": "~/images/w.sif"}
    deployed = Deployed(make_site(environment={"container": container}))
    image = home / "images" / "w.sif"
    assert deployed.path(deployed.places.image) == image
    own = deployed.path(deployed.places.direct)
    engine = json.dumps({"engine": {"container_uri": "$HOME/images/w.sif"}})
    for place, kept in ((own, set()), (own.with_name("other"), {image})):
        place.mkdir(parents=True)
        (place / "engine.json").write_text(engine)
        assert removal._still_needed(deployed) == kept


def test_what_an_earlier_version_made_is_remembered() -> None:
    roles = Path(__file__).parents[2] / "deploy" / "ansible" / "roles"
    text = yaml.safe_load((roles / "runtime" / "defaults" / "main.yml").read_text())["runtime_made"]
    seen = {"paths": {"made": ["~/a", "~/a/2.sif", "~/b"]}, "there": ["~/a", "~/b"]}

    def made(old: dict[str, Any]) -> Any:
        template = NativeEnvironment().from_string(text)
        return template.render(preflight_seen=seen, runtime_old=old)

    assert made({}) == ["~/a/2.sif"]
    then = made({"made": ["~/a", "~/a/1.sif"]})
    assert then == ["~/a", "~/a/2.sif", "~/a/1.sif"]
    assert made({"made": then}) == then


def test_a_manifest_is_written_only_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    manifest = Manifest(endpoint="fitserve-mine", site="mine")
    assert write_manifest(path, manifest, current="1-ab")
    assert not write_manifest(path, read_manifest(path), current="1-ab")
    path.write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        read_manifest(path)


@pytest.mark.parametrize("state", ["", "[idle; shut down in 40.0s] "])
def test_a_child_that_is_idle_is_no_orphan(state: str) -> None:
    endpoint, child = (f"{digit * 8}-2222-4333-8444-555555555555" for digit in "12")
    title = f"{state}Globus Compute Endpoint ({child}, uep.{endpoint}.{child})"
    command = ["bash", "-c", 'exec -a "$0" sleep 60', title]
    with subprocess.Popen(command) as process:
        try:
            found: list[Any] = []
            while not any(one.command.startswith(title) for one in found):
                assert process.poll() is None
                found = processes.find_processes(endpoint)
            assert [(one.pid, one.orphan) for one in found] == [(process.pid, False)]
        finally:
            process.kill()


# -- what is said --------------------------------------------------------------------------------


def test_what_status_says() -> None:
    job = {"id": "12", "state": "queued", "reason": "Resources", "of_endpoint": True}
    endpoint = {
        "id": "e", "pid": 3, "since": "2026-01-02T03:04:05+00:00", "kept_by": "supervisor",
        "at_boot": "cron", "restart_pending": False,
    }  # fmt: skip
    found = {
        "site": "mine",
        "endpoint": endpoint,
        "children": ["c"],
        "jobs": [job],
        "workers": {"of_running_jobs": 0, "most": 8},
        "disk": {},
        "versions": {"release": "1-ab", "previous": None},
        "last_fits": [],
        "orphans": [{"pid": 9}],
    }
    told = Host.status_text(found)
    assert "job        12 queued: Resources" in told
    assert "started at boot by cron" in told
    assert "end them with ARGS=--end-orphans" in told
    told = Host.status_text({**found, "orphans_ended": 1, "jobs_ended": ["12"]})
    assert "job        12 queued: its endpoint was dead; ended" in told
    assert "1 processes of dead children; 1 ended" in told
    told = Host.status_text({**found, "endpoint": {**endpoint, "at_boot": "login"}})
    assert "until its user logs out: `loginctl enable-linger` was refused" in told


def test_what_a_failed_stage_says() -> None:
    stage = {"what": "fit", "told": "lost", "seconds": 1.0, "ok": False, "next": "make logs"}
    assert stages_text([stage]).splitlines()[1].endswith("next: make logs")


def test_the_script_that_keeps_an_endpoint_running_is_private() -> None:
    role = Path(__file__).parents[2] / "deploy" / "ansible" / "roles"
    task = yaml.safe_load((role / "service" / "tasks" / "main.yml").read_text())[0]
    assert stat.S_IMODE(int(task["ansible.builtin.template"]["mode"], 8)) == 0o700
    secrets = yaml.safe_load((role / "configure" / "tasks" / "main.yml").read_text())
    [credentials] = [one for one in secrets if "credentials" in one["name"]]
    assert credentials["no_log"] is True
    assert credentials["diff"] is False
    assert credentials["ansible.builtin.copy"]["mode"] == "0600"
