"""ROOT reads what is written, and has the same likelihood (`make test-root`)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest

from fitserve.pallet.hs3_write import write_hs3
from fitserve.pallet.load import complete_workspace, load_pallet

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.root

HERE = Path(__file__).parent
PYTHON = Path(
    os.environ.get("FITSERVE_ROOT_VENV", HERE.parents[1] / ".cache" / "root-venv"), "bin", "python"
)


@pytest.fixture(scope="module", autouse=True)
def _root() -> None:
    if not PYTHON.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("there is no .cache/root-venv: make root-venv")
        pytest.skip("there is no .cache/root-venv: make root-venv")


def _of_root(content: dict[str, Any], points: list[dict[str, float]], folder: Path) -> np.ndarray:
    """Return ROOT's negative logarithms of the likelihood at points."""
    for name, one in (("model", content), ("points", points)):
        (folder / f"{name}.json").write_text(json.dumps(one))
    command = [PYTHON, HERE / "make_histfactory.py", "evaluate", "model.json", "points.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.array(json.loads(done.stdout))


def _free(content: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Return value and bounds of the free parameters of an HS3 file, by ROOT's names."""
    values = {one["name"]: one for one in content["parameter_points"][0]["parameters"]}
    [domain] = [one for one in content["domains"] if one["name"] == "default_domain"]
    return {
        one["name"]: (values[one["name"]]["value"], one["min"], one["max"])
        for one in domain["axes"]
    }


def _points(content: dict[str, Any], number: int = 8) -> list[dict[str, float]]:
    generator = np.random.default_rng(11)
    points = []
    for _ in range(number):
        point = {}
        for name, (value, low, high) in _free(content).items():
            width = {"Lumi": 0.03}.get(name, 1.5 if name.startswith("alpha_") else 0.15)
            at = value + generator.uniform(-width, width)
            point[name] = float(min(max(at, low), high))
        points.append(point)
    return points


def _of_pyhf(workspace: dict[str, Any], points: list[Mapping[str, float]]) -> np.ndarray:
    whole = pyhf.Workspace(workspace)
    model = whole.model()
    values = []
    for point in points:
        parameters = np.array(model.config.suggested_init())
        for name, value in point.items():
            gamma = re.fullmatch(r"gamma_(.+)_bin_(\d+)", name)
            label = gamma[1] if gamma else name.removeprefix("alpha_")
            # A channel's statistical uncertainty has one name in ROOT.
            label = {"Lumi": "lumi"}.get(label, label)
            if label not in model.config.par_map:
                channel = label.removeprefix("stat_")
                known = (f"staterror_{channel}", f"simulation_{channel}")
                [label] = [one for one in known if one in model.config.par_map]
            start = model.config.par_slice(label).start
            parameters[start + (int(gamma[2]) if gamma else 0)] = value
        values.append(-model.logpdf(parameters, whole.data(model))[0])
    return np.array(values)


def _compare(workspace: dict[str, Any], folder: Path) -> None:
    content = write_hs3(workspace, "model")
    points = _points(content)
    theirs, ours = _of_root(content, points, folder), _of_pyhf(workspace, points)
    assert np.ptp(theirs) > 1
    # Yields far below zero, where ROOT cuts and pyhf has no likelihood, are not drawn.
    assert np.diff(ours) == pytest.approx(np.diff(theirs), rel=1e-8, abs=1e-8)


def test_root_has_the_likelihood_that_was_written(tmp_path: Path) -> None:
    pallet = load_pallet(HERE / "histfactory" / "hs3.json")
    _compare(complete_workspace(pallet), tmp_path)


@pytest.mark.parametrize("number", [0, 17, 59])
def test_root_has_the_likelihood_of_a_signal_of_the_example(tmp_path: Path, number: int) -> None:
    pallet = load_pallet("example")
    _compare(complete_workspace(pallet, pallet.hypotheses[number].name), tmp_path)


def test_what_the_fast_tests_compare_with_is_what_root_makes(tmp_path: Path) -> None:
    copy = tmp_path / "make_histfactory.py"
    copy.write_text((HERE / copy.name).read_text())
    subprocess.run([PYTHON, copy], check=True, capture_output=True)
    for name in ("hs3.json", "histograms.json", "config/main.xml", "config/main_SR.xml"):
        kept = HERE / "histfactory" / name
        assert (tmp_path / "histfactory" / name).read_text() == kept.read_text()
    kept, made = (
        json.loads((folder / "histfactory" / "root.json").read_text())
        for folder in (HERE, tmp_path)
    )
    assert made["nll"] == pytest.approx(kept["nll"], rel=1e-12)
    assert made["CLs_obs"] == pytest.approx(kept["CLs_obs"], rel=1e-6)
