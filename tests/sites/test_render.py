"""Rendering is reproducible, says where it is from, and is safe by default."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest
import yaml

from fitserve.errors import RequestError, StoreError
from sitekit.cli import commands
from sitekit.documents import user_config
from sitekit.golden import GOLDEN, GOLDEN_RENDERING, GOLDEN_SITES, golden_differences
from sitekit.load import load_site, shipped_sites
from sitekit.problems import SiteError
from sitekit.render import Rendering, render_site, write_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from sitekit.site import Site

UUID = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"
SITES = shipped_sites()
PROVIDERS = {
    "slurm": "SlurmProvider",
    "pbspro": "PBSProProvider",
    "torque": "TorqueProvider",
    "kubernetes": "PodProvider",
    "local": "LocalProvider",
}


def _render(site: Site | str, **more: Any) -> dict[str, str]:
    loaded = load_site(site)[0] if isinstance(site, str) else site
    return render_site(loaded, Rendering("1.2.3", Path("/home/admin"), **more))[0]


@pytest.mark.parametrize("name", GOLDEN_SITES)
def test_a_site_renders_to_its_golden_files(name: str) -> None:
    assert golden_differences(name) == "", "make golden, then review the diff"
    made = "pod.json" if load_site(name)[0].scheduler.type == "kubernetes" else "submit.sh"
    assert (GOLDEN / name / made).is_file()


def test_there_are_no_golden_files_of_other_sites() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(GOLDEN_SITES)
    assert set(GOLDEN_SITES) < set(SITES)


@pytest.mark.parametrize("name", SITES)
def test_what_a_site_renders_to_can_be_read(name: str) -> None:
    scheduler = load_site(name)[0].scheduler.type
    files = _render(name)
    for file, text in files.items():
        if file.endswith(".json"):
            json.loads(text)
        if file.endswith(".yaml"):
            assert isinstance(yaml.safe_load(text), dict), file
    engine = user_config(files["user_config_template.yaml.j2"], {})["engine"]
    provider = engine["provider"]
    assert provider["type"] == PROVIDERS[scheduler]
    assert {"init_blocks", "min_blocks", "max_blocks", "parallelism"} <= set(provider)
    batch = scheduler in {"slurm", "pbspro", "torque"}
    assert ("walltime" in provider) == ("launcher" in provider) == batch
    assert ("namespace" in provider) == (scheduler == "kubernetes")


def test_golden_files_tell_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sitekit.golden.GOLDEN_RENDERING", Rendering("9.9.9", GOLDEN_RENDERING.home)
    )
    difference = golden_differences("slurm")
    assert "-# Rendered from site slurm" in difference
    assert "fitserve 9.9.9" in difference


@pytest.mark.parametrize("name", SITES)
def test_the_same_site_gives_the_same_bytes(name: str) -> None:
    assert _render(name) == _render(name)


@pytest.mark.parametrize("name", SITES)
def test_each_file_says_from_which_site_and_version_it_is(name: str) -> None:
    site, _ = load_site(name)
    for file, text in _render(name).items():
        assert f"Rendered from site {name} (sha256 {site.digest[:12]}) by fitserve 1.2.3" in text, (
            file
        )


@pytest.mark.parametrize("name", SITES)
def test_nothing_of_our_own_templates_is_left(name: str) -> None:
    for file, text in _render(name).items():
        assert "[%" not in text, file
        assert "[#" not in text, file
        assert "[[ " not in text, file
        if not file.endswith(".j2"):
            assert "{{" not in text, file
            assert "{version}" not in text, file


@pytest.mark.parametrize("name", SITES)
def test_an_endpoint_is_closed_by_default(name: str) -> None:
    files = _render(name)
    core = yaml.safe_load(files["config.yaml"])
    assert core["allowed_functions"] == []
    assert core["public"] is False
    assert "engine" not in core
    assert 30 <= core["heartbeat_period"] <= 300
    schema = json.loads(files["user_config_schema.json"])
    assert schema["additionalProperties"] is False
    engine = json.loads(files["engine.json"])["engine"]
    assert engine["allowed_serializers"] == [
        "globus_compute_sdk.serialize.PureSourceTextInspect",
        "globus_compute_sdk.serialize.JSONData",
    ]
    assert engine["max_retries_on_system_failure"] >= 1
    assert engine["address"]
    assert engine["provider"]["init_blocks"] <= 1
    for text in files.values():
        assert not re.search(r"\b(pip|uv|conda|apt(-get)?) +install|curl |wget ", text)


@pytest.mark.parametrize("name", SITES)
def test_a_block_ends_before_its_tasks_are_cut_off(name: str) -> None:
    site, _ = load_site(name)
    engine = json.loads(_render(name)["engine.json"])["engine"]
    if site.blocks.walltime is None:
        assert "drain_period" not in engine
        return
    hours, minutes, _ = map(int, engine["provider"]["walltime"].split(":"))
    longest = site.tasks.longest_minutes * 60
    startup = site.tasks.startup_seconds
    assert engine["drain_period"] + longest + startup == hours * 3600 + minutes * 60


def test_a_registered_endpoint_allows_its_function_alone(make_site: Callable[..., Site]) -> None:
    files = _render(make_site("slurm"), endpoint_id=UUID, function_id=OTHER)
    assert yaml.safe_load(files["config.yaml"])["allowed_functions"] == [OTHER]
    card = json.loads(files["site-card.json"])
    assert (card["endpoint_id"], card["function_id"]) == (UUID, OTHER)
    own = make_site("slurm", access={"functions": [UUID]}, endpoint={"id": OTHER})
    card = json.loads(_render(own)["site-card.json"])
    assert (card["endpoint_id"], card["function_id"]) == (OTHER, UUID)


@pytest.mark.parametrize("name", SITES)
def test_a_site_card_tells_a_client_what_it_needs(name: str) -> None:
    card = json.loads(_render(name)["site-card.json"])
    assert card["name"] == name
    assert card["worker"]["version"] == "1.2.3"
    assert card["worker"]["device"] in {"cpu", "cuda12", "cuda13"}
    assert (card["worker"]["gpu"] is None) == (card["worker"]["device"] == "cpu")
    assert card["limits"]["payload_bytes"] == 10_000_000
    assert card["limits"]["longest_task_seconds"] > 0
    assert card["endpoint_id"] is None


def test_a_card_names_the_login_host_only_where_users_may_ask_there(
    make_site: Callable[..., Site],
) -> None:
    for may in (False, True):
        site = make_site("slurm", login={"host": "login.example.edu", "ask_scheduler": may})
        card = json.loads(_render(site)["site-card.json"])
        assert card["login_host"] == ("login.example.edu" if may else None)


def test_a_site_that_breaks_a_rule_is_not_rendered(make_site: Callable[..., Site]) -> None:
    with pytest.raises(SiteError):
        _render(make_site("slurm", blocks={"min": 9}))


def test_a_multi_user_endpoint_maps_names_of_its_domains(make_site: Callable[..., Site]) -> None:
    site = make_site(
        "slurm",
        contact="mailto:fitserve@example.edu",
        access={"mode": "multi-user", "domains": ["example.edu"], "pam_service": "fitserve"},
        endpoint={"venv": "/opt/fitserve/venv"},
        environment={"container": {"image": "/opt/fitserve/worker.sif"}},
    )
    files = _render(site)
    core = yaml.safe_load(files["config.yaml"])
    assert core["identity_mapping_config_path"].endswith("/identity_mapping.json")
    assert core["email"] == "fitserve@example.edu"
    assert core["pam"] == {"enable": True, "service_name": "fitserve"}
    [mapping] = json.loads(files["identity_mapping.json"])
    [rule] = mapping["mappings"]
    assert rule["match"] == r"(.*)@example\.edu"
    assert rule["output"] == "{0}"
    [unit] = [text for name, text in files.items() if name.endswith(".service")]
    assert "WantedBy=multi-user.target" in unit
    assert "EnvironmentFile=-/etc/fitserve/" in unit


def test_optional_access_fields_reach_the_endpoint(make_site: Callable[..., Site]) -> None:
    site = make_site(
        "slurm",
        access={
            "authentication_policy": UUID,
            "subscription": UUID,
            "admins": [OTHER],
            "high_assurance": True,
            "audit_log": "/var/log/fitserve.log",
        },
    )
    core = yaml.safe_load(_render(site)["config.yaml"])
    assert core["authentication_policy"] == core["subscription_id"] == UUID
    assert core["admins"] == [OTHER]
    assert core["high_assurance"] is True
    assert core["audit_log_path"] == "/var/log/fitserve.log"


def test_a_proxy_reaches_the_endpoint_and_not_the_workers(make_site: Callable[..., Site]) -> None:
    site = make_site("slurm", network={"proxy": {"https": "http://proxy.example.edu:3128"}})
    files = _render(site)
    environment = yaml.safe_load(files["user_environment.yaml"])
    assert environment["HTTPS_PROXY"] == "http://proxy.example.edu:3128"
    assert environment["NO_PROXY"] == "localhost,127.0.0.1"
    assert 'Environment="HTTPS_PROXY=http://proxy' in files["fitserve-mine.service"]
    assert "PROXY" not in files["worker_init.sh"]


def test_the_endpoint_finds_its_own_commands(make_site: Callable[..., Site]) -> None:
    files = _render(make_site("slurm"))
    venv = "/home/admin/.local/share/fitserve/venv"
    path = yaml.safe_load(files["user_environment.yaml"])["PATH"]
    assert path.split(":")[:2] == [f"{venv}/fitserve/bin", f"{venv}/bin"]
    unit = files["fitserve-mine.service"]
    assert f"ExecStart={venv}/bin/globus-compute-endpoint start fitserve-mine" in unit
    assert "KillMode=control-group" in unit


@pytest.mark.parametrize(
    ("kind", "image", "words"),
    [
        ("apptainer", "~/w.sif", ["--bind $HOME/.fitserve/run", "--bind /data:/data:ro"]),
        ("docker", "fit/w:1", ["--network=host", "--read-only", "--cap-drop=all", "--user=$(id"]),
        (
            "podman",
            "fit/w:1",
            ["--userns=keep-id", "--user=$(id", "--security-opt=no-new-privileges", "-e TMPDIR"],
        ),
        ("podman-hpc", "fit/w:1", ["--rm", "-v /data:/data:ro"]),
        ("shifter", "fit/w:1", ["shifter --image=fit/w:1", "--volume=/data:/data:ro"]),
    ],
)
def test_containers_get_what_a_fit_needs(
    make_site: Callable[..., Site], kind: str, image: str, words: list[str]
) -> None:
    container = {"type": kind, "image": image, "binds": ["/data:/data:ro"]}
    site = make_site("slurm", environment={"container": container})
    engine = json.loads(_render(site)["engine.json"])["engine"]
    options = engine["container_cmd_options"]
    for word in words:
        assert word in options
    assert engine["container_type"] == ("custom" if kind == "shifter" else kind)
    # The endpoint splits at blanks and joins again: nothing may need its quotes.
    assert not set(options) & set("\"'\\;|&<>`")


def test_gpus_reach_a_container(make_site: Callable[..., Site]) -> None:
    expected = {
        "apptainer": "--nv",
        "docker": "--gpus=all",
        "podman": "--device=nvidia.com/gpu=all",
        "podman-hpc": "--gpu",
        "shifter": "--module=gpu",
    }
    for kind, word in expected.items():
        container = {"type": kind, "image": "fit/w:1"}
        engine = json.loads(
            _render(make_site("slurm-gpu", environment={"container": container}))["engine.json"]
        )["engine"]
        assert word in engine["container_cmd_options"].split()
        assert engine["available_accelerators"] == ["$FITSERVE_GPU_0"]


def test_the_engine_for_parsl_is_the_endpoints_own(make_site: Callable[..., Site]) -> None:
    site = make_site("slurm")
    files = _render(site)
    described = json.loads(files["engine.json"])
    assert described["engine"] == user_config(files["user_config_template.yaml.j2"], {})["engine"]
    options = {"max_blocks": 2, "walltime_minutes": 90, "account": "abc"}
    chosen = json.loads(render_site(site, Rendering("1", Path("/h")), options)[0]["engine.json"])[
        "engine"
    ]
    assert chosen["provider"]["max_blocks"] == 2
    assert chosen["provider"]["account"] == "abc"
    assert chosen["drain_period"] == 90 * 60 - 1920


def _bounds(site: Site) -> list[dict[str, Any]]:
    given = msgspec.to_builtins(site.user_options)
    low = {name: b.get("minimum", b.get("choices", ["abc"])[0]) for name, b in given.items()}
    high = {name: b.get("maximum", b.get("choices", ["abc"])[-1]) for name, b in given.items()}
    return [low, high]


@pytest.mark.parametrize("name", SITES)
def test_users_may_set_options_up_to_their_bounds(name: str) -> None:
    site, _ = load_site(name)
    files = _render(name)
    schema = json.loads(files["user_config_schema.json"])
    for options in _bounds(site):
        jsonschema.validate(options, schema)
        provider = user_config(files["user_config_template.yaml.j2"], options)["engine"]["provider"]
        assert provider["max_blocks"] == options.get("max_blocks", provider["max_blocks"])
        assert provider["init_blocks"] <= provider["max_blocks"]
        if "account" in options:
            assert provider["account"] == options["account"]
    for option, bounds in msgspec.to_builtins(site.user_options).items():
        if "minimum" in bounds:
            wrong: list[Any] = [bounds["minimum"] - 1, bounds["maximum"] + 1, "2", 1.5, True, None]
        else:
            wrong = [1, None, "", "a b", "x;y", "x\n"]
        for value in wrong:
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({option: value}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"worker_init": "true"}, schema)


def test_files_are_written_whole_and_scripts_can_be_run(tmp_path: Path) -> None:
    write_files(_render("slurm"), tmp_path / "a" / "b")
    written = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert "config.yaml" in written
    assert not any(name.endswith(".part") for name in written)
    assert (tmp_path / "a" / "b" / "worker_init.sh").stat().st_mode & 0o111
    assert not (tmp_path / "a" / "b" / "config.yaml").stat().st_mode & 0o022
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_files({"x": "y"}, tmp_path / "file")


def _sitekit(*arguments: str) -> None:
    commands.main(list(arguments), standalone_mode=False)


def test_the_command_renders_with_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    _sitekit("render", "slurm", "--out", str(out), "--home", "/home/x", "--option", "account=abc")
    assert "engine.json" in capsys.readouterr().out
    engine = json.loads((out / "engine.json").read_text())["engine"]
    assert engine["provider"]["account"] == "abc"
    for option in ("max_blocks=99", "max_blocks=x", "walltime=2", "account=a;b", "account"):
        with pytest.raises(RequestError):
            _sitekit("render", "slurm", "--out", str(out), "--option", option)


def test_the_command_checks_and_lists(capsys: pytest.CaptureFixture[str]) -> None:
    _sitekit("check", "frontera")
    said = capsys.readouterr()
    assert "224 core-hours" in said.out
    _sitekit("check", "bluewaters")
    assert "blueprint" in capsys.readouterr().err
    _sitekit("list")
    listed = capsys.readouterr().out
    assert all(name in listed for name in SITES)
    _sitekit("golden", "--check")
