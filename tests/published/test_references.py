"""Published analyses through `fitserve run`, compared with reference results.

The references were made with pyhf's jax backend and scipy; see their files for how. All of staus
are above minima of pyhf's own likelihood: what is right there was found once by the independent
search of tests/generated, with ``python -m tension --pallet staus.tar.xz``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyhf
import pytest

from fitserve.pallet.load import load_pallet
from fitserve_contract import Hypothesis, ModelOptions
from fitserve_worker.kernel import hypotest as tested_by
from fitserve_worker.kernel import starts
from fitserve_worker.kernel.batch import compile_hypotheses
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.runtime import runtime

STAUS = json.loads((Path(__file__).parents[2] / "benchmarks" / "staus.json").read_text())

TOLERANCE = 1e-3
KERNEL_TOLERANCE = 1e-4
NLL_TOLERANCE = 1e-4
# Twelve of 1Lbb's 125, from the lightest to the heaviest.
SAMPLE_1LBB = [
    "C1N2_Wh_hbb_150_0",
    "C1N2_Wh_hbb_175_0",
    "C1N2_Wh_hbb_250_25",
    "C1N2_Wh_hbb_300_75",
    "C1N2_Wh_hbb_375_50",
    "C1N2_Wh_hbb_450_150",
    "C1N2_Wh_hbb_500_350",
    "C1N2_Wh_hbb_600_100",
    "C1N2_Wh_hbb_700_400",
    "C1N2_Wh_hbb_800_200",
    "C1N2_Wh_hbb_900_250",
    "C1N2_Wh_hbb_1000_0",
]

# Of these pyhf's fits, of which the references are, end above minima that its own likelihood has:
# see the last test.
ABOVE = ("C1N2_Wh_hbb_375_50", "C1N2_Wh_hbb_650_0")

pytestmark = [pytest.mark.published, pytest.mark.timeout(1800)]


def _run(pallet: Path, output: Path, *options: str, engine: str = "pyhf") -> dict:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fitserve", "run", pallet, "--output", output),
            *("--engine", engine, *options),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((output / "results.json").read_text())


def _compare(found: dict, reference: dict, tolerance: float = TOLERANCE) -> None:
    for name, result in found.items():
        expected = reference[name]
        assert result["status"] == "ok", (name, result["reason"])
        assert result["CLs_obs"] == pytest.approx(expected["CLs_obs"], abs=tolerance), name
        assert result["CLs_exp"] == pytest.approx(expected["CLs_exp"], abs=tolerance), name
        assert result["twice_nll"] <= expected["twice_nll"] + NLL_TOLERANCE, name


def _no_higher(kernel: dict, pyhf: dict) -> None:
    """See that the kernel's minima of -2 log L, free and at a signal strength of 1, are as low."""
    assert kernel.keys() == pyhf.keys()
    for name, ours in kernel.items():
        assert ours["engine"] == "kernel", name
        for minimum in (_free, _at_one):
            assert minimum(ours) <= minimum(pyhf[name]) + NLL_TOLERANCE, (name, minimum)


def _free(result: dict) -> float:
    return result["twice_nll"]


def _at_one(result: dict) -> float:
    (point,) = result["points"]
    assert point["mu"] == 1.0
    return result["twice_nll"] + point["twice_delta_nll"]


def test_staus_agrees_on_every_hypothesis(
    shared: Path, references: dict[str, dict], tmp_path: Path
) -> None:
    # pyhf's second answers have a test of their own below.
    found = _run(shared / "pallets" / "staus.tar.xz", tmp_path / "run", "--verify", "0")
    assert len(found) == 57
    assert set(found) == set(references["staus"])
    _compare(found, references["staus"])
    _no_higher(_run(shared / "pallets" / "staus.tar.xz", tmp_path / "kernel", engine="auto"), found)


def test_1lbb_agrees_on_a_sample(shared: Path, references: dict[str, dict], tmp_path: Path) -> None:
    options = [word for name in SAMPLE_1LBB for word in ("--patch", name)]
    found = _run(shared / "pallets" / "1Lbb.tar.xz", tmp_path / "run", *options)
    assert len(found) == len(SAMPLE_1LBB)
    _compare(found, references["1Lbb"])
    kernel = _run(shared / "pallets" / "1Lbb.tar.xz", tmp_path / "kernel", *options, engine="auto")
    _no_higher(kernel, found)


def test_the_kernel_agrees_on_every_hypothesis_of_1lbb(
    shared: Path, references: dict[str, dict], tmp_path: Path
) -> None:
    found = _run(shared / "pallets" / "1Lbb.tar.xz", tmp_path / "run", engine="auto")
    assert len(found) == 125
    assert {result["engine"] for result in found.values()} == {"kernel"}
    _compare({name: found[name] for name in ABOVE}, references["1Lbb"])
    rest = {name: result for name, result in found.items() if name not in ABOVE}
    _compare(rest, references["1Lbb"], KERNEL_TOLERANCE)


def test_the_kernel_finds_the_lowest_minima_of_every_hypothesis_of_staus(
    shared: Path, references: dict[str, dict], tmp_path: Path
) -> None:
    found = _run(shared / "pallets" / "staus.tar.xz", tmp_path / "run", engine="auto")
    assert found.keys() == STAUS["hypotheses"].keys() == references["staus"].keys()
    assert {result["engine"] for result in found.values()} == {"kernel"}
    # Of all minima but those in which samples expect negative events.
    _compare(found, STAUS["hypotheses"])
    for name, result in found.items():
        assert result["twice_nll"] <= references["staus"][name]["twice_nll"] + NLL_TOLERANCE, name


def test_a_minimum_with_negative_samples_is_seen_and_does_not_count(
    shared: Path, tmp_path: Path
) -> None:
    """At mu = 1, where -14 events of Z would make room for the signal in a bin."""
    pallet = shared / "pallets" / "staus.tar.xz"
    options = ("--patch", "DS_300_40_Staus", "--verify", "1")
    [result] = _run(pallet, tmp_path / "run", *options, engine="auto").values()
    assert result["status"] == "ok", result["reason"]
    assert result["diagnostics"]["negative_minimum"] > 3
    assert "ends above our minimum" in result["verification"]["above"]


def test_cls_do_not_depend_on_the_size_of_tasks(shared: Path, tmp_path: Path) -> None:
    """Where many starts lead to minima, too, and Asimov data are those of the lowest."""
    pallet = shared / "pallets" / "staus.tar.xz"
    few, many = (
        _run(pallet, tmp_path / size, "--max-task-hypotheses", size, "--refit", engine="auto")
        for size in ("3", "40")
    )
    for name, one in few.items():
        assert one["CLs_obs"] == pytest.approx(many[name]["CLs_obs"], abs=1e-7), name
        assert one["CLs_exp"] == pytest.approx(many[name]["CLs_exp"], abs=1e-7), name


def test_reused_results_are_the_same_to_the_last_digit(shared: Path, tmp_path: Path) -> None:
    pallet = shared / "pallets" / "staus.tar.xz"
    first = _run(pallet, tmp_path / "first", "--patch", "DS_100_1_Staus")
    second = _run(pallet, tmp_path / "second", "--patch", "DS_100_1_Staus")
    assert first == second


def test_references_that_differ_are_above_the_minimum_of_pyhfs_likelihood(shared: Path) -> None:
    """At mu = 1, of the observed or the Asimov data, where the kernel's parameters are lower."""
    pallet = load_pallet(shared / "pallets" / "1Lbb.tar.xz")
    chosen = [one for one in pallet.hypotheses if one.name in ABOVE]
    (batch,) = compile_hypotheses(pallet.workspace, chosen, ModelOptions()).batches
    tests = hypotest(load(batch, range(len(chosen)), runtime(), "qtilde"), (1.0,), "qtilde")
    pyhf.set_backend("jax", "scipy")
    workspace = pyhf.Workspace(pallet.workspace)
    for at, (member, hypothesis) in enumerate(zip(batch.members, chosen, strict=True)):
        assert member.name == hypothesis.name
        codes = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
        model = workspace.model(patches=[hypothesis.patch], modifier_settings=codes)
        parameters = batch.parameters(at)
        ends = [
            parameters.join(fit.x[at], fit.local[at])
            for fit in (tests.null, tests.fixed[0], tests.asimov[0])
        ]
        asimov = np.asarray(model.expected_data(pyhf.tensorlib.astensor(ends[0])))
        lower = []
        for end, data in ((ends[1], workspace.data(model)), (ends[2], asimov)):
            observed = pyhf.tensorlib.astensor(data)
            _, by_pyhf = pyhf.infer.mle.fixed_poi_fit(1.0, observed, model, return_fitted_val=True)
            ours = pyhf.infer.mle.twice_nll(pyhf.tensorlib.astensor(end), observed, model)
            lower.append(float(np.asarray(by_pyhf).item()) - float(np.asarray(ours).item()))
        assert min(lower) > -NLL_TOLERANCE, member.name
        assert max(lower) > 0.01, member.name
    pyhf.set_backend("numpy")


def _own_signals(workspace: dict, count: int) -> list[Hypothesis]:
    """Return signals without systematics, of 1 to 30 events, most of them in the signal regions."""
    random = np.random.default_rng(3)
    (measurement,) = workspace["measurements"]
    factor = {"name": measurement["config"]["poi"], "type": "normfactor", "data": None}
    made = []
    for number in range(count):
        events = np.exp(random.uniform(0, np.log(30)))
        patch = []
        for at, channel in enumerate(workspace["channels"]):
            part = random.uniform(0.1, 1.0) * (1.0 if channel["name"].startswith("SR") else 0.3)
            signal = {"name": "signal", "data": [events * part], "modifiers": [factor]}
            patch.append({"op": "add", "path": f"/channels/{at}/samples/-", "value": signal})
        made.append(Hypothesis(name=f"own {number}", values=(), patch=patch))
    return made


def test_minima_of_the_background_are_as_good_as_a_search_for_each_hypothesis(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pallet = load_pallet(shared / "pallets" / "staus.tar.xz")
    own = _own_signals(pallet.workspace, 64)
    (batch,) = compile_hypotheses(pallet.workspace, own, ModelOptions()).batches
    parts = [range(first, first + 32) for first in (0, 32)]

    def tested() -> tuple[np.ndarray, np.ndarray]:
        tests = [
            hypotest(load(batch, some, runtime(), "qtilde"), (1.0,), "qtilde") for some in parts
        ]
        lowest = [
            np.stack([fit.value for fit in (one.null, one.free, *one.fixed, *one.asimov)])
            for one in tests
        ]
        cls = [np.column_stack([one.CLs_obs[:, 0], one.CLs_exp[:, 0]]) for one in tests]
        return np.concatenate(cls), np.concatenate(lowest, axis=1)

    ours, low = tested()
    for module in (starts, tested_by):
        monkeypatch.setattr(module, "pools_of", lambda loaded: [None] * loaded.size)
    theirs, searched = tested()
    higher = (low > searched + TOLERANCE).any(axis=0)
    assert higher.sum() <= 1
    assert (np.abs(ours - theirs).max(axis=1) > TOLERANCE).sum() <= 1 + (
        low < searched - TOLERANCE
    ).any(axis=0).sum()


def test_tests_do_not_depend_on_the_strengths_that_are_asked_for_with_them(shared: Path) -> None:
    """Minima that do not count at one strength count at none, whichever start leads there."""
    pallet = load_pallet(shared / "pallets" / "staus.tar.xz")
    (batch,) = compile_hypotheses(pallet.workspace, pallet.hypotheses, ModelOptions()).batches
    strengths = (0.5, 1.0, 2.0, 4.0)
    for first in range(0, len(pallet.hypotheses), 32):
        chosen = range(first, min(first + 32, len(pallet.hypotheses)))
        loaded = load(batch, chosen, runtime(), "qtilde")
        together = hypotest(loaded, strengths, "qtilde")
        for place, mu in enumerate(strengths):
            alone = hypotest(loaded, (mu,), "qtilde")
            close = TOLERANCE if mu <= 1 else 5 * TOLERANCE
            assert alone.CLs_obs[:, 0] == pytest.approx(together.CLs_obs[:, place], abs=close)
            assert alone.CLs_exp[:, 0] == pytest.approx(together.CLs_exp[:, place], abs=close)
