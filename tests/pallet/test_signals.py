"""Own signals: tables of all forms, what they make of a background, and what is wrong with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest
from click.testing import CliRunner

import fitserve
from fitserve.api import asked_signals, make_request
from fitserve.cli import cli
from fitserve.errors import FitserveError, InputError, RequestError
from fitserve.pallet.load import load_pallet
from fitserve.pallet.signals import OwnSignals
from fitserve.pallet.tables import MOST_ROWS, read_table
from fitserve_contract import ModelOptions, apply_patch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve.pallet.load import Pallet

BINS = ["SR_compressed", "SR_boosted[0]", "SR_boosted[1]", "CR_top", "CR_multijet[0]"]
ROWS = {"A": (100, 1.5, 3.0, 1.0, 0.25, 0.0), "B": (200, 0.5, 4.5, 2.0, 0.0, 0.5)}


def _signals(table: Any, **options: Any) -> Pallet:
    own = OwnSignals(table=table, **options)
    return load_pallet("example", signals=asked_signals(own, ModelOptions()))


def _yields(pallet: Pallet, name: str) -> dict[str, list[float]]:
    [hypothesis] = [one for one in pallet.hypotheses if one.name == name]
    names = list(pallet.bins)
    return {names[int(one["path"].split("/")[2])]: one["value"]["data"] for one in hypothesis.patch}


EXPECTED = {
    "SR_compressed": [1.5],
    "SR_boosted": [3.0, 1.0],
    "CR_top": [0.25],
    "CR_multijet": [0.0, 0.0],
}


def _columns() -> dict[str, list[Any]]:
    rows = [[name, *row] for name, row in ROWS.items()]
    return dict(zip(["name", "mX", *BINS], map(list, zip(*rows, strict=True)), strict=True))


def _csv(folder: Path) -> Path:
    path = folder / "yields.csv"
    columns = _columns()
    lines = ["# a comment", ",".join(columns), ""]
    lines += [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


def _records(folder: Path) -> Path:
    path = folder / "yields.json"
    records = [
        {
            "name": name,
            "mX": mass,
            "SR_compressed": first,
            "SR_boosted": second,
            "CR_top": [third],
            "CR_multijet": [fourth, None],
        }
        for name, (mass, first, *second, third, fourth) in ROWS.items()
    ]
    for record in records:
        record["CR_multijet"] = record["CR_multijet"][:1]
    path.write_text(json.dumps(records))
    return path


def _by_name(folder: Path) -> Path:
    path = folder / "named.json"
    content = {name: dict(zip(["mX", *BINS], row, strict=True)) for name, row in ROWS.items()}
    path.write_text(json.dumps(content))
    return path


def _parquet(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(_columns()), folder / "yields.parquet")
    return folder / "yields.parquet"


def _arrays() -> dict[str, Any]:
    yields = np.array([[*row[1:], 0.0] for row in ROWS.values()])
    return {"yields": yields, "name": np.array(["A", "B"]), "mX": np.array([100, 200])}


def _npz(folder: Path) -> Path:
    np.savez(folder / "yields.npz", **_arrays())
    return folder / "yields.npz"


def _hdf5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "yields.h5", "w") as file:
        for name, array in _arrays().items():
            file[name] = array.astype("S") if array.dtype.kind == "U" else array
    return folder / "yields.h5"


def _frame(_: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(_columns())


def _indexed(_: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(_columns()).set_index("name")


def _polars(_: Path) -> Any:
    return pytest.importorskip("polars").DataFrame(_columns())


def _arrow(_: Path) -> Any:
    return pytest.importorskip("pyarrow").table(_columns())


FORMS = [
    *(_csv, _records, _by_name, _parquet, _npz, _hdf5),
    *(_frame, _indexed, _polars, _arrow),
    lambda _: _columns(),
    lambda _: _arrays(),
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_is_the_same_signals(
    form: Callable[[Path], Any], tmp_path: Path
) -> None:
    pallet = _signals(form(tmp_path))
    assert [one.name for one in pallet.hypotheses] == list(ROWS)
    assert pallet.labels == ("mX",)
    assert [one.values for one in pallet.hypotheses] == [(100,), (200,)]
    assert _yields(pallet, "A") == EXPECTED


def test_an_array_has_the_bins_in_their_order() -> None:
    pallet = _signals([[*row[1:], 0.0] for row in ROWS.values()])
    assert [one.name for one in pallet.hypotheses] == ["signal_1", "signal_2"]
    assert _yields(pallet, "signal_1") == EXPECTED


def test_columns_may_have_names_of_their_own(tmp_path: Path) -> None:
    table = {"model": ["A"], "y1": [1.5], "stop mass": [300.0]}
    columns = {"model": "name", "y1": "SR_compressed[0]", "stop mass": "mX"}
    (tmp_path / "map.yaml").write_text(json.dumps(columns))
    for given in (columns, tmp_path / "map.yaml"):
        pallet = _signals(table, columns=given)
        assert (pallet.hypotheses[0].name, pallet.labels) == ("A", ("mX",))
        assert _yields(pallet, "A") == {"SR_compressed": [1.5]}
    assert any("SR_boosted, CR_top, CR_multijet" in note for note in pallet.notes)


def test_uncertainties_make_the_model_that_pyhf_makes_of_them_by_hand(workspace: dict) -> None:
    table = {
        "SR[0]": [12.0],
        "SR[1]": [9.0],
        "SR[0]:stat": [1.5],
        "SR[1]:stat": [0.5],
        "SR:norm": [0.1],
        "SR[0]:own:up": [0.2],
        "SR[0]:own:down": [-0.1],
        "SR[1]:own": [-0.05],
        "*:theory:up": [0.3],
    }
    own = asked_signals(OwnSignals(table=table, lumi="0.02"), ModelOptions())
    pallet = load_pallet(workspace, signals=own)
    sample = {
        "name": "signal",
        "data": [12.0, 9.0],
        "modifiers": [
            {"name": "mu", "type": "normfactor", "data": None},
            {"name": "lumi_signal", "type": "normsys", "data": {"hi": 1.02, "lo": 0.98}},
            {"name": "staterror_signal_SR", "type": "staterror", "data": [1.5, 0.5]},
            {"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
            {"name": "theory", "type": "normsys", "data": {"hi": 1.3, "lo": 0.7}},
            {
                "name": "own",
                "type": "histosys",
                "data": {"hi_data": [14.4, 8.55], "lo_data": [10.8, 9.45]},
            },
        ],
    }
    by_hand = json.loads(json.dumps(workspace))
    by_hand["channels"][0]["samples"].append(sample)
    ours, theirs = (
        pyhf.Workspace(one).model()
        for one in (
            apply_patch(json.loads(json.dumps(workspace)), pallet.hypotheses[0].patch),
            by_hand,
        )
    )
    assert ours.config.par_names == theirs.config.par_names
    generator = np.random.default_rng(5)
    data = pyhf.Workspace(by_hand).data(theirs)
    for _ in range(20):
        inits = np.array(theirs.config.suggested_init())
        at = inits + generator.normal(0, 0.1, len(inits))
        assert ours.expected_data(at) == pytest.approx(theirs.expected_data(at), rel=1e-12)
        assert ours.logpdf(at, data) == pytest.approx(theirs.logpdf(at, data), rel=1e-12)


def test_signals_are_fitted_as_pyhf_fits_them(tmp_path: Path) -> None:
    run = fitserve.run(
        "example", signals=_csv(tmp_path), endpoint="inline", output=tmp_path / "r", progress=False
    )
    assert [one.status for one in run.results.values()] == ["ok", "ok"]
    assert run.manifest.pallet.labels == ["mX"]
    assert not run.manifest.pallet.axes
    pallet = _signals(_csv(tmp_path))
    for one in pallet.hypotheses:
        content = apply_patch(json.loads(json.dumps(pallet.workspace)), one.patch)
        workspace = pyhf.Workspace(content)
        model = workspace.model()
        expected = pyhf.infer.hypotest(1.0, workspace.data(model), model)
        assert run.results[one.name].CLs_obs == pytest.approx(float(expected), abs=1e-4)


def test_an_interrupted_run_of_signals_goes_on(tmp_path: Path) -> None:
    options = {"endpoint": "inline", "output": tmp_path / "r", "progress": False}
    first = fitserve.run("example", signals=_csv(tmp_path), **options)
    before = {name: one.CLs_obs for name, one in first.results.items()}
    (tmp_path / "r" / "results.jsonl").write_text("")
    resumed = fitserve.resume(tmp_path / "r", progress=False)
    assert {name: one.CLs_obs for name, one in resumed.results.items()} == before
    again = fitserve.run("example", signals=_csv(tmp_path), **options)
    assert {name: one.key for name, one in again.results.items()} == {
        name: one.key for name, one in first.results.items()
    }


def test_the_pallets_own_signals_come_back_from_their_table(tmp_path: Path) -> None:
    table = str(tmp_path / "published.csv")
    command = ["signals", "export", "example", "--uncertainties", "--patch", "*_600_*", "-o", table]
    assert CliRunner().invoke(cli, command).exit_code == 0
    options = {"endpoint": "inline", "progress": False, "verify": 0}
    ours = fitserve.run("example", signals=table, output=tmp_path / "a", **options)
    theirs = fitserve.run("example", patches=["*_600_*"], output=tmp_path / "b", **options)
    assert list(ours.results) == list(theirs.results)
    assert ours.manifest.values == theirs.manifest.values
    for name, one in ours.results.items():
        other = theirs.results[name]
        assert one.CLs_obs == pytest.approx(other.CLs_obs, abs=1e-6)
        assert one.CLs_exp == pytest.approx(other.CLs_exp, abs=1e-6)


def test_a_background_alone_is_no_fault_where_signals_are_given(workspace: dict) -> None:
    assert any("no signal" in note for note in load_pallet(workspace).notes)
    pallet = load_pallet(workspace, signals=OwnSignals(table={"SR": [[1.0, 2.0]]}))
    assert not any("no signal" in note for note in pallet.notes)


def test_own_signals_replace_that_of_a_complete_workspace(
    workspace: dict, hypotheses: list[Any]
) -> None:
    complete = apply_patch(json.loads(json.dumps(workspace)), hypotheses[0].patch)
    pallet = load_pallet(complete, signals=OwnSignals(table={"SR": [[1.0, 2.0]]}))
    assert pallet.workspace == workspace
    assert any("own signal were left out" in note for note in pallet.notes)
    complete["channels"][0]["samples"] = complete["channels"][0]["samples"][1:]
    with pytest.raises(InputError, match="nothing but a signal"):
        load_pallet(complete, signals=OwnSignals(table={"SR": [[1.0, 2.0]]}))


@pytest.mark.parametrize(
    ("chosen", "names", "first"),
    [("zero", ["A", "B"], 0.0), ("drop", ["B"], 2.0), ("keep", ["A", "B"], -1.0)],
)
def test_bad_yields_are_treated_as_chosen_and_said(
    chosen: Any, names: list[str], first: float
) -> None:
    pallet = _signals({"name": ["A", "B"], "SR_compressed": [-1.0, 2.0]}, bad_yields=chosen)
    assert [one.name for one in pallet.hypotheses] == names
    assert _yields(pallet, names[0])["SR_compressed"] == [first]
    assert any("negative" in note for note in pallet.notes)


def test_a_signal_without_events_is_said_and_fitted(tmp_path: Path) -> None:
    table = {"name": ["none", "some"], "SR_compressed": [0.0, 3.0]}
    assert any("without events" in note and "none" in note for note in _signals(table).notes)
    run = fitserve.run(
        "example", signals=table, endpoint="inline", output=tmp_path / "r", progress=False
    )
    assert run.results["none"].CLs_obs == pytest.approx(1.0, abs=1e-6)
    assert run.results["none"].status == "ok"


WRONG = {
    "column 'SR_compresed' is no bin of the workspace (nearest: 'SR_compressed'": {
        "SR_compresed": [1.0]
    },
    "column 'SR_boosted[2]': channel 'SR_boosted' has 2 bins, counted from 0": {
        "SR_boosted[2]": [1.0]
    },
    "column 'SR_boosted' is of several bins": {"SR_boosted": [1.0]},
    "row 2, column 'SR_compressed': 'x' is no number": {"SR_compressed": [1.0, "x"]},
    "row 1, column 'SR_compressed': it is infinite": {"SR_compressed": [np.inf]},
    "row 2, column 'SR_compressed[0]': a negative yield, -1": {"SR_compressed": [1.0, -1.0]},
    "row 1, column 'SR_compressed[0]': a missing yield": {"SR_compressed": [None, 1.0]},
    "row 2, column 'name': 'A' is the name in row 1 too": {
        "name": ["A", "A"],
        "SR_compressed": [1.0, 2.0],
    },
    "row 1, column 'name': there is no name": {"name": ["", "B"], "SR_compressed": [1.0, 2.0]},
    "is a bin that another column is too": {"SR_compressed": [1.0], "SR_compressed[0]": [1.0]},
    "an uncertainty of -1": {"SR_compressed": [1.0], "SR_compressed:stat": [-1.0]},
    "a relative change by -1.5 leaves no events": {"SR_compressed": [1.0], "*:theory": [1.5]},
    "after the bin comes stat": {"SR_compressed": [1.0], "SR_compressed:a:b": [1.0]},
    "'0.5 TeV' is no number, most others there are": {
        "mX": [100.0, 200.0, "0.5 TeV"],
        "SR_compressed": [1.0, 1.0, 1.0],
    },
    "column 'mX': there is no number": {"mX": [100.0, None], "SR_compressed": [1.0, 2.0]},
    "no column is a bin": {"mX": [100.0]},
    "it has no signals": {"SR_compressed": []},
    "row 3, column 'SR_compressed[0]': a negative yield, -3": {"SR_compressed": [-1.0, 2.0, -3.0]},
    "channel 'CR_top' has uncertainties and no yields": {
        "SR_compressed": [1.0],
        "CR_top:stat": [0.5],
    },
    "no more than 50 may be no bins": {
        "SR_compressed": [1.0],
        **{f"mass{at}": [1.0] for at in range(51)},
    },
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_is_said_with_its_place(said: str) -> None:
    with pytest.raises(InputError) as caught:
        _signals(WRONG[said])
    assert said in caught.value.evidence


def test_the_command_lists_everything_that_is_wrong_by_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,mX,SR_compressed\n# comment\nA,1,x\nA,2,\n")
    done = CliRunner().invoke(cli, ["signals", "check", "example", str(tmp_path / "t.csv")])
    assert done.exit_code == InputError.exit_code
    assert (
        done.stdout.splitlines()
        == [
            "line 3, column 'SR_compressed': 'x' is no number",
            "line 4, column 'name': 'A' is the name in line 3 too",
            "no column is a bin; these are: SR_compressed, SR_boosted, CR_top, ...",
        ][: len(done.stdout.splitlines())]
    )
    assert "problems" in done.stderr


def test_systematics_that_cannot_share_a_parameter_are_refused(workspace: dict) -> None:
    table = {"SR[0]": [1.0], "SR[1]": [2.0], "SR:uncorr_bkg": [0.1]}
    with pytest.raises(InputError, match="cannot share a parameter"):
        load_pallet(workspace, signals=OwnSignals(table=table))


def _write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "no table of signals": lambda folder: folder / "absent.csv",
    "a table ends with": lambda folder: _write(folder, "t.xls", "x"),
    "is empty": lambda folder: _write(folder, "t.csv", ""),
    "no text in UTF-8": lambda folder: _write(folder, "t.csv", b"\xff\xfe\x00"),
    "row of another length": lambda folder: _write(folder, "t.csv", "name,SR\nA\n"),
    "two columns of one name": lambda folder: _write(folder, "t.csv", "SR,SR\n1,2\n"),
    "differ in length": lambda _: {"SR_compressed": [1.0, 2.0], "CR_top": [1.0]},
    "one column for each bin": lambda _: np.ones((2, 3)),
    "these are no signals": lambda _: 3,
    "no list of values": lambda _: {"SR_compressed": 3},
    "hardly have a column in common": lambda _: [{f"a{at}": 1.0} for at in range(200)],
    "more columns than": lambda _: {f"a{at}": [1.0] for at in range(20_001)},
    "more signals than a run": lambda _: {"SR_compressed": np.ones(MOST_ROWS + 1)},
    "cannot be read as arrays": lambda folder: _write(folder, "t.npz", "PK"),
    "cannot be read as Parquet": lambda folder: _write(folder, "t.parquet", "PAR1"),
    "cannot be read as HDF5": lambda folder: _write(folder, "t.h5", "x"),
    "no valid JSON": lambda folder: _write(folder, "t.json", "[{"),
}


@pytest.mark.parametrize("said", HOSTILE)
def test_tables_that_are_none_are_refused(said: str, tmp_path: Path) -> None:
    with pytest.raises(FitserveError) as caught:
        read_table(HOSTILE[said](tmp_path), ["a", "b"])
    text = f"{caught.value.cause} {caught.value.evidence}"
    assert said in text or (said == "no valid JSON" and "JSON" in text)


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", yields=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot be read as arrays"):
        read_table(tmp_path / "t.npz", [])


@pytest.mark.parametrize("kind", ["soft", "external", "stored"])
def test_arrays_of_other_files_are_not_read(kind: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "raw").write_bytes(bytes(16))
    with h5py.File(tmp_path / "t.h5", "w") as file:
        if kind == "soft":
            file["yields"] = h5py.SoftLink("/elsewhere")
        elif kind == "external":
            file["yields"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "yields")
        else:
            file.create_dataset(
                "yields", shape=(2,), dtype="f8", external=[(str(tmp_path / "raw"), 0, 16)]
            )
    with pytest.raises(InputError, match="more than arrays"):
        read_table(tmp_path / "t.h5", [])


def test_a_table_larger_than_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fitserve.pallet.tables.memory_there", lambda: 1000)
    np.savez_compressed(tmp_path / "t.npz", yields=np.zeros(10_000))
    with pytest.raises(InputError, match="too large"):
        read_table(tmp_path / "t.npz", [])
    with pytest.raises(InputError, match="too large"):
        read_table(_csv(tmp_path), [])


@pytest.mark.parametrize(
    ("options", "said"),
    [({"lumi": "2"}, "no uncertainty of the luminosity"), ({"bad_yields": "x"}, "bad yields")],
)
def test_options_without_a_meaning_are_refused(options: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        _signals({"SR_compressed": [1.0]}, **options)


def test_signals_are_scaled_by_the_parameter_that_is_asked_for(tmp_path: Path) -> None:
    run = fitserve.run(
        "example",
        signals={"SR_compressed": [3.0]},
        request=make_request(poi="mu_own"),
        endpoint="inline",
        output=tmp_path / "r",
        progress=False,
    )
    assert run.results["signal_1"].status == "ok"
    names = {
        modifier["name"]
        for one in run.saved.inputs().hypotheses
        for operation in one.patch
        for modifier in operation["value"]["modifiers"]
    }
    assert "mu_own" in names


def test_the_template_is_an_empty_table_that_says_what_channels_are(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["signals", "template", "example"])
    *comments, header = done.stdout.splitlines()
    assert header == (
        "name,mX,mchi,SR_compressed[0],SR_boosted[0],SR_boosted[1],CR_top[0],CR_multijet[0],"
        "CR_multijet[1]"
    )
    assert comments[0].startswith("# SR_compressed: signal region, 1 bin, observed ")
    assert "control region" in comments[2]
    path = _write(tmp_path, "t.csv", done.stdout + "A,1,2,3,0,0,0,0,0\n")
    assert _yields(_signals(path), "A")["SR_compressed"] == [3.0]
    as_json = CliRunner().invoke(cli, ["signals", "template", "example", "--json"])
    assert [one["name"] for one in json.loads(as_json.stdout)] == list(load_pallet("example").bins)


def test_options_of_signals_need_signals() -> None:
    done = CliRunner().invoke(cli, ["run", "example", "--bad-yields", "zero"])
    assert done.exit_code == 2
    assert "--bad-yields goes with --signals" in done.stderr
