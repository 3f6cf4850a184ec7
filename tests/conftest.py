"""Fixtures of all areas: small workspaces with known answers, and the published data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fitserve.contract import HypotestRequest, Hypothesis, Task, digest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests out of the user's caches and list of runs."""
    home = tmp_path_factory.mktemp("home")
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))


@pytest.fixture(autouse=True)
def _doctest_directory(doctest_namespace: dict[str, object], tmp_path: Path) -> None:
    doctest_namespace["tmp_path"] = tmp_path


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the directory of published pallets and reference results."""
    directory = Path(os.environ.get("FITSERVE_SHARED", ROOT.parent / "shared"))
    if not (directory / "pallets").is_dir():
        message = f"the published pallets are not in {directory}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return directory


@pytest.fixture(scope="session")
def references(shared: Path) -> dict[str, dict]:
    """Return the reference results of the published analyses, by analysis and hypothesis."""
    return {
        path.stem: json.loads(path.read_text())["hypotheses"]
        for path in sorted((shared / "references").glob("*.json"))
    }


@pytest.fixture
def workspace() -> dict:
    """Return a counting experiment in two bins with a background uncertainty."""
    return {
        "channels": [
            {
                "name": "SR",
                "samples": [
                    {
                        "name": "background",
                        "data": [50.0, 52.0],
                        "modifiers": [
                            {"name": "uncorr_bkg", "type": "shapesys", "data": [3.0, 7.0]},
                            {
                                "name": "norm",
                                "type": "normsys",
                                "data": {"hi": 1.05, "lo": 0.95},
                            },
                        ],
                    }
                ],
            }
        ],
        "observations": [{"name": "SR", "data": [51.0, 48.0]}],
        "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


def signal(name: str, values: tuple[float, ...], data: list[float]) -> Hypothesis:
    """Return a hypothesis that adds a signal sample to the channel of `workspace`."""
    return Hypothesis(
        name=name,
        values=values,
        patch=[
            {
                "op": "add",
                "path": "/channels/0/samples/1",
                "value": {
                    "name": "signal",
                    "data": data,
                    "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                },
            }
        ],
    )


@pytest.fixture
def hypotheses() -> list[Hypothesis]:
    """Return signals from far too weak to far too strong to be seen."""
    return [
        signal(f"S_{mass}", (float(mass), 1.0), [12.0 * scale, 11.0 * scale])
        for mass, scale in ((100, 3.0), (200, 1.5), (300, 1.0), (400, 0.3), (500, 0.01))
    ]


@pytest.fixture
def task(workspace: dict, hypotheses: list[Hypothesis]) -> Task:
    """Return a task with all hypotheses on the workspace."""
    return Task(
        workspace_digest=digest(workspace),
        workspace=workspace,
        hypotheses=hypotheses,
        request=HypotestRequest(),
    )


@pytest.fixture
def pallet_directory(tmp_path: Path, workspace: dict, hypotheses: list[Hypothesis]) -> Path:
    """Return a pallet on disk: the workspace and a patchset with its digest."""
    import pyhf

    directory = tmp_path / "toy"
    directory.mkdir()
    patchset = {
        "metadata": {
            "references": {"hepdata": "ins1234567"},
            "description": "toy signals",
            "digests": {"sha256": pyhf.utils.digest(workspace, algorithm="sha256")},
            "labels": ["m1", "m2"],
        },
        "patches": [
            {"metadata": {"name": one.name, "values": list(one.values)}, "patch": one.patch}
            for one in hypotheses
        ],
        "version": "1.0.0",
    }
    (directory / "BkgOnly.json").write_text(json.dumps(workspace))
    (directory / "patchset.json").write_text(json.dumps(patchset))
    return directory
