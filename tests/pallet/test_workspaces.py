"""Complete workspaces, signal and all: one is a hypothesis, several share their background."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest

import fitserve
from fitserve.api import make_request
from fitserve.errors import InputError, RequestError
from fitserve.pallet.load import load_pallet
from fitserve.runs.prepare import chosen_hypotheses
from fitserve_contract import apply_patch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve_contract import Hypothesis


@pytest.fixture
def complete(workspace: dict, hypotheses: list[Hypothesis]) -> dict[str, dict[str, Any]]:
    """Return the complete workspaces of all hypotheses, by the names of their files."""
    return {
        f"{one.name}_1.json": apply_patch(copy.deepcopy(workspace), one.patch) for one in hypotheses
    }


def _fitted(pallet: Any, output: Path, **options: Any) -> list[float | None]:
    run = fitserve.run(pallet, endpoint="inline", output=output, progress=False, **options)
    return [result.CLs_obs for result in run.results.values()]


def test_workspaces_that_differ_in_their_signal_are_one_pallet(
    write: Callable[..., Path],
    complete: dict[str, dict[str, Any]],
    workspace: dict,
    sound: dict[str, bytes],
    tmp_path: Path,
) -> None:
    # Neither the order of samples nor that of channels says anything.
    complete["S_300_1.json"]["channels"][0]["samples"].reverse()
    pallet = load_pallet(write(complete, name="complete"))
    assert pallet.workspace == workspace
    assert [(one.name, one.values) for one in pallet.hypotheses] == [
        (f"S_{mass}_1", (mass, 1)) for mass in range(100, 501, 100)
    ]
    assert pallet.labels == ("value_1", "value_2")
    assert repr(pallet) == "<pallet complete: 5 hypotheses>"
    published = load_pallet(write(sound, name="published"))
    ours, theirs = _fitted(pallet, tmp_path / "ours"), _fitted(published, tmp_path / "theirs")
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_what_else_differs_is_in_the_patch(
    write: Callable[..., Path], complete: dict[str, dict[str, Any]], workspace: dict
) -> None:
    other = complete["S_200_1.json"]
    other["channels"][0]["samples"][0]["data"] = [40.0, 41.0]
    extra = {"name": "other", "data": [1.0, 2.0], "modifiers": []}
    for one in complete.values():
        one["channels"][0]["samples"].append(extra)
    config = {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[0, 3]]}]}
    complete["S_400_1.json"]["measurements"] = [{"name": "main", "config": config}]
    pallet = load_pallet(write(complete))
    assert pallet.workspace["channels"][0]["samples"] == [extra]
    for hypothesis in pallet.hypotheses:
        whole = apply_patch(copy.deepcopy(pallet.workspace), hypothesis.patch)
        expected = complete[f"{hypothesis.name}.json"]
        assert (
            pyhf.Workspace.sorted(whole)["channels"] == pyhf.Workspace.sorted(expected)["channels"]
        )
        assert whole["measurements"] == expected["measurements"]


def test_a_signal_that_is_the_same_in_all_is_no_background(
    write: Callable[..., Path], complete: dict[str, dict[str, Any]], workspace: dict
) -> None:
    """As in a control region that no signal reaches."""
    for one in complete.values():
        one["channels"][0]["samples"][1]["data"] = [0.0, 0.0]
    pallet = load_pallet(write(complete))
    assert pallet.workspace == workspace
    assert [len(one.patch) for one in pallet.hypotheses] == [1] * 5


def test_the_background_beside_complete_workspaces_is_no_hypothesis(
    write: Callable[..., Path], complete: dict[str, dict[str, Any]], workspace: dict
) -> None:
    pallet = load_pallet(write(complete | {"BkgOnly.json": workspace}))
    assert len(pallet.hypotheses) == 5
    note = "a workspace has nothing but the background of all others: BkgOnly.json"
    assert note in pallet.notes


def test_files_of_the_same_name_are_told_apart_by_their_directories(
    write: Callable[..., Path], complete: dict[str, dict[str, Any]]
) -> None:
    files = {f"C1N2_{100 * i}_0/ws.json": one for i, one in enumerate(complete.values(), 1)}
    names = [one.name for one in load_pallet(write(files)).hypotheses]
    assert names == [f"C1N2_{100 * i}_0_ws" for i in range(1, 6)]


def test_workspaces_of_other_channels_or_data_are_regions(
    write: Callable[..., Path], complete: dict[str, dict[str, Any]]
) -> None:
    complete["S_200_1.json"]["observations"][0]["data"][0] += 1
    directory = write(complete)
    with pytest.raises(RequestError, match="the pallet has several regions"):
        load_pallet(directory)
    assert load_pallet(directory, region="S_200_1").region == "S_200_1"


def test_workspaces_without_a_common_background_or_a_signal_are_refused(
    write: Callable[..., Path], complete: dict[str, dict[str, Any]], workspace: dict
) -> None:
    with pytest.raises(InputError, match="the workspaces are all the same"):
        load_pallet(write({"a.json": workspace, "b.json": workspace}, name="same"))
    for index, one in enumerate(complete.values()):
        one["channels"][0]["samples"][0]["data"][0] += index
    with pytest.raises(InputError, match="no background in common") as caught:
        load_pallet(write(complete, name="apart"))
    assert "no sample of channel 'SR' is the same in all 5" in caught.value.evidence


def test_a_complete_workspace_is_fitted_as_pyhf_does(
    write: Callable[..., Path], complete: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    content = complete["S_300_1.json"]
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-4))
    try:
        model = pyhf.Workspace(content).model()
        data = pyhf.Workspace(content).data(model)
        right = float(pyhf.infer.hypotest(1.0, data, model, test_stat="qtilde"))
    finally:
        pyhf.set_backend("numpy")
    forms = [write({"search.json": content}) / "search.json", content, pyhf.Workspace(content)]
    for number, form in enumerate(forms):
        pallet = load_pallet(form)
        assert [(one.name, one.patch) for one in pallet.hypotheses] == [("main", [])]
        [cls] = _fitted(form, tmp_path / str(number), refit=True)
        assert cls == pytest.approx(right, abs=1e-5)


def test_a_workspace_without_a_signal_is_fitted_by_itself(workspace: dict, tmp_path: Path) -> None:
    pallet = load_pallet(workspace)
    assert pallet.hypotheses == ()
    [note] = pallet.notes
    assert note.endswith("workspace.json has no parameter of interest: mu")
    with pytest.raises(RequestError, match="no patchset and no patch") as caught:
        chosen_hypotheses(pallet.hypotheses, [], make_request())
    assert "--fit --background-only" in caught.value.hint
    request = make_request(kind="fit", background_only=True)
    run = fitserve.run(
        workspace, request=request, endpoint="inline", output=tmp_path, progress=False
    )
    fit = run.results["background-only"].fit
    assert fit is not None
    norm = next(one for one in fit.parameters if one.name == "norm")
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-4))
    try:
        model = pyhf.Workspace(workspace).model(poi_name=None)
        best = pyhf.infer.mle.fit(pyhf.Workspace(workspace).data(model), model)
    finally:
        pyhf.set_backend("numpy")
    assert norm.bestfit == pytest.approx(float(best[model.config.par_slice("norm")][0]), abs=1e-4)


def test_a_workspace_and_its_patchset_may_be_given_as_they_are(
    workspace: dict, patchset: dict, sound: dict[str, bytes], write: Callable[..., Path]
) -> None:
    read = load_pallet(write(sound))
    numpy = copy.deepcopy(workspace)
    for channel in numpy["channels"]:
        for sample in channel["samples"]:
            sample["data"] = np.asarray(sample["data"])
    for given in (
        (workspace, patchset),
        (pyhf.Workspace(workspace), pyhf.PatchSet(patchset)),
        (numpy, patchset),
    ):
        pallet = load_pallet(given)
        assert pallet.hypotheses == read.hypotheses
        assert pallet.workspace_digest == read.workspace_digest
        assert pallet.digest_verified
        assert load_pallet(pallet) is pallet


@pytest.mark.parametrize(
    ("given", "evidence"),
    [
        (3, "its type is int"),
        (None, "its type is NoneType"),
        (["a.json"], "its type is list"),
        (({}, {}, {}), "its type is tuple"),
        ({"channels": object()}, "JSON has no object"),
    ],
)
def test_what_is_no_pallet_is_told_in_a_sentence(given: Any, evidence: str) -> None:
    with pytest.raises(InputError, match=r"this is no (pallet|workspace)") as caught:
        load_pallet(given)
    assert caught.value.evidence == evidence


def test_what_is_no_likelihood_is_told_by_its_place(workspace: dict, patchset: dict) -> None:
    with pytest.raises(InputError, match=r"there is no background-only workspace"):
        load_pallet({})
    workspace["channels"][0]["samples"][0]["data"][1] = float("nan")
    with pytest.raises(InputError, match=r"workspace\.json violates pyhf's schema") as caught:
        load_pallet(workspace)
    assert "samples/0 'background'/data/1: null is not" in caught.value.evidence
    workspace["channels"][0]["samples"][0]["data"][1] = 52.0
    del patchset["metadata"]
    with pytest.raises(InputError, match=r"patchset\.json violates pyhf's schema"):
        load_pallet((workspace, patchset))


@pytest.mark.parametrize(
    ("masses", "values", "labels"),
    [
        ("S_{mC}_{mN}", (100, 1), ("mC", "mN")),
        ("S_{mC}_*", (100,), ("mC",)),
        ("*{mN}", (1,), ("mN",)),
    ],
)
def test_masses_are_taken_from_names_by_a_pattern(
    write: Callable[..., Path],
    complete: dict[str, dict[str, Any]],
    masses: str,
    values: tuple[float, ...],
    labels: tuple[str, ...],
) -> None:
    pallet = load_pallet(write(complete), masses=masses)
    assert (pallet.hypotheses[0].values, pallet.labels) == (values, labels)


def test_masses_are_taken_from_a_table(
    sound: dict[str, bytes], write: Callable[..., Path], tmp_path: Path
) -> None:
    table = tmp_path / "masses.csv"
    rows = [f"{100 * i},S_{100 * i},{i}.5,wino" for i in range(1, 6)]
    table.write_text("\n".join(["m,name,dm,kind", *rows, "7,S_9,1,other", ""]), "utf-8-sig")
    pallet = load_pallet(write(sound), masses=table)
    assert pallet.labels == ("m", "dm", "kind")
    assert pallet.hypotheses[1].values == (200, 2.5, "wino")


@pytest.mark.parametrize("pattern", ["S_{m}_{m}", "S_{}", "S_{m", "{m:d}", "{m!r}", "{a b}"])
def test_what_is_no_pattern_is_told(sound: dict[str, bytes], write: Any, pattern: str) -> None:
    with pytest.raises(RequestError, match="is no pattern of mass values"):
        load_pallet(write(sound), masses=pattern)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "there is no table of mass values"),
        ("name\nS_100\n", "needs a column 'name' and one for each mass"),
        ("m1,m2\n1,2\n", "needs a column 'name' and one for each mass"),
        ("name,m,m\nS_100,1,2\n", "needs a column 'name' and one for each mass"),
        ("", "needs a column 'name'"),
        ("name,m\nS_100,1\nS_100,2\n", "has a name twice"),
        ("name,m\nS_100,1,3\n", "has a row of another length"),
        ("name,m\nS_100,1\n", "hypotheses have no mass values"),
        (b"\xff\xfe\x00", "is no table in CSV"),
    ],
)
def test_what_is_no_table_of_masses_is_told(
    sound: dict[str, bytes],
    write: Callable[..., Path],
    tmp_path: Path,
    content: str | bytes | None,
    cause: str,
) -> None:
    table = tmp_path / "masses.csv"
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=cause):
        load_pallet(write(sound), masses=table)


def test_names_that_a_pattern_does_not_have_are_told(
    sound: dict[str, bytes], write: Callable[..., Path]
) -> None:
    with pytest.raises(InputError, match="hypotheses have no mass values") as caught:
        load_pallet(write(sound), masses="S_{m1}_{m2}")
    assert caught.value.evidence == ("5 of 5, among them S_100, S_200, S_300: --masses S_{m1}_{m2}")


def test_thousands_of_workspaces_are_read_one_at_a_time(
    write: Callable[..., Path], complete: dict[str, dict[str, Any]]
) -> None:
    content = complete["S_100_1.json"]
    files = {}
    for index in range(1000):
        content["channels"][0]["samples"][1]["data"] = [float(index), 1.0]
        files[f"S_{index}.json"] = json.dumps(content).encode()
    pallet = load_pallet(write(files))
    assert len(pallet.hypotheses) == 1000
    assert len(json.dumps([one.patch for one in pallet.hypotheses])) < 300_000
