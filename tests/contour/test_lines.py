"""Numeric contours against surfaces whose contour is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from fitserve.draw.curves import CURVES, Mesh, contour_lines, level_lines
from fitserve.draw.grid import ContourOptions, significance, threshold

LEVEL = threshold(0.95)
# The axes have different ranges on purpose: 1000 and 2.
SCALE = np.array([1000.0, 2.0])
CENTRE = np.array([0.45, 0.5])
RADIUS = 0.3


def _circle(points):
    """Return a significance that is LEVEL on a circle in the scaled plane."""
    return LEVEL + 8 * (RADIUS - np.linalg.norm(points / SCALE - CENTRE, axis=-1))


def _plane(points):
    return LEVEL + 3 * (points @ (1 / SCALE) - 0.9)


def _grid(kind, seed=1):
    rng = np.random.default_rng(seed)
    if kind == "regular":
        x, y = np.meshgrid(np.linspace(0, 1, 13), np.linspace(0, 1, 11))
        points = np.column_stack([x.ravel(), y.ravel()])
    elif kind == "scattered":
        points = np.vstack([rng.uniform(size=(140, 2)), [[0, 0], [0, 1], [1, 0], [1, 1]]])
    else:  # below a diagonal, and much denser at one side, as many mass grids are
        x, y = np.meshgrid(np.linspace(0, 1, 17) ** 1.5, np.linspace(0, 1, 13))
        points = np.column_stack([x.ravel(), y.ravel()])
        points = points[points[:, 1] <= points[:, 0] + 0.35]
    return points * SCALE


def _run(build_run, points, z):
    shifts = np.array([1.5, 0.75, 0.0, -0.75, -1.5])
    return build_run(
        {
            f"p{i}": (tuple(map(float, place)), float(ndtr(-at)), ndtr(-(at + shifts)).tolist())
            for i, (place, at) in enumerate(zip(points, z, strict=True))
        }
    )


@pytest.mark.parametrize("kind", ["regular", "scattered", "diagonal"])
@pytest.mark.parametrize(("interpolation", "tolerance"), [("linear", 0.03), ("smooth", 0.012)])
def test_circle_is_found(build_run, kind, interpolation, tolerance):
    points = _grid(kind)
    contours = contour_lines(
        *_run(build_run, points, _circle(points)), ContourOptions(interpolation=interpolation)
    )
    found = np.concatenate(contours.observed)
    radii = np.linalg.norm(found / SCALE - CENTRE, axis=1)
    assert np.abs(radii - RADIUS).max() < tolerance
    assert len(found) > 20
    # The shifts of the expected curves move the radius by a known amount.
    for name, shift in (
        ("expected", 0.0),
        ("expected_minus_1_sigma", 0.75),
        ("expected_plus_1_sigma", -0.75),
    ):
        line = np.concatenate(contours.curve(name))
        at = np.linalg.norm(line / SCALE - CENTRE, axis=1)
        assert np.abs(at - RADIUS - shift / 8).max() < tolerance


def test_closed_contour_is_one_closed_line(build_run):
    points = _grid("regular")
    (line,) = contour_lines(*_run(build_run, points, _circle(points))).observed
    assert line[0] == pytest.approx(line[-1])


@pytest.mark.parametrize("interpolation", ["linear", "smooth"])
def test_flat_surface_has_a_straight_contour(build_run, interpolation):
    points = _grid("scattered")
    contours = contour_lines(
        *_run(build_run, points, _plane(points)), ContourOptions(interpolation=interpolation)
    )
    found = np.concatenate(contours.observed)
    # Exact but for the range limit of each triangle, which is exact for a plane too.
    assert found @ (1 / SCALE) == pytest.approx(0.9, abs=1e-6)
    assert np.ptp(found[:, 0]) > 800


def test_scale_of_an_axis_does_not_matter(build_run):
    points = _grid("diagonal")
    z = _circle(points)
    small = contour_lines(*_run(build_run, points, z)).observed
    large = contour_lines(*_run(build_run, points * [1e-3, 1e6], z)).observed
    assert len(small) == len(large)
    for a, b in zip(small, large, strict=True):
        assert b / [1e-3, 1e6] == pytest.approx(a, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("interpolation", ["linear", "smooth"])
def test_surface_goes_through_the_points(interpolation):
    points = _grid("scattered")
    z = _circle(points)
    surface = Mesh(points).surface(z, interpolation, level=LEVEL)
    nodes = np.column_stack([surface.triangulation.x, surface.triangulation.y])
    for place, value in zip(points[::7], z[::7], strict=True):
        nearest = np.argmin(np.linalg.norm((nodes - place) / SCALE, axis=1))
        assert nodes[nearest] == pytest.approx(place, abs=1e-6)
        assert surface.values[nearest] == pytest.approx(value, abs=1e-6)


def test_extreme_cls_do_not_move_the_contour(build_run):
    points = _grid("regular")
    z = _circle(points)
    # Far from the contour CLs of 0 and 1, as fits without sensitivity or with all of it.
    z[z > LEVEL + 1.8] = np.inf
    z[z < LEVEL - 2.2] = -np.inf
    found = np.concatenate(contour_lines(*_run(build_run, points, z)).observed)
    assert np.isfinite(found).all()
    radii = np.linalg.norm(found / SCALE - CENTRE, axis=1)
    assert np.abs(radii - RADIUS).max() < 0.04


def test_nothing_crosses_a_hole(build_run):
    points = _grid("regular")
    manifest, results = _run(build_run, points, _circle(points))
    on_circle = np.argmin(np.abs(_circle(points) - LEVEL))
    name = f"p{on_circle}"
    del results[name]
    contours = contour_lines(manifest, results)
    holes = Mesh(points).holes(
        np.where(np.arange(len(points)) == on_circle, np.nan, contours.grid.cls_obs)
    )
    assert len(holes) >= 4
    for curve in CURVES:
        for line in contours.curve(curve):
            for triangle in holes:
                assert not _inside(line / SCALE, triangle / SCALE).any()
    whole = contour_lines(*_run(build_run, points, _circle(points)))
    assert _length(contours.observed) < 0.97 * _length(whole.observed)


def test_point_next_to_a_hole_is_not_lost(build_run):
    """A hole hides the triangles that touch it and no more."""
    points = _grid("regular")
    manifest, results = _run(build_run, points, _circle(points))
    corner = int(np.argmax(points.sum(axis=1)))
    del results[f"p{corner}"]
    with_hole = contour_lines(manifest, results).observed
    assert _length(with_hole) == pytest.approx(
        _length(contour_lines(*_run(build_run, points, _circle(points))).observed), rel=1e-3
    )


@settings(deadline=None, max_examples=40)
@given(
    z=st.lists(st.floats(-5, 5), min_size=30, max_size=30),
    seed=st.integers(0, 2**32 - 1),
    interpolation=st.sampled_from(["smooth", "linear"]),
)
def test_no_island_without_a_point(z, seed, interpolation):
    """Where no point is excluded nothing is, and where all are everything is."""
    points = np.random.default_rng(seed).uniform(size=(30, 2)) * SCALE
    mesh = Mesh(points)
    below = np.minimum(z, LEVEL - 1e-3)
    above = np.maximum(z, LEVEL + 1e-3)
    assert level_lines(mesh.surface(below, interpolation, level=LEVEL), LEVEL) == []
    assert level_lines(mesh.surface(above, interpolation, level=LEVEL), LEVEL) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_smooth_surface_stays_between_its_points(seed):
    """Where significance falls steeply the radial basis functions alone overshoot."""
    points = np.random.default_rng(seed).uniform(size=(60, 2)) * SCALE
    z = np.where(points[:, 0] > SCALE[0] / 2, LEVEL + 3, LEVEL - 1)
    surface = Mesh(points).surface(z, level=LEVEL)
    shown = surface.values[surface.triangulation.get_masked_triangles()]
    assert shown.min() >= z.min()
    assert shown.max() <= z.max()


def test_along_one_mass(build_run):
    masses = np.array([300.0, 100.0, 200.0, 400.0])
    z = LEVEL + (250 - masses) / 100
    manifest, results = _run(build_run, masses[:, None], z)
    contours = contour_lines(manifest, results)
    assert contours.grid.dimension == 1
    ((crossing,),) = contours.observed
    assert crossing == pytest.approx([250.0])
    ((less,),) = contours.expected_plus_1_sigma
    assert less == pytest.approx([175.0])
    # Without the point at 300 there is no telling where between 200 and 400 it crosses.
    del results["p0"]
    assert contour_lines(manifest, results).observed == []


def test_json_has_curves_and_points(build_run):
    points = _grid("regular")
    manifest, results = _run(build_run, points, _circle(points))
    del results["p5"]
    found = contour_lines(manifest, results).to_dict()
    assert found["confidence_level"] == 0.95
    assert [axis["label"] for axis in found["axes"]] == ["m1", "m2"]
    assert len(found["points"]) == len(points)
    assert found["points"][5]["status"] == "unfinished"
    assert found["points"][5]["CLs_obs"] is None
    assert len(found["observed"][0][0]) == 2


def test_significance_is_limited_and_keeps_holes():
    z = significance([0.05, 0.0, 1.0, np.nan, 1e-14])
    assert z[0] == pytest.approx(LEVEL)
    assert z[1] == z[4] == -z[2] == 5
    assert np.isnan(z[3])


@pytest.mark.published
@pytest.mark.parametrize(
    ("analysis", "at", "limits"),
    [
        # arXiv:1909.09226: masses up to 740 GeV for a massless neutralino.
        ("1Lbb", 0.0, [740.0]),
        # arXiv:1911.06660: from 120 to 390 GeV for a massless neutralino; this grid has 1 GeV.
        ("staus", 1.0, [120.0, 390.0]),
    ],
)
def test_published_limits(published_runs, analysis, at, limits):
    contours = contour_lines(*published_runs[analysis])
    ends = np.concatenate([line[[0, -1]] for line in contours.observed])
    found = np.sort(ends[np.isclose(ends[:, 1], at, atol=0.5), 0])
    assert found == pytest.approx(limits, abs=5)


def _inside(points, triangle):
    """Return which points lie inside a triangle and not on its edges."""
    a, b, c = triangle
    matrix = np.column_stack([b - a, c - a])
    along = np.linalg.solve(matrix, (points - a).T)
    return (along > 1e-6).all(axis=0) & (along.sum(axis=0) < 1 - 1e-6)


def _length(lines):
    return sum(np.linalg.norm(np.diff(line / SCALE, axis=0), axis=1).sum() for line in lines)


def test_only_what_the_contour_passes_is_smoothed(monkeypatch):
    """Four times the points have a contour that passes twice the triangles."""
    from scipy.interpolate import RBFInterpolator

    asked = []
    whole = RBFInterpolator.__call__

    def counted(self, places):
        asked.append(len(places))
        return whole(self, places)

    monkeypatch.setattr(RBFInterpolator, "__call__", counted)
    monkeypatch.setattr("fitserve.draw.curves._MOST_SUBDIVISIONS", 1)
    numbers = []
    for side in (12, 24):
        x, y = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
        points = np.column_stack([x.ravel(), y.ravel()]) * SCALE
        asked.clear()
        surface = Mesh(points).surface(_circle(points), level=LEVEL)
        assert level_lines(surface, LEVEL)
        numbers.append(sum(asked))
    assert 0 < numbers[1] < 3 * numbers[0]
