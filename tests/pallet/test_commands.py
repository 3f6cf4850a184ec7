"""`fitserve pallets` and `fitserve analyses` as a user types them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fitserve.cli import cli
from fitserve.pallet.source import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, arguments)


def test_check_says_what_is_in_a_pallet(pallet_directory: Path) -> None:
    result = _run("pallets", "check", str(pallet_directory))
    assert result.exit_code == 0
    assert result.stderr == ""
    for line in (
        "pallet:        toy",
        "reference:     hepdata ins1234567",
        "hypotheses:    5: S_100 ... S_500",
        "mass values:   m1, m2",
        "measurement:   main, parameter of interest mu",
        "channels:      1 with 2 bins: SR (2)",
    ):
        assert line in result.stdout
    assert result.stdout.rstrip().endswith(", verified")
    assert "S_300" not in result.stdout
    listed = _run("pallets", "check", str(pallet_directory), "--hypotheses")
    assert "S_300" in listed.stdout


def test_check_as_json(pallet_directory: Path) -> None:
    result = _run("pallets", "check", str(pallet_directory), "--json")
    found = json.loads(result.stdout)
    assert found["digest_verified"] is True
    assert found["hypotheses"]["S_300"] == [300.0, 1.0]
    assert found["measurements"] == {"main": "mu"}
    assert found["normfactors"] == ["mu"]
    assert found["bins"] == {"SR": 2}
    assert result.stderr == ""


def test_check_warns_of_what_was_forced(
    write: Callable[..., Path], workspace: dict, patchset: dict
) -> None:
    patchset["metadata"]["digests"] = {"sha256": "0" * 64}
    workspace["measurements"][0]["config"]["poi"] = "mu_SIG"
    directory = str(write({"BkgOnly.json": workspace, "patchset.json": patchset}))
    refused = _run("pallets", "check", directory)
    assert refused.exit_code == 3
    assert "go on with --force" in refused.stderr
    assert "Traceback" not in refused.output
    forced = _run("pallets", "check", directory, "--force")
    # What a run would be refused for is told, and how to go on.
    assert forced.exit_code == 4
    assert "next: fitserve run PALLET --poi mu\n" in forced.stderr
    assert "ignored by --force: the patchset was made for another" in forced.stderr
    assert "does NOT fit the workspace" in forced.stdout
    assert "mu_SIG (the model has no parameter of interest 'mu_SIG')" in forced.stdout


def test_check_of_several_regions(write: Callable[..., Path], sound: dict[str, bytes]) -> None:
    directory = str(
        write({f"{region}/{name}": raw for region in "AB" for name, raw in sound.items()})
    )
    ambiguous = _run("pallets", "check", directory)
    assert ambiguous.exit_code == 4
    assert "seen: A, B" in ambiguous.stderr
    assert "region B" in _run("pallets", "check", directory, "--region", "B").stdout


@pytest.mark.parametrize("name", ["example", "1Lbb", "3L-RJ", "staus", "SS3L"])
def test_list_and_show(name: str) -> None:
    assert name in _run("analyses", "list").stdout
    shown = _run("analyses", "show", name)
    assert shown.exit_code == 0
    assert f"name:          {name}" in shown.stdout
    own_digest_only = "verified by the digest in its own patchset only" in shown.output
    assert own_digest_only is (name in ("3L-RJ", "SS3L"))
    data = json.loads(_run("analyses", "show", name, "--json").stdout)
    assert data["name"] == name
    assert data["fetched"] is (name == "example")


def test_an_unknown_analysis_is_a_wrong_request() -> None:
    result = _run("analyses", "show", "2Lbb")
    assert result.exit_code == 4
    assert "error: the catalogue has no analysis '2Lbb'" in result.stderr


def test_the_catalogue_says_what_is_not_known() -> None:
    entries = {one.name: one for one in catalogue()}
    assert len(entries) == len(catalogue()) == 27
    assert len({one.inspire for one in entries.values()}) == 27
    for one in entries.values():
        if one.record is not None:
            assert one.archive.digest is None
            assert "Not opened here" in (one.note or "")
            assert re.fullmatch(r"10\.17182/hepdata\.\d+", one.record)
        assert one.bundled == (one.name == "example")
    shown = _run("analyses", "show", "ins1869695").output
    assert "find the archive at https://doi.org/10.17182/hepdata.105039" in shown
    assert "None" not in shown
    assert "record" in _run("analyses", "list").output


def test_a_record_without_an_archive_is_an_error_that_names_it() -> None:
    for command in (["analyses", "fetch", "ins1869695"], ["pallets", "check", "ins1869695"]):
        result = _run(*command)
        assert result.exit_code == 3
        assert "https://doi.org/10.17182/hepdata.105039" in result.output
