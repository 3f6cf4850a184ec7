"""HEPData submissions, as HEPData itself checks and reads them."""

from __future__ import annotations

import os
import tarfile
import warnings

import msgspec
import numpy as np
import pytest
import yaml

from fitserve.draw.curves import contour_lines
from fitserve.errors import StoreError
from fitserve.export.hepdata import write_submission


@pytest.fixture
def run(build_run):
    points = {}
    for x in (100.0, 200.0, 300.0, 400.0):
        for y in (0.0, 50.0, 100.0):
            cls = float(10 ** (-3 + x / 150))
            cls = min(cls, 0.9)
            points[f"S_{x:g}_{y:g}"] = ((x, y), cls, [cls / 9, cls / 3, cls, cls, cls])
    points["S_400_100"] = ((400.0, 100.0), None, [None] * 5)
    return build_run(
        points,
        unfinished={"S_500_0": (500.0, 0.0)},
        axes=[r"$m(\tilde{\tau})$ [GeV]", r"$m(\tilde{\chi}_1^0)$ [GeV]"],
        references={"hepdata": "ins1234567", "other": "a note", "web": "https://example.org/x"},
    )


def _validate(path):
    with warnings.catch_warnings():
        # The validator imports a deprecated name and leaves the files that it reads open.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        from hepdata_validator.full_submission_validator import FullSubmissionValidator

        validator = FullSubmissionValidator(autoload_remote_schemas=False)
        where = {"archive": str(path)} if path.is_file() else {"directory": str(path)}
        valid = validator.validate(**where)
    return valid, validator.get_messages()


def _columns(path):
    table = yaml.safe_load(path.read_text())
    return {
        column["header"]["name"]: [cell["value"] for cell in column["values"]]
        for column in table["independent_variables"] + table["dependent_variables"]
    }


def test_submission_is_valid(run, tmp_path):
    path = tmp_path / "submission"
    write_submission(*run, path)
    assert _validate(path) == (True, {})
    assert [p.name for p in tmp_path.iterdir()] == ["submission"]
    assert not (path.stat().st_mode & 0o777) ^ (0o777 & ~_umask())


def test_contours_say_how_the_other_masses_depend_on_the_plane(build_run, tmp_path):
    points = {
        f"S_{x}_{y}": ((float(x), y + 130.0, float(y)), 0.01 if x < 300 else 0.07, None)
        for x in (100, 200, 300)
        for y in (0, 50, 100)
    }
    write_submission(*build_run(points), tmp_path / "s")
    assert _validate(tmp_path / "s") == (True, {})
    text = (tmp_path / "s" / "submission.yaml").read_text()
    (contour,) = [one for one in yaml.safe_load_all(text) if one.get("name") == "Observed contour"]
    assert contour["description"].endswith("m3 = m2 \N{MINUS SIGN} 130.")


def test_archive_is_valid_and_reproducible(run, tmp_path):
    path = tmp_path / "submission.tar.gz"
    write_submission(*run, path)
    assert _validate(path) == (True, {})
    first = path.read_bytes()
    write_submission(*run, path)
    assert path.read_bytes() == first
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert "submission.yaml" in names
    assert "contour.png" in names


def test_cls_table(run, tmp_path):
    manifest, results = run
    write_submission(manifest, results, tmp_path / "s")
    columns = _columns(tmp_path / "s" / "cls_at_signal_strength_1.yaml")
    assert columns["Hypothesis"] == manifest.hypotheses
    assert columns[r"$m(\tilde{\tau})$"] == [manifest.values[n][0] for n in manifest.hypotheses]
    assert columns["Observed CLs"][-2:] == ["-", "-"]
    assert columns["Status of the fit"][-2:] == ["failed", "unfinished"]
    for name, found in zip(manifest.hypotheses[:-2], columns["Observed CLs"][:-2], strict=True):
        assert found == pytest.approx(results[name].CLs_obs, rel=1e-5)
    assert columns["Expected CLs, -1 sigma"][0] == pytest.approx(
        results[manifest.hypotheses[0]].CLs_exp[1], rel=1e-5
    )
    table = yaml.safe_load((tmp_path / "s" / "cls_at_signal_strength_1.yaml").read_text())
    masses = table["independent_variables"][1]["header"]
    assert masses == {"name": r"$m(\tilde{\tau})$", "units": "GeV"}
    qualifiers = {q["name"]: q["value"] for q in table["dependent_variables"][0]["qualifiers"]}
    assert qualifiers == {
        "Limit": "95% CL",
        "Signal strength": 1.0,
        "Test statistic": "q-tilde",
    }


def test_contours_are_the_numeric_ones(run, tmp_path):
    write_submission(*run, tmp_path / "s")
    contours = contour_lines(*run)
    for file, name in (
        ("observed_contour", "observed"),
        ("expected_contour_minus_1_sigma", "expected_minus_1_sigma"),
    ):
        x, y = list(_columns(tmp_path / "s" / f"{file}.yaml").values())[:2]
        expected = np.concatenate(contours.curve(name))
        assert np.column_stack([x, y]) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_separate_pieces_are_numbered(build_run, tmp_path):
    points = {
        f"S_{x:g}_{y:g}": ((x, y), 0.001 if abs(x - 300) > 150 else 0.6, None)
        for x in np.arange(0.0, 601.0, 100.0).tolist()
        for y in (0.0, 50.0, 100.0)
    }
    write_submission(*build_run(points), tmp_path / "s")
    columns = _columns(tmp_path / "s" / "observed_contour.yaml")
    assert sorted(set(columns["Piece of the contour"])) == [1, 2]
    assert _validate(tmp_path / "s") == (True, {})


def test_head_of_the_submission(run, tmp_path):
    write_submission(*run, tmp_path / "s")
    head, *tables = yaml.safe_load_all((tmp_path / "s" / "submission.yaml").read_text())
    links = [resource["location"] for resource in head["additional_resources"]]
    assert "https://www.hepdata.net/record/ins1234567" in links
    assert "https://example.org/x" in links
    assert "11 fits are valid" in head["comment"]
    assert "1 failed, 1 are not finished" in head["comment"]
    assert [table["name"] for table in tables] == [
        "CLs at signal strength 1",
        "Observed contour",
        "Expected contour",
        "Expected contour minus 1 sigma",
        "Expected contour plus 1 sigma",
    ]
    for table in tables:
        assert table["keywords"]
        for resource in table.get("additional_resources", []):
            assert (tmp_path / "s" / resource["location"]).is_file()


def test_one_mass_and_several_signal_strengths(build_run, tmp_path):
    points = {f"S_{x}": ((float(x),), 0.01 * x, None) for x in range(1, 9)}
    write_submission(*build_run(points, mu=(0.5, 1.0)), tmp_path / "s")
    assert _validate(tmp_path / "s") == (True, {})
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "cls_at_signal_strength_0.5.yaml",
        "cls_at_signal_strength_1.yaml",
        "submission.yaml",
    ]


def test_run_without_any_result(run, tmp_path):
    manifest, _ = run
    write_submission(manifest, {}, tmp_path / "s")
    assert _validate(tmp_path / "s") == (True, {})


def test_earlier_submission_is_replaced_and_nothing_else_is(run, tmp_path):
    manifest, results = run
    path = tmp_path / "s"
    write_submission(manifest, results, path)
    name = manifest.hypotheses[0]
    point = msgspec.structs.replace(results[name].points[0], CLs_obs=0.25)
    results = {**results, name: msgspec.structs.replace(results[name], points=[point])}
    write_submission(manifest, results, path)
    assert 0.25 in _columns(path / "cls_at_signal_strength_1.yaml")["Observed CLs"]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.tex").write_text("all of it")
    with pytest.raises(StoreError, match="not a HEPData submission"):
        write_submission(manifest, results, strange)
    assert (strange / "thesis.tex").read_text() == "all of it"
    with pytest.raises(StoreError, match="not a HEPData submission"):
        write_submission(manifest, results, strange / "thesis.tex")
    with pytest.raises(StoreError, match="cannot be written"):
        write_submission(manifest, results, tmp_path / "none" / "s")


def test_working_directory_is_left_alone(run, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    write_submission(*run, tmp_path / "s")
    assert not list((tmp_path / "cwd").iterdir())


@pytest.mark.published
@pytest.mark.parametrize("analysis", ["1Lbb", "staus"])
def test_published_analyses(published_runs, tmp_path, analysis):
    write_submission(*published_runs[analysis], tmp_path / "s.tar.gz")
    assert _validate(tmp_path / "s.tar.gz") == (True, {})


def _umask():
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
