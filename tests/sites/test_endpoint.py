"""The real globus-compute-endpoint renders, loads and submits what sites are rendered to."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml

from fitserve.errors import BackendError
from sitekit.documents import user_config
from sitekit.golden import GOLDEN, GOLDEN_SITES, ask_endpoint, build, submission
from sitekit.load import load_site, shipped_sites
from sitekit.render import Rendering, render_site, write_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sitekit.site import Site

pytestmark = [pytest.mark.endpoint, pytest.mark.usefixtures("endpoint")]

SITES = shipped_sites()
PROVIDERS = {
    "slurm": "SlurmProvider",
    "pbspro": "PBSProProvider",
    "torque": "TorqueProvider",
    "kubernetes": "PodProvider",
    "local": "LocalProvider",
}


def _bounds(site: Site) -> list[dict[str, Any]]:
    given = msgspec.to_builtins(site.user_options)
    low = {name: b.get("minimum", b.get("choices", ["abc-1"])[0]) for name, b in given.items()}
    high = {name: b.get("maximum", b.get("choices", ["abc-1"])[-1]) for name, b in given.items()}
    return [low, high]


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, endpoint: Path, rendered: Path
) -> dict[str, list[dict]]:
    """Build every site without options and with those at both ends of their bounds."""
    jobs: list[tuple[Path, dict[str, Any] | None]] = []
    for name in SITES:
        site, _ = load_site(name)
        jobs += [(rendered / name, options) for options in [None, *_bounds(site)]]
    results = build(jobs, tmp_path_factory.mktemp("home"))
    return {name: results[3 * index : 3 * index + 3] for index, name in enumerate(SITES)}


@pytest.mark.parametrize("name", SITES)
def test_the_endpoint_loads_and_would_submit_it(name: str, built: dict[str, list[dict]]) -> None:
    site, _ = load_site(name)
    for result in built[name]:
        assert "error" not in result, result.get("error")
        assert result["engine"] == "GlobusComputeEngine"
        assert result["provider"] == PROVIDERS[site.scheduler.type]
        assert result["serializers"] == ["JSONData", "PureSourceTextInspect"]
        assert result["retries"] == site.tasks.retries
        assert result["address"]
        assert result["core"]["type"] == "CoreEndpointConfig"
        assert result["core"]["allowed_functions"] == []
    [(file, text)] = submission(built[name][0]).items()
    if name in GOLDEN_SITES:
        kept = (GOLDEN / name / file).read_text(encoding="utf-8")
        assert kept == text, "make golden, then review"
    if file == "submit.sh":
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("name", SITES)
def test_our_view_of_a_template_is_the_endpoints(
    name: str, built: dict[str, list[dict]], rendered: Path
) -> None:
    site, _ = load_site(name)
    template = (rendered / name / "user_config_template.yaml.j2").read_text(encoding="utf-8")
    for options, result in zip([{}, *_bounds(site)], built[name], strict=True):
        assert yaml.safe_load(result["config"]) == user_config(template, options)
    described = json.loads((rendered / name / "engine.json").read_text(encoding="utf-8"))
    assert described["engine"] == yaml.safe_load(built[name][0]["config"])["engine"]


def render_user_config(
    directory: Path, options: dict[str, Any] | None = None, *, home: Path
) -> str:
    """Render a user's configuration by the endpoint's own command; None leaves out all options."""
    command = ["globus-compute-endpoint", "render-user-config"]
    command += ["--template", str(directory / "user_config_template.yaml.j2")]
    command += ["--user-schema", str(directory / "user_config_schema.json")]
    if options is None:
        return ask_endpoint(*command, text=None, home=home)
    return ask_endpoint(*command, "--user-options", "-", text=json.dumps(options), home=home)


@pytest.mark.parametrize("name", ["local", "expanse", "polaris", "bluewaters", "kubernetes"])
def test_the_endpoints_own_command_renders_it(
    name: str, built: dict[str, list[dict]], rendered: Path, tmp_path: Path
) -> None:
    site, _ = load_site(name)
    without = render_user_config(rendered / name, home=tmp_path)
    assert without.strip() == built[name][0]["config"].strip()
    high = _bounds(site)[1]
    assert render_user_config(rendered / name, high, home=tmp_path).strip() == (
        built[name][2]["config"].strip()
    )
    with pytest.raises(BackendError, match="refuses"):
        render_user_config(rendered / name, {"worker_init": "id"}, home=tmp_path)


def test_workers_that_the_endpoint_counts_are_those_of_the_card(
    built: dict[str, list[dict]], rendered: Path
) -> None:
    for name in SITES:
        card = json.loads((rendered / name / "site-card.json").read_text(encoding="utf-8"))
        assert built[name][0]["workers_per_node"] == (card["worker"]["per_node"] or 1), name


INJECTIONS = [
    'x"\n#SBATCH --wrap="id"',
    "x\nid",
    "x\n",
    "$(id)",
    "`id`",
    "x; id",
    "x && id",
    "{{ 7 * 7 }}",
    "{% for x in [] %}",
    "x' --uid=0 '",
    "x --uid=0",
    "../../etc",
    "\u2028id",
    "x\u0000",
    "-A",
    "",
    "x" * 65,
]


def test_no_injection_reaches_a_scheduler(rendered: Path, tmp_path: Path) -> None:
    """Every attempt is refused by the schema, for every site and text option."""
    jobs: list[tuple[Path, dict[str, Any] | None]] = []
    for name in SITES:
        settable = load_site(name)[0].user_options.allowed()
        for option in ("account", "partition", "queue", "qos"):
            if option in settable:
                jobs += [(rendered / name, {option: text}) for text in INJECTIONS]
    assert len(jobs) > 20 * len(INJECTIONS)
    for (directory, options), result in zip(jobs, build(jobs, tmp_path), strict=True):
        assert "ValidationError" in result.get("error", ""), (directory.name, options)


def test_without_a_schema_the_template_still_leaves_only_names(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    """If somebody removes the schema, what is left of an attempt is a harmless word."""
    directories = {}
    for base, option in (("slurm", "account"), ("pbspro", "account"), ("torque", "account")):
        directory = tmp_path / base
        write_files(render_site(make_site(base), Rendering("1", tmp_path))[0], directory)
        (directory / "user_config_schema.json").write_text("{}", encoding="utf-8")
        directories[directory] = option
    texts = [text for text in INJECTIONS if text]
    jobs = [
        (directory, {option: text}) for directory, option in directories.items() for text in texts
    ]
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+@:-")
    for (directory, options), result in zip(jobs, build(jobs, tmp_path), strict=True):
        assert "error" not in result, (options, result)
        account = yaml.safe_load(result["config"])["engine"]["provider"]["account"]
        assert set(account or "") <= allowed
        for line in result["script"].splitlines():
            assert line.strip() != "id"
            assert "--wrap" not in line or line.startswith("#SBATCH --account="), line
            assert "49" not in line or "{{" not in line
        if directory.name == "slurm":
            # One directive holds all of it: nothing begins a line of its own.
            assert sum("--account=" in line for line in result["script"].splitlines()) <= 1


def test_what_globus_ships_and_we_corrected(rendered: Path, tmp_path: Path) -> None:
    """Upstream's FASTER example has a mapping as strategy, which the engine dies of; ours not."""
    directory = tmp_path / "faster"
    directory.mkdir()
    for path in (rendered / "faster").iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    template = directory / "user_config_template.yaml.j2"
    template.write_text(
        template.read_text(encoding="utf-8").replace(
            "job_status_kwargs:\n    strategy: simple\n",
            "job_status_kwargs:\n    strategy: {type: SimpleStrategy, max_idletime: 90}\n",
        ),
        encoding="utf-8",
    )
    broken, ours = build([(directory, None), (rendered / "faster", None)], tmp_path)
    assert "error" in broken
    assert "error" not in ours


def test_a_multi_user_endpoint_loads(make_site: Callable[..., Site], tmp_path: Path) -> None:
    policy = "11111111-2222-4333-8444-555555555555"
    site = make_site(
        "slurm",
        contact="mailto:fitserve@example.edu",
        access={
            "mode": "multi-user",
            "domains": ["example.edu"],
            "authentication_policy": policy,
            "subscription": policy,
            "high_assurance": True,
            "pam_service": "fitserve",
            "functions": [policy],
        },
        endpoint={"venv": "/opt/fitserve/venv"},
        environment={"container": {"image": "/opt/fitserve/worker.sif"}},
    )
    directory = tmp_path / "site"
    write_files(render_site(site, Rendering("1", tmp_path))[0], directory)
    [result] = build([(directory, None)], tmp_path)
    assert "error" not in result, result
    assert result["core"]["allowed_functions"] == [policy]
    assert result["core"]["authentication_policy"] == policy
    assert result["core"]["high_assurance"] is True


def test_the_identity_mapping_maps(
    make_site: Callable[..., Site], tmp_path: Path, endpoint: Path
) -> None:
    """Ask Globus' own mapper which local account an identity becomes."""
    site = make_site(
        "slurm",
        contact="mailto:fitserve@example.edu",
        access={"mode": "multi-user", "domains": ["example.edu"]},
        endpoint={"venv": "/opt/fitserve/venv"},
        environment={"container": {"image": "/opt/fitserve/worker.sif"}},
    )
    files, _ = render_site(site, Rendering("1", tmp_path))
    (tmp_path / "mapping.json").write_text(files["identity_mapping.json"], encoding="utf-8")
    program = """
import json, sys
from globus_identity_mapping.loader import load_mappers
[mapper] = load_mappers(json.load(open(sys.argv[1])))
names = ["ada@example.edu", "bob@evil.org", "eve@example.edu.evil.org", "kim@exampleXedu"]
identities = [{"id": name, "username": name, "status": "used"} for name in names]
print(json.dumps(mapper.map_identities(identities)))
"""
    done = subprocess.run(
        [str(endpoint / "bin" / "python"), "-c", program, str(tmp_path / "mapping.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"ada@example.edu": ["ada"]}]
