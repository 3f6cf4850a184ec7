"""Site cards, endpoints by name, and options: read, refused and explained."""

from __future__ import annotations

import json
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner

from fitserve.cli import cli
from fitserve.endpoints import open_backend, parse_options
from fitserve.endpoints.base import CLOUD
from fitserve.endpoints.cards import (
    SiteCard,
    add_profile,
    check_options,
    find_profile,
    list_profiles,
    read_card,
    remove_profile,
)
from fitserve.endpoints.globus.backend import Presence, waiting_reason
from fitserve.errors import BackendError, InputError, RequestError, StoreError
from sitekit.golden import GOLDEN, GOLDEN_RENDERING
from sitekit.load import load_site, shipped_sites
from sitekit.render import render_site

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINT = "11111111-2222-4333-8444-555555555555"
FUNCTION = "66666666-7777-4888-9999-000000000000"


@pytest.fixture
def document() -> dict[str, Any]:
    """Return a card as sites are rendered, after registration."""
    card: dict[str, Any] = json.loads((GOLDEN / "expanse" / "site-card.json").read_text())
    return {**card, "endpoint_id": ENDPOINT, "function_id": FUNCTION}


def _write(path: Path, document: object) -> str:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def test_a_rendered_card_is_read(document: dict[str, Any], tmp_path: Path) -> None:
    card = read_card(_write(tmp_path / "card.json", document))
    assert card.endpoint_id == ENDPOINT
    assert card.function_id == FUNCTION
    assert card.scheduler == "slurm"
    assert card.limits.payload_bytes == 10_000_000
    assert card.options is not None
    assert set(card.options) == set(document["options"])


@pytest.mark.parametrize("site", shipped_sites())
def test_every_shipped_site_makes_a_card_that_is_understood(site: str, tmp_path: Path) -> None:
    files, _ = render_site(load_site(site)[0], GOLDEN_RENDERING)
    rendered = json.loads(files["site-card.json"])
    rendered["endpoint_id"] = ENDPOINT
    card = read_card(_write(tmp_path / "card.json", rendered))
    assert card.name == site
    assert card.limits.longest_task_seconds


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"endpoint_id": None}, "has no endpoint yet"),
        ({"card_version": 2}, "another version"),
        ({"endpoint_id": "expanse"}, "is not a site card"),
        ({"limits": 3}, "is not a site card"),
    ],
)
def test_a_wrong_card_is_refused(
    change: dict[str, Any], cause: str, document: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=cause):
        read_card(_write(tmp_path / "card.json", {**document, **change}))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', "\u0000"])
def test_what_is_no_card_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a site card"):
        read_card(_write(tmp_path / "card.json", text))
    with pytest.raises(InputError, match="cannot be read"):
        read_card(str(tmp_path / "absent.json"))


def _bare() -> SiteCard:
    return read_card(ENDPOINT)


def test_endpoints_are_added_listed_found_and_removed() -> None:
    assert list_profiles() == []
    add_profile("expanse", _bare(), amqp_port=5671)
    add_profile("anvil.gpu", _bare())
    assert [profile.name for profile in list_profiles()] == ["anvil.gpu", "expanse"]
    assert find_profile("expanse").amqp_port == 5671
    assert find_profile("anvil.gpu").amqp_port == 443
    with pytest.raises(RequestError, match="already") as taken:
        add_profile("expanse", _bare())
    assert "--replace" in taken.value.hint
    add_profile("expanse", _bare(), replace=True)
    assert find_profile("expanse").amqp_port == 443
    remove_profile("expanse")
    with pytest.raises(BackendError, match="there is no endpoint 'expanse'"):
        remove_profile("expanse")


@pytest.mark.parametrize("name", ["local", "inline", "", "a,b", "../x", "-x", "x y", "x" * 64])
def test_some_names_are_none(name: str) -> None:
    with pytest.raises(RequestError, match="cannot be the name"):
        add_profile(name, _bare())


@pytest.mark.parametrize("name", ["moon", "../../etc/passwd", ".", ""])
def test_an_unknown_endpoint_is_told_with_those_that_are_known(name: str) -> None:
    add_profile("expanse", _bare())
    with pytest.raises(BackendError, match="there is no endpoint") as caught:
        open_backend(name)
    assert "local" in caught.value.evidence
    assert "expanse" in caught.value.evidence


def test_a_damaged_profile_is_told() -> None:
    path = add_profile("expanse", _bare())
    path.write_text("{")
    with pytest.raises(StoreError, match="is damaged") as caught:
        find_profile("expanse")
    assert "--replace" in caught.value.hint


def test_options_get_the_types_of_the_card(document: dict[str, Any], tmp_path: Path) -> None:
    card = read_card(_write(tmp_path / "card.json", document))
    assert card.options is not None
    given = parse_options(["walltime_minutes=90", "account=atl101"])
    assert check_options(card, given) == {"walltime_minutes": 90, "account": "atl101"}
    assert check_options(_bare(), {"max_blocks": "2", "account": "7up"}) == {
        "max_blocks": 2,
        "account": "7up",
    }


@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ("walltime_minutes=100000", "does not take"),
        ("walltime_minutes=soon", "does not take"),
        ("walltime_minutes=", "does not take"),
        ("account=x; id", "does not take"),
        ("account=$(id)", "does not take"),
        ("acount=atl101", "has no option"),
        ("worker_init=id", "has no option"),
        ("account", "not NAME=VALUE"),
        ("=3", "not NAME=VALUE"),
    ],
)
def test_options_that_the_site_does_not_take(
    setting: str, cause: str, document: dict[str, Any], tmp_path: Path
) -> None:
    card = read_card(_write(tmp_path / "card.json", document))
    with pytest.raises(RequestError, match=cause):
        check_options(card, parse_options([setting]))


def test_an_endpoint_says_what_its_tasks_cost(document: dict[str, Any], tmp_path: Path) -> None:
    card = read_card(_write(tmp_path / "card.json", document))
    add_profile("there", card)
    costs = open_backend("there").limits.costs
    assert (costs.dispatch, costs.request) == (CLOUD.dispatch, CLOUD.request)
    assert costs.queue == CLOUD.queue > 0
    assert costs.request_bytes == card.limits.payload_bytes
    assert costs.workers_per_block == card.worker.per_node
    add_profile("here", msgspec.structs.replace(card, scheduler="local"))
    assert open_backend("here").limits.costs.queue == 0


def test_built_in_endpoints_have_no_options() -> None:
    with pytest.raises(RequestError, match="no options"):
        open_backend("local", options={"account": "x"})


def test_the_command_line(document: dict[str, Any], tmp_path: Path) -> None:
    card = _write(tmp_path / "card.json", document)
    runner = CliRunner()
    added = runner.invoke(cli, ["endpoints", "add", "expanse", "--card", card])
    assert added.exit_code == 0
    assert "fitserve endpoints check expanse" in added.output
    listed = runner.invoke(cli, ["endpoints", "list", "--json"])
    assert json.loads(listed.stdout)[0]["card"]["endpoint_id"] == ENDPOINT
    shown = runner.invoke(cli, ["endpoints", "list"])
    assert "walltime_minutes" in shown.output
    wrong = runner.invoke(cli, ["run", "example", "-e", "expanse", "--set", "moon=1"])
    assert wrong.exit_code == 4
    assert runner.invoke(cli, ["endpoints", "remove", "expanse"]).exit_code == 0
    assert "there are none" in runner.invoke(cli, ["endpoints", "list"]).output


def test_an_endpoint_that_is_named_twice_is_one() -> None:
    assert open_backend("inline, inline,").name == "inline"


@pytest.mark.parametrize(("host", "asked"), [("login.site.org", True), ("-oProxyCommand=x", False)])
def test_no_host_of_a_card_is_an_option_of_ssh(
    monkeypatch: pytest.MonkeyPatch, host: str, *, asked: bool
) -> None:
    commands: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...], **_: object) -> CompletedProcess[str]:
        commands.append(command)
        return CompletedProcess(command, 0, "Priority\n", "")

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("subprocess.run", run)
    card = SiteCard(
        card_version=1, name="Site", endpoint_id=ENDPOINT, scheduler="slurm", login_host=host
    )
    reason = ": Priority" if asked else ""
    assert waiting_reason(card) == f"waiting in the queue of Site (slurm){reason}"
    assert len(commands) == asked


def test_a_child_endpoint_that_misses_three_heartbeats_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, given_up = 1000.0, []
    monkeypatch.setattr("time.monotonic", lambda: now)
    ledger = SimpleNamespace(give_up=lambda child, _: given_up.append(child))
    profile = SimpleNamespace(card=SimpleNamespace(name="Site"))
    presence = Presence(profile, SimpleNamespace(ledger=ledger))
    for later in (0.0, 30.0):
        now = 1000.0 + later
        presence._missed("child", {"heartbeat_period": 10})
    assert given_up == []
    now += 1.0
    presence._missed("child", {"heartbeat_period": 10})
    assert given_up == ["child"]
