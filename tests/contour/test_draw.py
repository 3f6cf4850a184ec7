"""What a picture shows, and that it hides nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import msgspec
import numpy as np
import pytest
from scipy.special import ndtr

from fitserve.draw.contour import draw_contour
from fitserve.draw.curves import contour_lines
from fitserve.draw.grid import ContourOptions, threshold
from fitserve.draw.style import figure_bytes, save_figure
from fitserve.errors import InputError, RequestError, StoreError

LEVEL = threshold(0.95)


def _points(level=0.0, step=100.0):
    """Return a grid whose excluded corner is at low masses."""
    points = {}
    for x in np.arange(100.0, 801.0, step):
        for y in np.arange(0.0, 401.0, step):
            z = LEVEL + level + (900 - x - 1.5 * y) / 200
            shifts = np.array([2.0, 1.0, 0.0, -1.0, -2.0])
            points[f"S_{x:g}_{y:g}"] = ((x, y), float(ndtr(-z)), ndtr(-z - shifts).tolist())
    return points


def _legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def _curves(figure):
    """Return lines with more than two points: not markers, which have no line."""
    return [line for line in figure.axes[0].lines if line.get_linestyle() != "None"]


def test_curves_drawn_are_the_numeric_ones(build_run):
    run = build_run(_points())
    figure = draw_contour(*run)
    contours = contour_lines(*run)
    drawn = [np.column_stack(line.get_data()) for line in _curves(figure)]
    expected = [*contours.expected, *contours.observed]
    assert len(drawn) == len(expected) == 2
    for a, b in zip(drawn, expected, strict=True):
        assert a == pytest.approx(b)


def test_band_is_between_the_shifted_contours(build_run):
    run = build_run(_points())
    figure = draw_contour(*run)
    (band,) = [c for c in figure.axes[0].collections if c.get_paths()]
    (path,) = band.get_paths()
    contours = contour_lines(*run)
    for name in ("expected_minus_1_sigma", "expected_plus_1_sigma"):
        (line,) = contours.curve(name)
        # Every vertex of both contours is on the edge of the filled region.
        for vertex in line[::20]:
            assert np.linalg.norm(path.vertices - vertex, axis=1).min() < 2.0
    assert path.contains_point(contours.expected[0][len(contours.expected[0]) // 2])


def test_every_kind_of_point_is_in_the_legend(build_run):
    points = _points()
    names = list(points)
    manifest, results = build_run(points)
    for name, changes in (
        (names[0], {"status": "suspect", "reason": "doubt"}),
        (names[-1], {"status": "suspect", "reason": "doubt"}),
        (names[12], {"status": "failed", "CLs_obs": None, "CLs_exp": []}),
    ):
        results[name] = msgspec.structs.replace(results[name], **changes)
    del results[names[20]]
    texts = _legend(draw_contour(manifest, results))
    assert "Suspect, excluded (1)" in texts
    assert "Suspect, not excluded (1)" in texts
    assert "Failed (1)" in texts
    assert "Not finished (1)" in texts
    assert "Not interpolated: next to a hole" in texts
    counts = {text.rsplit(" (", 1)[0]: int(text[:-1].rsplit("(", 1)[1]) for text in texts[2:-1]}
    assert sum(counts.values()) == len(points)
    dropped = _legend(draw_contour(manifest, results, ContourOptions(drop_suspect=True)))
    assert "Suspect, left out (2)" in dropped


def test_fillings_and_shapes_differ_without_colour(build_run):
    points = _points()
    names = list(points)
    manifest, results = build_run(points)
    for name, changes in (
        (names[0], {"status": "suspect", "reason": "doubt"}),
        (names[12], {"status": "failed", "CLs_obs": None, "CLs_exp": []}),
    ):
        results[name] = msgspec.structs.replace(results[name], **changes)
    del results[names[20]]
    markers = {
        (line.get_marker(), line.get_fillstyle(), line.get_markerfacecolor() == "white")
        for line in draw_contour(manifest, results).axes[0].lines
        if line.get_linestyle() == "None"
    }
    assert len(markers) == 5


@pytest.mark.parametrize("entries", [0, 4])
def test_legend_and_title_hide_no_point(build_run, tmp_path, entries):
    manifest, results = build_run(_points(), title="A title that is rather long " * 5)
    references = {}
    for number in range(entries):
        file = tmp_path / f"{number}.csv"
        file.write_text(f"x,y\n100,{400 + number}\n800,{410 + number}\n")
        references[f"reference {number}"] = file
    figure = draw_contour(manifest, results, ContourOptions(references=references))
    figure.draw_without_rendering()  # only now do the axis titles have their places
    axes = figure.axes[0]
    renderer = figure.canvas.get_renderer()
    highest = 410 + entries if entries else 400
    pixel = axes.transData.transform((0, highest))[1]
    assert axes.get_legend().get_window_extent(renderer).y0 > pixel
    for text in axes.texts:
        box = text.get_window_extent(renderer)
        assert box.y0 > pixel
        assert box.x1 <= figure.bbox.x1
    for label in (axes.xaxis.label, axes.yaxis.label):
        box = label.get_window_extent(renderer)
        assert figure.bbox.x0 <= box.x0
        assert figure.bbox.y0 <= box.y0
        assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("level", "words"), [(-20.0, "no point excluded"), (20.0, "all points excluded")]
)
def test_nothing_or_everything_excluded_is_said(build_run, level, words):
    figure = draw_contour(*build_run(_points(level=level)))
    assert not _curves(figure)
    texts = _legend(figure)
    assert words in texts[0]
    assert words in texts[1]


def test_too_few_valid_points_for_a_contour(build_run):
    points = _points(step=350.0)
    for name in list(points)[1:]:
        points[name] = (points[name][0], None, [None] * 5)
    texts = _legend(draw_contour(*build_run(points)))
    assert texts[0] == "Observed limit: too few valid points"


@pytest.mark.parametrize("format_", ["png", "pdf", "svg"])
def test_same_run_has_the_same_bytes(build_run, tmp_path, format_):
    run = build_run(_points())
    files = [tmp_path / f"{i}.{format_}" for i in range(2)]
    for file in files:
        save_figure(draw_contour(*run), file)
    first, second = (file.read_bytes() for file in files)
    assert first == second
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[format_]
    assert first.startswith(start)
    assert not re.search(rb"20\d\d-\d\d-\d\d", first)


def test_hostile_titles_stay_text(build_run):
    text = "<script>alert(1)</script> --> $\\nosuchcommand$ & 50% _^{"
    manifest, results = build_run(
        _points(), title=text, labels=["$m_{1", "m2 --> <b>"], axes=[], references={text: text}
    )
    svg = figure_bytes(draw_contour(manifest, results), "svg")
    tags = {element.tag.rsplit("}", 1)[1] for element in ET.fromstring(svg).iter()}  # noqa: S314
    assert "script" not in tags
    assert "b" not in tags


def test_axis_titles(build_run):
    manifest, results = build_run(
        _points(), labels=["m1", "m2"], axes=[r"m(\tilde{g})", r"$\nosuchcommand$"]
    )
    axes = draw_contour(manifest, results).axes[0]
    assert axes.get_xlabel() == r"$m(\tilde{g})$"
    assert axes.get_ylabel() == "m2"
    chosen = draw_contour(manifest, results, ContourOptions(x="mine", y="$y$")).axes[0]
    assert (chosen.get_xlabel(), chosen.get_ylabel()) == ("mine", "$y$")
    with pytest.raises(RequestError, match="axis title"):
        draw_contour(manifest, results, ContourOptions(x="$broken"))


def test_signal_strength_other_than_one_is_said(build_run):
    figure = draw_contour(*build_run(_points(), mu=(0.5,)))
    assert any(r"$\mu$ = 0.5" in text.get_text() for text in figure.axes[0].texts)


def test_along_one_mass(build_run, tmp_path):
    points = {
        f"S_{x}": ((float(x), 60.0), float(ndtr(-z)), ndtr(-z - np.arange(2, -3, -1)).tolist())
        for x, z in ((100, 7.0), (200, 4.0), (300, 2.0), (400, 0.5), (500, -0.5))
    }
    manifest, results = build_run(points)
    results["S_500"] = msgspec.structs.replace(
        results["S_500"], status="failed", CLs_obs=None, CLs_exp=[None] * 5
    )
    figure = draw_contour(manifest, results)
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    assert "Failed (1)" in _legend(figure)
    assert any("m2 = 60" in text.get_text() for text in axes.texts)
    observed = next(line for line in axes.lines if line.get_linewidth() == 2.4)
    x, y = observed.get_data()
    assert y[np.isclose(x, 300)] == pytest.approx(ndtr(-2.0))
    # The limit in the picture is where the numbers say: between the points, in significance.
    ((limit,),) = contour_lines(manifest, results).observed
    assert np.interp(limit[0], x, y) == pytest.approx(0.05, rel=0.05)
    assert np.isnan(y[x > 410]).all()
    assert axes.get_legend().get_window_extent().y0 > axes.transData.transform((0, 1.0))[1]
    reference = tmp_path / "line.csv"
    reference.write_text("x,y\n1,2\n3,4\n")
    with pytest.raises(RequestError, match="one mass"):
        draw_contour(manifest, results, ContourOptions(references={"a": reference}))


@pytest.mark.parametrize("valid", [1, 2, 3])
def test_a_curve_is_not_drawn_through_two_points(build_run, valid):
    points = {
        f"S_{x}": ((float(x), 60.0), 0.1 if number < valid else None, None)
        for number, x in enumerate((100, 200, 300))
    }
    run = build_run(points)
    if valid == 3:
        assert draw_contour(*run).axes
        return
    with pytest.raises(InputError, match="too few points for a curve along m1") as caught:
        draw_contour(*run)
    assert caught.value.evidence.startswith(f"{valid} with a valid number")


def test_unknown_format_and_unwritable_output(build_run, tmp_path):
    figure = draw_contour(*build_run(_points(step=200.0)))
    with pytest.raises(RequestError, match="format is not known"):
        save_figure(figure, tmp_path / "contour.jpg")
    with pytest.raises(StoreError) as caught:
        save_figure(figure, tmp_path / "none" / "contour.png")
    assert "mkdir" in caught.value.hint
    with pytest.raises(StoreError):
        save_figure(figure, tmp_path / "file.png" / "contour.png")


def test_link_is_followed_and_device_is_left_alone(build_run, tmp_path):
    figure = draw_contour(*build_run(_points(step=200.0)))
    target = tmp_path / "target.png"
    target.write_bytes(b"old")
    link = tmp_path / "link.png"
    link.symlink_to(target)
    save_figure(figure, link)
    assert link.is_symlink()
    assert target.read_bytes().startswith(b"\x89PNG")
    full = tmp_path / "full.png"
    full.symlink_to("/dev/full")
    with pytest.raises(StoreError, match="cannot be written"):
        save_figure(figure, full)


@pytest.mark.published
@pytest.mark.parametrize("analysis", ["1Lbb", "staus"])
def test_published_analyses(published_runs, analysis):
    manifest, results = published_runs[analysis]
    figure = draw_contour(manifest, results)
    texts = _legend(figure)
    assert texts[:2] == ["Observed limit", r"Expected limit ($\pm\mathrm{1}\,\sigma$)"]
    assert figure.axes[0].get_xlabel() == manifest.pallet.axes[0]


def test_many_points_are_small_and_few_bytes(build_run, monkeypatch):
    run = build_run(_points())
    vector = figure_bytes(draw_contour(*run), "svg")
    monkeypatch.setattr("fitserve.draw.frame._MANY", 4)
    axes = draw_contour(*run).axes[0]
    many = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) > 4]
    assert many
    assert all(line.get_rasterized() and line.get_markersize() < 3.8 for line in many)
    pixels = figure_bytes(draw_contour(*run), "svg")
    assert pixels.count(b"<use ") < vector.count(b"<use ")
