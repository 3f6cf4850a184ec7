"""Which revision serves again, and when there is nothing to install."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fitserve.errors import BackendError
from kuberig.fake import Fake
from sitekit.cli import commands
from sitekit.deployment.release import Release
from sitekit.deployment.targets import CREDENTIALS
from sitekit.load import load_site
from sitekit.render import Rendering

IDENT, OTHER = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"
NAME = "fitserve-kubernetes"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.chdir(tmp_path)
    return Fake(tmp_path, monkeypatch)


def _release() -> Release:
    return Release(load_site("kubernetes")[0], Rendering("0.0.0", Path("/home/fitserve")), {})


def _tell(fake: Fake, *revisions: tuple[str, str, dict[str, Any] | None]) -> None:
    """Have helm know revisions: status, manifest, and the endpoint's values or None without one."""
    answers: dict[str, tuple[int, str]] = {}
    rows = []
    for number, (status, manifest, endpoint) in enumerate(revisions, 1):
        rows.append({"revision": number, "status": status})
        which = f"{NAME} --namespace fitserve --revision {number}"
        values = {"endpoint": {"enabled": endpoint is not None, **(endpoint or {})}}
        answers[f"helm get values {which}"] = (0, json.dumps(values))
        answers[f"helm get manifest {which}"] = (0, manifest)
    fake.tell({"helm history": (0, json.dumps(rows)), **answers})


def _rolled_back(fake: Fake) -> list[str]:
    return [words.split()[3] for words, _ in fake.calls("helm rollback")]


def test_rollback_goes_to_the_last_revision_that_was_something_else(fake: Fake) -> None:
    known = {"id": IDENT}
    _tell(
        fake,
        ("superseded", "first", known),
        ("superseded", "good", known),
        ("superseded", "present", known),
        ("failed", "bad", known),
        ("deployed", "present", known),
    )
    assert _release().rollback() == 2
    assert _rolled_back(fake) == ["2"]


def test_rollback_never_changes_the_id_of_the_endpoint(fake: Fake) -> None:
    """Before the first revision was up, nobody knew the id: its endpoint would get another."""
    unknown, known = {"id": None}, {"id": IDENT}
    _tell(fake, ("superseded", "first", unknown), ("deployed", "present", known))
    with pytest.raises(BackendError, match="nothing to go back to"):
        _release().rollback()
    _tell(fake, ("superseded", "other", {"id": OTHER}), ("deployed", "present", known))
    with pytest.raises(BackendError, match="nothing to go back to"):
        _release().rollback()
    _tell(fake, ("superseded", "no endpoint", None), ("deployed", "present", known))
    with pytest.raises(BackendError, match="nothing to go back to"):
        _release().rollback()
    assert _rolled_back(fake) == []


def test_on_a_volume_the_state_keeps_the_id(fake: Fake) -> None:
    kept = {"id": None, "state": {"size": "1Gi"}}
    _tell(fake, ("superseded", "first", kept), ("deployed", "present", kept))
    assert _release().rollback() == 1


def test_without_an_endpoint_there_is_no_id_to_keep(fake: Fake) -> None:
    _tell(fake, ("superseded", "first", None), ("deployed", "present", None))
    assert _release().rollback() == 1


def test_nothing_to_go_back_to_has_a_status_of_its_own(fake: Fake) -> None:
    _tell(fake, ("superseded", "present", None), ("deployed", "present", None))
    done = CliRunner().invoke(commands, ["rollback", "kubernetes"])
    assert isinstance(done.exception, BackendError)
    assert done.exception.exit_code == 5
    assert "1 superseded, 2 deployed" in str(done.exception)


def _dry_run(fake: Fake, manifest: str, *, live: bool) -> None:
    rendered = json.dumps({"manifest": manifest})
    fake.tell(
        {
            f"helm upgrade --dry-run=server {NAME}": (0, rendered),
            "kubectl diff": (0, "") if live else (1, "-replicas: 1"),
        }
    )


def _installs(fake: Fake) -> int:
    return len(fake.calls("helm upgrade --install"))


def test_deploying_again_changes_nothing(fake: Fake) -> None:
    _tell(fake, ("superseded", "first", None), ("deployed", "present", None))
    _dry_run(fake, "present\n", live=True)
    assert _release().install() == (False, False, 2)
    assert _installs(fake) == 0
    # What the cluster is compared with is what would be installed.
    [(_, compared)] = fake.calls("kubectl diff")
    assert compared == "present\n"


@pytest.mark.parametrize(("manifest", "live"), [("new", True), ("present", False)])
def test_what_is_otherwise_is_installed(fake: Fake, manifest: str, live: bool) -> None:
    """Be it by this version, or because somebody changed or stopped what there is."""
    _tell(fake, ("deployed", "present", None))
    _dry_run(fake, manifest, live=live)
    assert _release().install() == (False, True, 1)
    assert _installs(fake) == 1


def test_an_endpoint_that_is_as_it_should_be_is_waited_for(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in zip(CREDENTIALS, (IDENT, "not one"), strict=True):
        monkeypatch.setenv(variable, value)
    _tell(fake, ("deployed", "present", {"id": IDENT}))
    _dry_run(fake, "present", live=True)
    fake.tell({"helm get values": (0, json.dumps({"endpoint": {"id": IDENT}}))})
    _tell(fake, ("deployed", "present", {"id": IDENT}))
    assert _release().install() == (True, False, 1)
    assert fake.calls(f"kubectl rollout status deployment/{NAME}")


# The commands


def _smoke(fake: Fake, condition: str) -> None:
    """Have the Job of the smoke test end so."""
    ended = {"status": {"conditions": [{"type": condition, "status": "True"}]}}
    fake.tell({"kubectl get job": (0, json.dumps(ended)), "kubectl logs": (0, "what it said")})


def test_a_failed_smoke_test_after_an_upgrade_puts_back_what_served(fake: Fake) -> None:
    _tell(fake, ("superseded", "first", None), ("deployed", "present", None))
    _dry_run(fake, "new", live=True)
    _smoke(fake, "Failed")
    done = CliRunner().invoke(commands, ["upgrade", "kubernetes"])
    assert isinstance(done.exception, BackendError)
    assert "what served before serves again" in done.exception.cause
    assert "what it said" in done.exception.evidence
    assert _rolled_back(fake) == ["2"]


def test_a_smoke_test_is_data_if_asked_for(fake: Fake) -> None:
    _tell(fake, ("deployed", "present", None))
    for condition, status in (("Complete", None), ("Failed", 5)):
        _smoke(fake, condition)
        done = CliRunner().invoke(commands, ["smoke", "kubernetes", "--json"])
        found = json.loads(done.stdout)
        assert found["ok"] is (status is None)
        assert [one["what"] for one in found["stages"]] == ["fit"]
        assert getattr(done.exception, "exit_code", None) == status


def test_a_failed_smoke_test_that_changed_nothing_puts_nothing_back(fake: Fake) -> None:
    _tell(fake, ("deployed", "present", None))
    _dry_run(fake, "present", live=True)
    _smoke(fake, "Failed")
    done = CliRunner().invoke(commands, ["deploy", "kubernetes"])
    assert isinstance(done.exception, BackendError)
    assert _rolled_back(fake) == []


def test_deploying_again_says_so_and_rolling_back_tries_a_fit(fake: Fake) -> None:
    _tell(fake, ("superseded", "first", None), ("deployed", "present", None))
    _dry_run(fake, "present", live=True)
    _smoke(fake, "Complete")
    done = CliRunner().invoke(commands, ["deploy", "kubernetes"], catch_exceptions=False)
    assert "nothing was changed" in done.output
    done = CliRunner().invoke(commands, ["rollback", "kubernetes"], catch_exceptions=False)
    assert "is served by what revision 1 was" in done.output
    assert done.output.count("the example was fitted by a worker pod") == 1
    assert len(fake.calls("kubectl create --namespace fitserve")) == 2


def test_what_the_doctor_finds_keeps_deploying_from_beginning(fake: Fake) -> None:
    fake.tell({"kubectl auth can-i create pods": (1, "no")})
    done = CliRunner().invoke(commands, ["deploy", "kubernetes"])
    assert isinstance(done.exception, BackendError)
    assert "you may not create pods" in done.exception.evidence
    assert fake.calls("helm upgrade") == []
    assert fake.calls("kubectl create") == []


@pytest.mark.parametrize("version", [(0, "v3.20.1"), (1, "Error: unknown flag")])
def test_another_helm_is_refused_before_anything_is_done(
    fake: Fake, version: tuple[int, str]
) -> None:
    fake.tell({"helm version": version})
    for verb in ("deploy", "upgrade", "rollback", "status", "destroy"):
        words = [verb, "kubernetes", *(["--yes"] if verb == "destroy" else [])]
        done = CliRunner().invoke(commands, words)
        assert isinstance(done.exception, BackendError)
        assert "not Helm 4" in done.exception.cause
        assert version[1] in done.exception.evidence
        assert "install Helm 4" in done.exception.hint
    assert {words.split()[1] for words, _ in fake.calls("helm")} == {"version"}
    assert fake.calls("kubectl create") == []
