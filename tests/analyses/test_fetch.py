"""Fetching an analysis keeps what it should be, and nothing else."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import msgspec
import pyhf
import pytest
from click.testing import CliRunner

from fitserve.cli import cli
from fitserve.errors import InputError
from fitserve.pallet.load import fetch, is_fetched, load_pallet
from fitserve.pallet.source import Analysis, Archive, catalogue, find_analysis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ADDRESS = "https://www.hepdata.net/record/resource/1?view=true"


@pytest.fixture
def archive(pallet_directory: Path) -> bytes:
    """Return an archive with two regions."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for region in ("Region-A", "Region-B"):
            tar.add(pallet_directory, region)
    return stream.getvalue()


@pytest.fixture
def served(
    monkeypatch: pytest.MonkeyPatch, archive: bytes
) -> Callable[[bytes | Exception], list[str]]:
    """Return a function that sets what the server sends; it returns the list of requests."""
    sent: list[bytes | Exception] = [archive]
    asked: list[str] = []

    def receive(url: str, part: Any) -> None:
        asked.append(url)
        if isinstance(sent[-1], Exception):
            raise sent[-1]
        part.write(sent[-1])

    def serve(content: bytes | Exception) -> list[str]:
        sent.append(content)
        return asked

    monkeypatch.setattr("fitserve.pallet.download._receive", receive)
    return serve


@pytest.fixture
def analysis(workspace: dict, monkeypatch: pytest.MonkeyPatch) -> Analysis:
    """Return an analysis that the catalogue has for the time of a test."""
    entry = Analysis(
        name="toy",
        title="Toy search",
        process="$pp$",
        axes=["$m_1$ [GeV]", "$m_2$ [GeV]"],
        luminosity=1,
        energy=13,
        archive=Archive(
            url=ADDRESS, region="Region-A", digest=pyhf.utils.digest(workspace), hypotheses=5
        ),
    )
    known = (*catalogue(), entry)
    monkeypatch.setattr("fitserve.pallet.source.catalogue", lambda: known)
    monkeypatch.setattr("fitserve.pallet.source.catalogue", lambda: known)
    return entry


def test_an_analysis_is_fetched_once(
    analysis: Analysis, archive: bytes, served: Any, tmp_path: Path
) -> None:
    asked = served(archive)
    with pytest.raises(InputError, match="has not been downloaded yet") as caught:
        load_pallet("toy", cache_dir=tmp_path)
    assert caught.value.hint == "fitserve analyses fetch toy"
    assert not is_fetched(analysis, tmp_path)
    for _ in range(2):
        pallet = fetch(analysis, cache_dir=tmp_path)
        assert (pallet.name, pallet.region, pallet.analysis) == ("toy", "Region-A", "toy")
        assert pallet.axes == ("$m_1$ [GeV]", "$m_2$ [GeV]")
        assert pallet.title == "Toy search"
    assert is_fetched(analysis, tmp_path)
    assert asked == [ADDRESS]
    fetch(analysis, cache_dir=tmp_path, refresh=True)
    assert asked == [ADDRESS] * 2
    assert load_pallet("toy", cache_dir=tmp_path).source == "toy"
    assert load_pallet("toy", region="Region-B", cache_dir=tmp_path).region == "Region-B"


def test_a_file_of_a_known_workspace_is_recognised(
    analysis: Analysis, pallet_directory: Path
) -> None:
    pallet = load_pallet(pallet_directory)
    assert (pallet.name, pallet.analysis) == (analysis.name, analysis.name)
    assert pallet.source == str(pallet_directory)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"digest": "0" * 64}, "not the workspace that the catalogue knows as toy"),
        ({"hypotheses": 6}, "not the patchset that the catalogue knows as toy"),
    ],
)
def test_what_is_not_as_in_the_catalogue_is_not_kept(
    analysis: Analysis, served: Any, tmp_path: Path, change: dict[str, Any], told: str, archive: Any
) -> None:
    asked = served(archive)
    other = msgspec.structs.replace(
        analysis, archive=msgspec.structs.replace(analysis.archive, **change)
    )
    with pytest.raises(InputError, match=told):
        fetch(other, cache_dir=tmp_path)
    assert not is_fetched(other, tmp_path)
    pallet = fetch(other, cache_dir=tmp_path, force=True)
    assert len(pallet.forced) == 1
    assert is_fetched(other, tmp_path)
    assert len(asked) == 2


def test_an_analysis_without_a_known_digest_is_verified_by_its_patchset(
    analysis: Analysis, served: Any, tmp_path: Path, archive: bytes
) -> None:
    served(archive)
    archived = msgspec.structs.replace(analysis.archive, digest=None)
    pallet = fetch(msgspec.structs.replace(analysis, archive=archived), cache_dir=tmp_path)
    assert pallet.digest_verified
    assert pallet.analysis == "toy"


def test_a_damaged_copy_is_fetched_again(
    analysis: Analysis, served: Any, tmp_path: Path, archive: bytes
) -> None:
    asked = served(archive)
    fetch(analysis, cache_dir=tmp_path)
    (copy,) = [path for path in tmp_path.rglob("*") if len(path.name) == 64]
    copy.write_bytes(b"")
    assert not is_fetched(analysis, tmp_path)
    with pytest.raises(InputError, match="damaged"):
        load_pallet("toy", cache_dir=tmp_path)
    fetch(analysis, cache_dir=tmp_path)
    assert len(asked) == 2
    assert is_fetched(analysis, tmp_path)


def test_a_failed_refresh_leaves_the_copy(
    analysis: Analysis, served: Any, tmp_path: Path, archive: bytes
) -> None:
    served(archive)
    fetch(analysis, cache_dir=tmp_path)
    served(InputError("interrupted"))
    with pytest.raises(InputError, match="interrupted"):
        fetch(analysis, cache_dir=tmp_path, refresh=True)
    assert fetch(analysis, cache_dir=tmp_path).digest_verified


def test_the_example_needs_no_network(served: Any, tmp_path: Path) -> None:
    served(InputError("no network"))
    assert is_fetched(find_analysis("example"), tmp_path)
    assert fetch(find_analysis("example"), cache_dir=tmp_path, refresh=True).name == "example"


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, arguments)


def test_fetch_on_the_command_line(
    analysis: Analysis,
    served: Any,
    archive: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FITSERVE_CACHE", str(tmp_path))
    served(archive)
    shown = _run("analyses", "show", "toy")
    assert "no: fitserve analyses fetch toy" in shown.output
    fetched = _run("analyses", "fetch", "toy")
    assert fetched.exit_code == 0
    assert "hypotheses:    5: S_100 ... S_500" in fetched.output
    assert json.loads(_run("analyses", "fetch", "toy", "--json").stdout)["analysis"] == "toy"
    listed = json.loads(_run("analyses", "list", "--json").stdout)
    assert {each["name"]: each["fetched"] for each in listed}["toy"] is True
    served(InputError("interrupted", evidence="here", hint="again"))
    failed = _run("analyses", "fetch", "toy", "--refresh")
    assert failed.exit_code == 3
    assert "error: interrupted" in failed.stderr
    assert analysis.name == "toy"
