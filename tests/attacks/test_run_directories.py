"""A run directory that somebody else made runs nothing of theirs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from fitserve import api
from fitserve.cli import cli
from fitserve.endpoints.base import Limits
from fitserve.endpoints.cards import SiteCard, add_profile
from fitserve.errors import BackendError, RequestError
from fitserve.pallet.load import load_pallet
from fitserve.runs.prepare import prepare, recorded_endpoint
from fitserve.runs.store import RunStore, known_runs, register
from fitserve_contract import HypotestRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENGINE = {
    "engine_version": 1,
    "site": "evil",
    "rendered": "",
    "run_dir": "run",
    "engine": {
        "type": "GlobusComputeEngine",
        "address": "127.0.0.1",
        "max_workers_per_node": 1,
        "job_status_kwargs": {"strategy": "none", "strategy_period": 1, "max_idletime": 1},
        "max_retries_on_system_failure": 0,
        "provider": {
            "type": "LocalProvider",
            "max_blocks": 1,
            "init_blocks": 1,
            "worker_init": "touch {mark}",
        },
    },
}


@pytest.fixture
def begun(tmp_path: Path, pallet_directory: Path) -> Callable[..., Path]:
    """Return a function that makes a run directory in which nothing is finished."""

    def make(endpoint: str, **options: str) -> Path:
        pallet = load_pallet(pallet_directory)
        manifest, inputs = prepare(
            pallet, HypotestRequest(), (), endpoint, options, limits=Limits(10**6, 10, 1)
        )
        RunStore.create(tmp_path / "run", manifest, inputs).close()
        return tmp_path / "run"

    return make


@pytest.mark.parametrize("name", ["parsl:{run}", "parsl:{run}/engine.json", "local,parsl:./run"])
def test_an_endpoint_in_the_run_directory_is_not_gone_on_with(
    begun: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "was here"
    run = begun(name.format(run=tmp_path / "run"))
    engine = json.dumps(ENGINE).replace("{mark}", f"'{mark}'")
    (run / "engine.json").write_text(engine)
    with pytest.raises(BackendError, match="names its endpoint by a path") as caught:
        api.resume(run, progress=False)
    assert "--endpoint" in caught.value.hint
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["../x", "parsl:..", "a/b", "parsl:engine.json", "parsl:~/x", "-x"]
)
def test_only_names_are_taken_from_a_run_directory(begun: Callable[..., Path], name: str) -> None:
    with pytest.raises(BackendError, match="by a path"):
        api.resume(begun(name), progress=False)


def test_a_path_that_the_user_gives_is_taken(begun: Callable[..., Path]) -> None:
    run = begun("parsl:/elsewhere/engine.json")
    assert api.resume(run, endpoint="inline", progress=False).unfinished == []


def test_options_that_nobody_checks_are_taken_from_own_runs_only(
    begun: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_profile("bare", SiteCard(card_version=1, name="bare", endpoint_id="0" * 8))
    add_profile("carded", SiteCard(card_version=1, name="carded", endpoint_id="1" * 8, options={}))
    run = begun("bare", worker_init="touch /tmp/x")
    taken = []
    monkeypatch.setattr(api, "open_backend", lambda *given: taken.append(given) or _stop())
    with pytest.raises(RequestError, match="options of the endpoint that no site card") as caught:
        api.resume(run, progress=False)
    assert "worker_init=touch" in caught.value.evidence
    register(run)
    with pytest.raises(KeyboardInterrupt):
        api.resume(run, progress=False)
    assert taken == [("bare", None, {"worker_init": "touch /tmp/x"})]
    monkeypatch.setattr("fitserve.runs.prepare.known_runs", list)
    with pytest.raises(KeyboardInterrupt):
        api.resume(run, options={"account": "a"}, progress=False)
    assert taken[1] == ("bare", None, {"account": "a"})
    assert recorded_endpoint(run, "carded", {"account": "a"}) == "carded"
    # It takes no options, which opening it says.
    assert recorded_endpoint(run, "inline", {"account": "a"}) == "inline"


def _stop() -> None:
    raise KeyboardInterrupt


def test_show_and_resume_say_where_and_whose_a_run_is(
    begun: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun("inline")
    register(run)
    own = CliRunner().invoke(cli, ["show", str(run)])
    assert "endpoint:    inline" in own.stdout
    assert "belongs to" not in own.stderr
    assert known_runs() == [run]
    monkeypatch.setattr(os, "getuid", lambda: run.stat().st_uid + 4321)
    for command in ("show", "resume"):
        other = CliRunner().invoke(cli, [command, str(run)])
        assert "belongs to" in other.stderr
        assert "not to you" in other.stderr
    assert known_runs() == []
