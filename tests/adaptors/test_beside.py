"""Adaptors against the packages themselves, in their own environment."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(
    os.environ.get("FITSERVE_REINTERPRETATION_VENV", ROOT / ".cache" / "reinterpretation-venv")
)


def _plugins() -> dict[str, str]:
    declared = tomllib.loads((ROOT / "worker" / "pyproject.toml").read_text())
    return declared["project"]["entry-points"]["spey.backend.plugins"]


def _answers(name: str, workspace: dict, tmp_path: Path) -> list:
    if not VENV.is_dir() and os.environ.get("CI") != "true":
        pytest.skip("make reinterpretation-venv has not run")
    # The worker is not installed there: what an installation would say of its entry points.
    told = tmp_path / "fitserve_worker-0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: fitserve-worker\nVersion: 0\n")
    lines = [f"{name} = {place}\n" for name, place in _plugins().items()]
    (told / "entry_points.txt").write_text("[spey.backend.plugins]\n" + "".join(lines))
    sources = [str(tmp_path), *(str(ROOT / part / "src") for part in ("contract", "worker"))]
    done = subprocess.run(
        [VENV / "bin" / "python", Path(__file__).parent / "beside.py", name],
        input=json.dumps(workspace),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sources), "SPEY_CHECKUPDATE": "OFF"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smodels", "spey"])
def test_answers_are_theirs_and_come_sooner(name: str, workspace: dict, tmp_path: Path) -> None:
    answers = _answers(name, workspace, tmp_path)
    assert len(answers) >= 3
    for theirs, ours in answers:
        assert None not in ours["limits"]
        # Their minima end up to 1e-6 above ours, and their searches stop at 1e-3 of a limit.
        for other, one in zip(theirs["nll"], ours["nll"], strict=True):
            assert -1e-6 < other - one < 1e-4
        assert ours["best"][1] == pytest.approx(theirs["best"][1], abs=1e-4)
        if None in theirs["limits"]:
            continue
        assert ours["limits"] == pytest.approx(theirs["limits"], rel=1e-3)
        assert ours["cls"] == pytest.approx(theirs["cls"], abs=1e-3)
        assert ours["asimov"] == pytest.approx(theirs["asimov"], abs=1e-4)
        assert ours["best"][0] == pytest.approx(theirs["best"][0], abs=5e-3)
    if name == "smodels":
        ratios = sorted(theirs["seconds"] / ours["seconds"] for theirs, ours in answers)
        assert ratios[len(ratios) // 2] > 5


def test_spey_is_told_of_a_class_that_is_there() -> None:
    module, name = _plugins()["fitserve.full"].split(":")
    parent, _, last = module.rpartition(".")
    package = importlib.util.find_spec(parent)
    assert package is not None
    source = Path(package.submodule_search_locations[0]) / f"{last}.py"
    assert f"class {name}(BackendBase)" in source.read_text()
