"""1Lbb and staus as one likelihood, held against `pyhf.Workspace.combine` by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import jsonpatch
import numpy as np
import pyhf
import pytest
from scipy.stats import norm

from fitserve.pallet.load import Pallet, load_pallet
from fitserve_contract import ModelOptions
from fitserve_worker.kernel.batch import compile_hypotheses
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.published, pytest.mark.timeout(3600)]

# Of the parameters with equal names all but these are of each search alone; of the jet energy
# scale those are shared that both have, under the names of staus.
JES = (
    *("Flavor_Response", "Comb_Baseline_Kin", "Comb_Modelling_Kin", "Comb_TotalStat_Kin"),
    "Comb_Tracking_Kin",
)
APART = (
    *("EG_RESOLUTION_ALL", "EG_SCALE_AF2", "EG_SCALE_ALL", "MET_SoftTrk_ResoPara"),
    *("MET_SoftTrk_ResoPerp", "MUON_ID", "MUON_MS", "MUON_SAGITTA_RESBIAS", "MUON_SAGITTA_RHO"),
    *("MUON_SCALE", "mu_W"),
)
# A neutralino of 1 GeV in one search, and without a mass in the other.
PAIRS = {
    (300, 0): ("C1N2_Wh_hbb_300_0", "DS_300_1_Staus"),
    (400, 0): ("C1N2_Wh_hbb_400_0", "DS_400_1_Staus"),
}
# Near the limits of both, where CLs is neither 0 nor 1.
MU = 0.25
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def combination(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the combination."""
    folder = tmp_path_factory.mktemp("combination")
    staus = load_pallet(shared / "pallets" / "staus.tar.xz")
    rows = [
        f"{one.name},{one.values[0]},{0 if one.values[1] == 1 else one.values[1]}"
        for one in staus.hypotheses
    ]
    (folder / "masses.csv").write_text("\n".join(["name,m1,m2", *rows]))
    content: dict[str, Any] = {
        "parts": {
            "onelep": {"pallet": str(shared / "pallets" / "1Lbb.tar.xz")},
            "staus": {
                "pallet": str(shared / "pallets" / "staus.tar.xz"),
                "masses": "masses.csv",
            },
        },
        "measurement": {
            "poi": "mu_SIG",
            "parameters": {"lumi": {"fixed": False}, "mu_SIG": {"bounds": [[0.0, 5.0]]}},
        },
        "parameters": {
            "shared": [
                "lumi",
                *({f"JET_{one}": {"onelep": f"JES_{one}", "staus": f"JET_{one}"}} for one in JES),
            ],
            "apart": list(APART),
        },
        "hypotheses": {"match": "masses"},
    }
    path = folder / "both.yaml"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def parts(shared: Path) -> dict[str, Pallet]:
    """Return both searches."""
    return {
        name: load_pallet(shared / "pallets" / f"{archive}.tar.xz")
        for name, archive in (("onelep", "1Lbb"), ("staus", "staus"))
    }


def _by_hand(parts: dict[str, Pallet], names: tuple[str, str] | None) -> pyhf.Workspace:
    spaces = []
    for at, (part, pallet) in enumerate(parts.items()):
        patches = {one.name: one.patch for one in pallet.hypotheses}
        patch = patches[names[at]] if names else []
        content = jsonpatch.apply_patch(pallet.workspace, patch)
        renamed = {one: f"{part}_{one}" for one in APART}
        for parameter in content["measurements"][0]["config"]["parameters"]:
            if parameter["name"] == "lumi":
                # pyhf refuses that it is fixed in one of them.
                parameter |= {"fixed": False, "auxdata": [1.0], "inits": [1.0]}
        if part == "onelep":
            renamed |= {f"JES_{one}": f"JET_{one}" for one in JES}
        measurements = {"BasicMeasurement": "combination"}
        space = pyhf.Workspace(content)
        spaces.append(space.rename(modifiers=renamed, measurements=measurements))
    return pyhf.Workspace.combine(*spaces, join="outer")


def test_models_are_those_combined_by_hand(combination: Path, parts: dict[str, Pallet]) -> None:
    pallet = load_pallet(combination)
    assert pyhf.utils.digest(pallet.workspace) == pyhf.utils.digest(_by_hand(parts, None))
    patches = {one.values: one for one in pallet.hypotheses}
    generator = np.random.default_rng(3)
    for masses, names in PAIRS.items():
        assert patches[masses].name == "__".join(names)
        ours = pyhf.Workspace(jsonpatch.apply_patch(pallet.workspace, patches[masses].patch))
        theirs = _by_hand(parts, names)
        assert pyhf.utils.digest(ours) == pyhf.utils.digest(theirs)
        models = [space.model() for space in (ours, theirs)]
        low, high = np.array(models[0].config.suggested_bounds()).T
        at = low + generator.uniform(0.4, 0.6, len(low)) * (high - low)
        first, second = (np.asarray(model.expected_data(at)) for model in models)
        assert first == pytest.approx(second, rel=1e-12)
        logs = [model.logpdf(at, theirs.data(model))[0] for model in models]
        assert np.isfinite(logs[0])
        assert logs[0] == pytest.approx(logs[1], rel=1e-12)


def _lowest(fit: Callable[..., Any], starts: list[list[float] | None]) -> tuple[Any, float]:
    """Return where the lowest of pyhf's fits from several starts ends, and -2 log L there."""
    ends = (fit(init_pars=start, return_fitted_val=True) for start in starts)
    pairs = [(end, float(np.asarray(value).item())) for end, value in ends]
    return min(pairs, key=lambda pair: pair[1])


def _cls(
    model: pyhf.Model, data: Any, starts: list[list[float] | None]
) -> tuple[float, list[float], list[float]]:
    """Return CLs observed and expected at `MU`, and the observed minima, free and at `MU`."""
    pyhf_fit, fixed_fit = pyhf.infer.mle.fit, pyhf.infer.mle.fixed_poi_fit

    def minima(observed: Any, more: list[list[float] | None]) -> tuple[float, float, float]:
        free, low = _lowest(partial(pyhf_fit, observed, model), more)
        _, high = _lowest(partial(fixed_fit, MU, observed, model), more)
        return float(free[model.config.poi_index]), low, high

    muhat, free, fixed = minima(data, starts)
    null, _ = _lowest(partial(fixed_fit, 0.0, data, model), starts)
    asimov = model.expected_data(null)
    _, low, high = minima(asimov, [*starts, [float(one) for one in null]])
    root, root_asimov = (max(0.0, fixed - free) * (muhat <= MU)) ** 0.5, (high - low) ** 0.5
    # As `pyhf.infer.calculators.AsymptoticCalculator.teststatistic` for qtilde.
    shift = root - root_asimov
    if root > root_asimov:
        shift *= (root + root_asimov) / (2 * root_asimov)
    at = [shift, 2, 1, 0, -1, -2]
    observed, *expected = (float(norm.sf(one + root_asimov) / norm.sf(one)) for one in at)
    return observed, expected, [free, fixed]


def test_cls_are_those_of_pyhf(combination: Path, parts: dict[str, Pallet], tmp_path: Path) -> None:
    """Each of pyhf's fits from two starts: from its own alone some end at higher minima."""
    patches = [word for first, _ in PAIRS.values() for word in ("--patch", f"{first}__*")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fitserve", "run", combination, "-o", tmp_path / "run"),
            *("--verify", "0", "--mu", str(MU), *patches),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert list(manifest["pallet"]["parts"]) == ["onelep", "staus"]
    assert manifest["pallet"]["digest_verified"] is True
    pallet = load_pallet(combination)
    chosen = [one for one in pallet.hypotheses if one.name in found]
    assert len(chosen) == len(PAIRS)
    (batch,) = compile_hypotheses(pallet.workspace, chosen, ModelOptions()).batches
    null = hypotest(load(batch, range(len(chosen)), runtime(), "qtilde"), (MU,), "qtilde").null
    pyhf.set_backend("jax", "scipy")
    codes = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    for at, hypothesis in enumerate(chosen):
        ours = found[hypothesis.name]
        assert ours["engine"] == "kernel"
        space = _by_hand(parts, PAIRS[hypothesis.values])
        model = space.model(modifier_settings=codes)
        start = [float(one) for one in batch.parameters(at).join(null.x[at], null.local[at])]
        data = pyhf.tensorlib.astensor(space.data(model))
        observed, expected, (free, fixed) = _cls(model, data, [None, start])
        (point,) = ours["points"]
        assert ours["twice_nll"] == pytest.approx(free, abs=TOLERANCE)
        assert ours["twice_nll"] + point["twice_delta_nll"] == pytest.approx(fixed, abs=TOLERANCE)
        assert ours["CLs_obs"] == pytest.approx(observed, abs=TOLERANCE)
        assert ours["CLs_exp"] == pytest.approx(expected, abs=TOLERANCE)
    pyhf.set_backend("numpy")
