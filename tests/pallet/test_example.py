"""The example pallet: made by a script, of every modifier type, and a joy to fit."""

from __future__ import annotations

import importlib.util
import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonpatch
import numpy as np
import pyhf
import pytest

from fitserve.pallet.load import load_pallet

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
FOLDER = files("fitserve") / "data" / "example"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_example_pallet", ROOT / "tools" / "make_example_pallet.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def workspace() -> dict[str, Any]:
    return json.loads((FOLDER / "BkgOnly.json").read_text())


@pytest.fixture(scope="module")
def patchset() -> pyhf.PatchSet:
    return pyhf.PatchSet(json.loads((FOLDER / "patchset.json").read_text()))


@pytest.fixture
def _numpy_backend() -> Any:
    before = pyhf.get_backend()
    yield
    pyhf.set_backend(*before)


def test_the_script_writes_what_is_bundled(maker: ModuleType, tmp_path: Path) -> None:
    maker.main(tmp_path)
    for name in ("BkgOnly.json", "patchset.json"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_it_is_small_and_valid(workspace: dict, patchset: pyhf.PatchSet) -> None:
    assert sum(len(path.read_bytes()) for path in FOLDER.iterdir()) < 1_000_000
    pyhf.schema.validate(workspace, "workspace.json")
    patchset.verify(workspace)
    pallet = load_pallet("example")
    assert (pallet.analysis, pallet.digest_verified) == ("example", True)
    assert (pallet.notes, pallet.forced, pallet.references) == ((), (), {})
    assert pallet.axes == ("$m(X)$ [GeV]", r"$m(\chi)$ [GeV]")


def test_it_has_every_modifier_type(workspace: dict) -> None:
    found = {
        modifier["type"]
        for channel in workspace["channels"]
        for sample in channel["samples"]
        for modifier in sample["modifiers"]
    }
    assert found == set(pyhf.modifiers.histfactory_set)


def test_its_grid_is_a_plane_below_the_diagonal(patchset: pyhf.PatchSet) -> None:
    values = np.array([patch.values for patch in patchset])
    assert len(values) == 60
    assert np.all(values[:, 1] < values[:, 0])
    assert np.linalg.matrix_rank(values - values[0]) == 2


def test_its_observations_are_near_the_background(workspace: dict) -> None:
    for channel, observed in zip(workspace["channels"], workspace["observations"], strict=True):
        expected = np.sum([sample["data"] for sample in channel["samples"]], axis=0)
        assert np.all(np.abs(np.array(observed["data"]) - expected) < 2 * np.sqrt(expected))


def _cls(workspace: dict, patch: Any, optimizer: Any) -> list[float]:
    pyhf.set_backend("numpy", optimizer)
    patched = pyhf.Workspace(jsonpatch.apply_patch(workspace, patch.patch))
    model = patched.model(
        modifier_settings={
            "normsys": {"interpcode": "code4"},
            "histosys": {"interpcode": "code4p"},
        }
    )
    observed, expected = pyhf.infer.hypotest(
        1.0, patched.data(model), model, test_stat="qtilde", return_expected_set=True
    )
    return [float(observed), *map(float, expected)]


@pytest.mark.usefixtures("_numpy_backend")
@pytest.mark.parametrize(
    ("name", "observed", "expected"),
    [
        # Well inside, at the edge, and outside the contour; boosted and compressed.
        ("X_200_0", True, True),
        ("X_600_200", True, True),
        ("X_400_350", False, False),
        ("X_800_0", True, True),
        ("X_900_0", False, False),
        ("X_1000_900", False, False),
    ],
)
def test_pyhf_fits_it_with_either_optimizer(
    workspace: dict, patchset: pyhf.PatchSet, name: str, *, observed: bool, expected: bool
) -> None:
    """Warnings are errors here, so that no fit complains."""
    scipy = _cls(workspace, patchset[name], pyhf.optimize.scipy_optimizer())
    # Minuit stops early at its own default of 0.1.
    minuit = _cls(workspace, patchset[name], pyhf.optimize.minuit_optimizer(tolerance=1e-3))
    assert scipy == pytest.approx(minuit, abs=1e-4)
    assert scipy[1:] == sorted(scipy[1:])
    assert (scipy[0] < 0.05) is observed
    assert (scipy[3] < 0.05) is expected


@pytest.mark.slow
@pytest.mark.usefixtures("_numpy_backend")
def test_every_hypothesis_fits_and_the_contour_closes(
    workspace: dict, patchset: pyhf.PatchSet
) -> None:
    found = {}
    for patch in patchset:
        scipy = _cls(workspace, patch, pyhf.optimize.scipy_optimizer())
        minuit = _cls(workspace, patch, pyhf.optimize.minuit_optimizer(tolerance=1e-3))
        assert scipy == pytest.approx(minuit, abs=1e-4), patch.name
        found[patch.values] = scipy
    cls = np.array(list(found.values()))
    assert np.all(np.isfinite(cls))
    masses = np.array(list(found))
    edge = (masses[:, 0] == 1000) | ((masses[:, 0] >= 400) & (masses[:, 0] - masses[:, 1] <= 50))
    for column in (0, 2, 3, 4):
        # Excluded at low mass, not at high mass nor towards the diagonal.
        excluded = cls[:, column] < 0.05
        assert 15 < excluded.sum() < 40
        assert not excluded[edge].any()
    # The band of one standard deviation is wider than the grid at m(chi) = 0.
    line = masses[:, 1] == 0
    assert (cls[line, 2] < 0.05).sum() > (cls[line, 4] < 0.05).sum()
