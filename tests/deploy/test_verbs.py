"""One set of commands for login nodes and clusters, each with the options that it can mean."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from fitserve import __version__
from fitserve.errors import BackendError, Check
from kuberig.fake import Fake
from sitekit.cli import commands
from sitekit.deployment.cluster import Cluster
from sitekit.deployment.host import Host
from sitekit.deployment.targets import CARD, CREDENTIALS
from sitekit.deployment.verbs import VERBS, _Only
from sitekit.load import load_site

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
# What stands in for Ansible: it notes what it is asked, and brings back what it is told.
PLAYBOOK = """#!{python}
import json, pathlib, sys
place = pathlib.Path({place!r})
asked = sys.argv[1:]
given = json.loads(pathlib.Path(asked[asked.index("--extra-vars") + 1][1:]).read_text())
(place / "asked.json").write_text(json.dumps([asked, given]))
print("what Ansible says")
answer = json.loads((place / "answer.json").read_text())
if answer is not None:
    (pathlib.Path(given["fitserve_build"]) / "returned.json").write_text(json.dumps(answer))
sys.exit(1 if answer is None and "--check" not in asked else 0)
"""
STAGES = [
    {"what": "workers", "told": "1 worker", "seconds": 1.0, "ok": True, "next": ""},
    {"what": "fit", "told": "it was lost", "seconds": 2.0, "ok": False, "next": "make logs"},
]


class Ansible:
    """An Ansible that does nothing."""

    def __init__(self, place: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.place = place
        self._captured = captured
        program = place / "bin" / "ansible-playbook"
        program.parent.mkdir()
        program.write_text(PLAYBOOK.format(python=sys.executable, place=str(place)))
        program.chmod(0o755)

    def __call__(self, words: str, answer: dict[str, Any] | None = None) -> tuple[str, str]:
        """Run a command, to which the machine answers so; none is a failure of Ansible's.

        Returns what is said on standard output and standard error.
        """
        (self.place / "answer.json").write_text(json.dumps(answer))
        self._captured.readouterr()
        commands.main(shlex.split(words), standalone_mode=False)
        return self._captured.readouterr()

    @property
    def asked(self) -> tuple[list[str], dict[str, Any]]:
        """The command line of the last playbook, and its variables."""
        words, given = json.loads((self.place / "asked.json").read_text())
        return words, {name.removeprefix("fitserve_"): value for name, value in given.items()}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ansible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Ansible:
    monkeypatch.setenv("FITSERVE_ANSIBLE_VENV", str(tmp_path))
    return Ansible(tmp_path, capfd)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path, monkeypatch)


def _apart() -> Iterator[tuple[click.Command, _Only]]:
    for verb in VERBS:
        for option in verb.params:
            if isinstance(option, _Only):
                yield verb, option


@pytest.mark.parametrize(
    ("verb", "option"),
    [pytest.param(*one, id=f"{one[0].name}-{one[1].name}") for one in _apart()],
)
def test_an_option_of_the_other_kind_of_target_is_refused(
    verb: click.Command, option: _Only, tmp_path: Path
) -> None:
    """And what to do instead is said, with the status of any wrong option."""
    file = tmp_path / "file"
    file.touch()
    value = [] if option.is_flag or option.count else [str(file)]
    if option.type is click.INT and not option.count:
        value = ["1"]
    site, own = ("kubernetes", Host) if option.target is Host else ("slurm", Cluster)
    for name in (*option.opts, *option.secondary_opts):
        done = CliRunner().invoke(commands, [str(verb.name), site, name, *value])
        assert done.exit_code == 2
        assert f"is for a {own.kind}, and {site} is deployed to" in " ".join(done.output.split())
        assert option.instead.split()[-1] in done.output


def test_the_options_of_each_kind_of_target_are_listed_apart() -> None:
    said = CliRunner().invoke(commands, ["deploy", "--help"]).output
    common, _, rest = said.partition("On a login node:\n")
    of_host, _, of_cluster = rest.partition("On a Kubernetes cluster:\n")
    assert "--seconds" in common
    assert "\n  SITE" not in common
    assert "--host" in of_host
    assert "--values" in of_cluster
    assert "cluster:" not in CliRunner().invoke(commands, ["stop", "--help"]).output


def test_every_option_is_the_same_wherever_it_is() -> None:
    known: dict[str, Any] = {}
    for verb in VERBS:
        for option in verb.params:
            said = option.to_info_dict()
            assert known.setdefault(str(option.name), said) == said


def test_what_is_asked_reaches_the_playbook(ansible: Ansible, tmp_path: Path) -> None:
    image = tmp_path / "worker.sif"
    image.touch()
    options = "--here --seconds 5 --drain-seconds 7 --no-job --cloud --check --diff -vv"
    out, err = ansible(f"upgrade slurm {options} --image worker.sif --python /opt/python")
    assert (out, err) == ("", "what Ansible says\n")
    words, given = ansible.asked
    assert Path(words[0]).name == "deploy.yml"
    assert words[-3:] == ["-vv", "--check", "--diff"]
    expected = {
        "upgrade": True, "cloud_login": True, "no_job": True, "image": str(image),
        "smoke_seconds": 5, "drain_seconds": 7, "python": "/opt/python", "site": "slurm",
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected
    ansible("deploy slurm --here --check")
    _, given = ansible.asked
    assert (given["upgrade"], given["cloud_login"], given["smoke_seconds"]) == (False, False, 900)
    assert not {"image", "no_job"} & set(given)
    assert given["drain_seconds"] > 0


@pytest.mark.parametrize(
    ("verb", "cause"),
    [
        ("deploy", "deploy did not finish"),
        ("upgrade", "upgrade did not finish"),
        ("rollback", "the release was not changed"),
        ("smoke", "smoke did not finish"),
        ("destroy --yes", "destroy did not finish"),
    ],
)
def test_what_ansible_says_of_a_failure_is_shown(
    ansible: Ansible, verb: str, cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackendError) as raised:
        ansible(f"{verb} slurm --here")
    assert raised.value.cause == cause
    assert capfd.readouterr() == ("", "what Ansible says\n")


def test_a_machine_that_brings_nothing_back_is_said(ansible: Ansible) -> None:
    (ansible.place / "bin" / "ansible-playbook").write_text("#!/bin/sh\n")
    for verb in ("deploy", "status", "rollback"):
        with pytest.raises(BackendError, match="slurm did not answer"):
            ansible(f"{verb} slurm --here")


def test_a_failed_fit_is_told_alike_everywhere(
    ansible: Ansible, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackendError) as raised:
        ansible("smoke slurm --here --json --seconds 8", {"ok": False, "stages": STAGES})
    assert json.loads(capfd.readouterr().out) == {"ok": False, "stages": STAGES}
    error = raised.value
    assert error.cause == "the smoke test of slurm failed: fit"
    assert (error.evidence, error.hint) == ("it was lost", "make logs")
    _, given = ansible.asked
    assert (given["verb"], given["words"]) == ("smoke", ["--seconds", "8"])


def test_a_rollback_says_what_serves(ansible: Ansible) -> None:
    said = {"site": "slurm", "release": "1-ab"}
    assert ansible("rollback slurm --here --seconds 8", said)[0] == (
        "slurm is served by release 1-ab\n"
    )
    words, given = ansible.asked
    assert (Path(words[0]).name, given["smoke_seconds"]) == ("rollback.yml", 8)


def test_orphans_are_ended_where_that_is_asked(ansible: Ansible) -> None:
    for option, words in (("", []), ("--end-orphans", ["--end-orphans"])):
        assert json.loads(ansible(f"status slurm --here --json {option}", {"a": 1})[0]) == {"a": 1}
        assert ansible.asked[1]["words"] == words


def test_a_site_that_hides_another_is_said_to(
    ansible: Ansible, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slurm.yaml").write_text("extends: slurm\n")
    monkeypatch.setenv("FITSERVE_SITE_PATH", str(tmp_path))
    _, err = ansible("status slurm --here --json", {})
    assert err.startswith("warning: site 'slurm' is taken from ")


def test_logs_are_shown_after_their_names(ansible: Ansible) -> None:
    out, _ = ansible("logs slurm --here --lines 2", {"logs": {"a.log": ["1", "2"], "b.log": []}})
    assert out == "==> a.log\n1\n2\n==> b.log\n"
    assert ansible.asked[1]["words"] == ["--lines", "2"]


def test_stopping_says_what_was_ended(ansible: Ansible) -> None:
    ended = {"processes": [1, 2], "jobs": ["3"], "idle": False}
    out, _ = ansible("stop slurm --here", ended)
    assert out.startswith("2 processes and 1 jobs ended; users' fits were running")
    assert ansible.asked[1]["words"] == ["--disable", "--drain-seconds", "0"]


def test_destroying_asks_first_and_takes_the_card_away(
    ansible: Ansible, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Path("build") / "deploy" / "slurm" / CARD
    card.parent.mkdir(parents=True)
    card.touch()
    said = {"processes": [], "jobs": [], "removed": ["a"], "told": "not found", "left": ["b"]}
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    with pytest.raises(click.Abort):
        ansible("destroy slurm --here", said)
    assert card.exists()
    out, err = ansible("destroy slurm --here --yes", said)
    assert out == "0 processes and 0 jobs ended, 1 files and directories removed\n"
    assert "registration: not found" in err
    assert "left, because it holds something else: b" in err
    assert not card.exists()


@pytest.mark.parametrize("verb", ["deploy", "upgrade", "rollback", "stop", "destroy"])
@pytest.mark.parametrize("site", ["slurm", "kubernetes"])
def test_what_changes_a_site_is_done_by_one_command_at_a_time(
    verb: str, site: str, ansible: Ansible
) -> None:
    loaded = load_site(site)[0]
    kind = Cluster if site == "kubernetes" else Host
    target = kind(loaded, kind.takes())
    yes = "--yes" if verb == "destroy" else ""
    with target.alone(), pytest.raises(BackendError, match="another command is changing"):
        ansible(f"{verb} {site} {yes}", {})


def test_a_cluster_that_is_destroyed_leaves_no_card(fake: Fake) -> None:
    fake.tell({"kubectl get namespace": (1, "NotFound")})
    card = Path("build") / "deploy" / "kubernetes" / CARD
    card.parent.mkdir(parents=True)
    card.touch()
    done = CliRunner().invoke(commands, ["destroy", "kubernetes", "--yes"], catch_exceptions=False)
    assert done.stdout == "fitserve-kubernetes is gone\n"
    assert not card.exists()


@pytest.mark.parametrize("verb", ["deploy", "upgrade"])
def test_half_of_the_credentials_is_an_error_on_a_login_node(
    verb: str, ansible: Ansible, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CREDENTIALS[0], "a")
    with pytest.raises(BackendError, match=f"{CREDENTIALS[1]} is not set"):
        ansible(f"{verb} slurm --here", {})
    assert not (ansible.place / "asked.json").exists()


def test_ansible_is_installed_when_a_host_is_the_first_to_need_it(
    ansible: Ansible, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a minute and the network, for which a cluster's administrator would wait in vain."""
    monkeypatch.delenv("FITSERVE_ANSIBLE_VENV")
    wanted = []

    def installed(name: str) -> Path:
        wanted.append(name)
        return ansible.place

    monkeypatch.setattr("sitekit.deployment.host.install", installed)
    ansible("logs slurm --here", {"logs": {}})
    assert wanted == ["ansible"]

    def fails(name: str) -> Path:
        raise subprocess.CalledProcessError(1, ["pip", "install"])

    monkeypatch.setattr("sitekit.deployment.host.install", fails)
    with pytest.raises(BackendError, match="Ansible cannot be installed"):
        ansible("logs slurm --here", {"logs": {}})


def test_a_cluster_needs_no_ansible(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FITSERVE_ANSIBLE_VENV", raising=False)
    monkeypatch.setattr("sitekit.deployment.host.install", pytest.fail)
    assert _on_cluster("stop kubernetes") == "fitserve-kubernetes is stopped\n"
    assert "ansible" not in _prerequisites("deploy", "smoke", "destroy")


def _prerequisites(*verbs: str) -> str:
    """Return what `make` would run for these targets, on a checkout that has its environment."""
    words = ["make", "--dry-run", "--directory", str(ROOT), "-o", "install", *verbs, "SITE=river"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _on_cluster(words: str) -> str:
    return CliRunner().invoke(commands, shlex.split(words), catch_exceptions=False).stdout


def test_a_cluster_that_is_stopped_has_no_pods(fake: Fake) -> None:
    assert _on_cluster("stop kubernetes") == "fitserve-kubernetes is stopped\n"
    [(scaled, _)] = fake.calls("kubectl scale")
    assert scaled.endswith("--replicas=0")
    assert fake.calls("kubectl delete pods")


def test_logs_of_a_cluster_are_as_long_as_asked(fake: Fake) -> None:
    fake.tell({"kubectl logs": (0, "what it said")})
    assert _on_cluster("logs kubernetes --lines 7") == "what it said\n"
    assert "--tail=7" in fake.calls("kubectl logs")[0][0]


def test_ids_that_are_given_are_installed(fake: Fake) -> None:
    endpoint, function = (f"{digit * 8}-2222-4333-8444-555555555555" for digit in "12")
    ids = f"--endpoint-id {endpoint} --function-id {function}"
    _on_cluster(f"deploy kubernetes --no-smoke --seconds 9 {ids}")
    [(words, values)] = fake.calls("helm upgrade --install")
    assert "--timeout 9s" in words
    assert json.loads(values)["endpoint"]["id"] == endpoint
    assert function in values


def test_a_fit_through_a_clusters_endpoint(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function that must be refused is remembered, and asked for again."""
    from sitekit.target import smoke

    asked = []

    def served(*words: Any) -> tuple[list[Check], str]:
        asked.append(words)
        return [Check("fit", "ok", "CLs 0.1", seconds=1.0)], "refused-id"

    monkeypatch.setattr(smoke, "through_the_service", served)
    for name in CREDENTIALS:
        monkeypatch.setenv(name, "a")
    endpoint = {"enabled": True, "id": "the-id"}
    card = '{"card_version": 1, "name": "a"}'
    values = {"endpoint": endpoint, "configuration": {"site-card.json": card}}
    fake.tell(
        {
            "helm history": (0, json.dumps([{"revision": 4, "status": "deployed"}])),
            "helm get values": (0, json.dumps(values)),
            "helm get manifest": (0, "objects"),
        }
    )
    for _ in range(2):
        said = _on_cluster("smoke kubernetes --seconds 6")
        assert said == "ok      fit           1.0 s  CLs 0.1\n"
    (first, written, seconds, known), second = asked
    assert (first.endpoint_id, first.serving) == ("the-id", f"{__version__}-4")
    assert (seconds, known, second[3]) == (6, None, "refused-id")
    assert json.loads(written.read_text())["endpoint_id"] == "the-id"
