"""Contours of others: every format that is read, and what is refused."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import yaml
from scipy.special import ndtr

from fitserve.draw.contour import draw_contour
from fitserve.draw.curves import contour_lines
from fitserve.draw.grid import ContourOptions, threshold
from fitserve.draw.reference import read_reference
from fitserve.errors import FitserveError, InputError
from fitserve.export import to_json
from fitserve.export.hepdata import write_submission

LEVEL = threshold(0.95)
LINE = np.array([[100.0, 0.0], [200.0, 50.0], [300.0, 20.0]])


@pytest.fixture(scope="module")
def run(build_run):
    points = {}
    for x in (100.0, 200.0, 300.0, 400.0):
        for y in (0.0, 50.0, 100.0):
            z = LEVEL + (250 - x) / 100
            points[f"S_{x:g}_{y:g}"] = ((x, y), float(ndtr(-z)), [float(ndtr(-z))] * 5)
    return build_run(points)


def _read(path, run, **options):
    return read_reference(path, "theirs", *run, ContourOptions(**options)).lines


def _yaml(independent, dependent):
    def column(name, values):
        return {"header": {"name": name}, "values": values}

    return yaml.safe_dump(
        {
            "independent_variables": [column(*one) for one in independent],
            "dependent_variables": [column(*one) for one in dependent],
        }
    )


def _cells(values):
    return [{"value": float(value)} for value in values]


def test_results_are_contoured_at_the_strength_and_level_of_the_picture(run, tmp_path):
    manifest, results = run
    # Another run of the same hypotheses, whose first strength is another.
    points = {
        name: [msgspec.structs.replace(one.points[0], mu=0.5, CLs_obs=0.9), one.points[0]]
        for name, one in results.items()
    }
    other = {
        name: msgspec.structs.replace(one, CLs_obs=0.9, points=points[name])
        for name, one in results.items()
    }
    path = tmp_path / "other.json"
    path.write_bytes(to_json(other))
    ours = contour_lines(manifest, results).observed
    assert [line.tolist() for line in _read(path, run)] == [line.tolist() for line in ours]
    loose = contour_lines(manifest, results, ContourOptions(level=0.8)).observed
    assert [line.tolist() for line in _read(path, run, level=0.8)] == [
        line.tolist() for line in loose
    ]
    assert loose[0].tolist() != ours[0].tolist()


@pytest.mark.parametrize(
    ("written", "label"),
    [({}, "theirs"), ({"mu": 1.0}, "theirs"), ({"mu": 2.0}, "theirs (95% CL, mu = 2)")],
)
def test_our_own_json_says_where_it_is_of_another_strength(run, tmp_path, written, label):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"confidence_level": 0.95, "observed": [LINE.tolist()], **written}))
    assert read_reference(path, "theirs", *run, ContourOptions()).label == label


FORMATS = {
    "xy.csv": "x,y\n100,0\n200,50\n300,20\n",
    "swapped.csv": "# made by hand\ny , x\n0,100\n50,200\n20,300\n",
    "unnamed.csv": "100,0,7\n200,50,7\n300,20,7\n",
    "hepdata.csv": '#: name: Contour\n"M(C1) [GeV]","M(N1) [GeV]"\n100.0,0.0\n200.0,50\n300,20\n',
    "list.json": json.dumps([{"x": x, "y": y} for x, y in LINE.tolist()]),
    "pairs.json": json.dumps(LINE.tolist()),
    "columns.json": json.dumps({"x": LINE[:, 0].tolist(), "y": LINE[:, 1].tolist()}),
    "ours.json": json.dumps({"confidence_level": 0.95, "observed": [LINE.tolist()]}),
    "contour.yaml": _yaml([("M1", _cells(LINE[:, 0]))], [("M2", _cells(LINE[:, 1]))]),
    "two.yaml": _yaml(
        [("M1", _cells(LINE[:, 0])), ("M2", _cells(LINE[:, 1]))], [("dummy", _cells([1, 1, 1]))]
    ),
    "bins.yaml": _yaml(
        [("M1", [{"low": x - 10, "high": x + 10} for x in LINE[:, 0].tolist()])],
        [("M2", _cells(LINE[:, 1]))],
    ),
    "downloaded.json": json.dumps(
        {
            "headers": [{"name": "M1"}, {"name": "M2"}],
            "values": [
                {"x": [{"value": str(x)}], "y": [{"value": str(y), "group": 0}]}
                for x, y in LINE.tolist()
            ],
        }
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(tmp_path, run, name):
    path = tmp_path / name
    path.write_text(FORMATS[name])
    (line,) = _read(path, run)
    assert line == pytest.approx(LINE)


def test_separate_pieces(tmp_path, run):
    path = tmp_path / "pieces.csv"
    path.write_text("x,y\n1,1\n2,2\n\nx,y\n5,5\n6,6\n7,7\n")
    first, second = _read(path, run)
    assert first.tolist() == [[1, 1], [2, 2]]
    assert len(second) == 3
    path = tmp_path / "pieces.yaml"
    path.write_text(
        _yaml(
            [("M1", _cells([1, 2, 5, 6]))],
            [("M2", _cells([1, 2, 5, 6])), ("Piece of the contour", _cells([1, 1, 2, 2]))],
        )
    )
    assert [len(line) for line in _read(path, run)] == [2, 2]


def test_results_are_contoured(tmp_path, run):
    manifest, results = run
    expected = contour_lines(manifest, results).observed
    path = tmp_path / "results.json"
    path.write_bytes(to_json(results))
    assert np.concatenate(_read(path, run)) == pytest.approx(np.concatenate(expected))


def test_reference_values_are_placed_by_the_run(tmp_path, run):
    """Files that know hypotheses by name only take the masses from the run under them."""
    _, results = run
    path = tmp_path / "reference.json"
    values = {name: {"CLs_obs": r.CLs_obs, "CLs_exp": r.CLs_exp} for name, r in results.items()}
    path.write_text(json.dumps({"made_with": "pyhf", "hypotheses": values}))
    found = np.concatenate(_read(path, run))
    assert found[:, 0] == pytest.approx(250, abs=3)
    path.write_text(json.dumps({"hypotheses": {"unknown": {"CLs_obs": 0.1, "CLs_exp": []}}}))
    with pytest.raises(InputError, match="no place"):
        _read(path, run)


def test_run_directory(tmp_path, run, save_run):
    saved = save_run(tmp_path / "other", *run)
    assert np.concatenate(_read(saved.path, run))[:, 0] == pytest.approx(250, abs=3)


def test_grid_of_cls_from_hepdata(tmp_path, run):
    manifest, results = run
    write_submission(manifest, results, tmp_path / "hepdata")
    line = np.concatenate(_read(tmp_path / "hepdata" / "observed_contour.yaml", run))
    assert line[:, 0] == pytest.approx(250, abs=3)
    _, results = run
    points = [r.mass_hypotheses for r in results.values()]
    path = tmp_path / "cls.yaml"
    path.write_text(
        _yaml(
            [("M1", _cells(p[0] for p in points)), ("M2", _cells(p[1] for p in points))],
            [("Observed CLs", _cells(r.CLs_obs for r in results.values()))],
        )
    )
    assert np.concatenate(_read(path, run))[:, 0] == pytest.approx(250, abs=3)


def test_overlay_is_drawn_and_named(tmp_path, run):
    path = tmp_path / "theirs.csv"
    path.write_text(FORMATS["xy.csv"])
    figure = draw_contour(*run, ContourOptions(references={"Published $x_1$ & Co": path}))
    axes = figure.axes[0]
    assert "Published $x_1$ & Co" in [t.get_text() for t in axes.get_legend().get_texts()]
    drawn = [np.column_stack(line.get_data()) for line in axes.lines]
    assert any(line.shape == LINE.shape and np.allclose(line, LINE) for line in drawn)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", ""),
        ("words.csv", "a,b\nc,d\n"),
        ("one.csv", "x,y\n1,2\n"),
        ("hole.csv", "x,y\n1,2\n3,nan\n4,5\n"),
        ("binary.csv", b"\xff\xfe\x00\x01"),
        ("broken.json", "{"),
        ("number.json", "7"),
        ("other.json", '{"a": 1}'),
        ("nothing.json", "{}"),
        ("lists.json", '[{"x": 1}]'),
        ("deep.json", "[" * 100_000),
        ("ours.json", '{"confidence_level": 0.95, "observed": [[[1.0]]]}'),
        ("none.json", '{"confidence_level": 0.95, "observed": []}'),
        ("headers.json", '{"headers": [], "values": []}'),
        ("broken.yaml", "a: [1"),
        ("other.yaml", "a: 1"),
        ("list.yaml", "- 1"),
        ("python.yaml", "!!python/object/apply:os.getcwd []"),
        ("columns.yaml", _yaml([("M1", _cells([1, 2]))], [])),
        ("picture.png", b"\x89PNG"),
        ("noname", "x,y\n1,2\n"),
    ],
)
def test_unusable_files(tmp_path, run, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        _read(path, run)
    assert str(path) in caught.value.evidence


def test_missing_file_and_directory_of_something_else(tmp_path, run):
    with pytest.raises(InputError):
        _read(tmp_path / "missing.csv", run)
    with pytest.raises(FitserveError, match="not a run directory"):
        _read(tmp_path, run)
