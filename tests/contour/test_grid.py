"""Which points make the picture, and what is refused."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from fitserve.draw.grid import ContourOptions, mass_grid
from fitserve.errors import InputError, RequestError


def _plane(extra=(), drop=()):
    points = {}
    for i, x in enumerate((100.0, 200.0, 300.0)):
        for j, y in enumerate((0.0, 50.0, 100.0)):
            points[f"p{i}{j}"] = ((x, y, *extra), 0.01 * (1 + i + 3 * j), None)
    return {name: point for name, point in points.items() if name not in drop}


def test_two_masses_that_vary_are_the_plane(build_run):
    grid = mass_grid(*build_run(_plane(extra=(60.0,))))
    assert grid.dimension == 2
    assert grid.labels == ("m1", "m2")
    assert grid.notes == ("m3 = 60",)
    assert grid.points.tolist()[:2] == [[100, 0], [100, 50]]
    assert grid.cls_exp.shape == (9, 5)


def test_axes_of_the_catalogue_are_the_titles(build_run):
    manifest, results = build_run(_plane(), axes=["$m_1$ [GeV]", "$m_2$ [GeV]"])
    assert mass_grid(manifest, results).titles == ("$m_1$ [GeV]", "$m_2$ [GeV]")
    swapped = mass_grid(manifest, results, ContourOptions(plane=("m2", "m1")))
    assert swapped.titles == ("$m_2$ [GeV]", "$m_1$ [GeV]")
    assert swapped.points[1].tolist() == [50, 100]


def test_states_and_holes(build_run):
    points = _plane()
    points["p00"] = (points["p00"][0], None, [None] * 5)
    manifest, results = build_run(points, unfinished={"late": (250.0, 25.0)})
    results["p01"] = msgspec.structs.replace(results["p01"], status="suspect", reason="doubt")
    grid = mass_grid(manifest, results)
    states = dict(zip(grid.names, grid.states, strict=True))
    assert (states["p00"], states["p01"], states["late"]) == ("failed", "suspect", "unfinished")
    known = dict(zip(grid.names, np.isfinite(grid.cls_obs), strict=True))
    assert not known["p00"]
    assert known["p01"]
    assert not known["late"]
    assert grid.points[grid.names.index("late")].tolist() == [250, 25]
    dropped = mass_grid(manifest, results, ContourOptions(drop_suspect=True))
    assert math.isnan(dropped.cls_obs[dropped.names.index("p01")])
    assert dropped.states[dropped.names.index("p01")] == "suspect"


def test_unfinished_without_mass_values_is_named(build_run):
    manifest, results = build_run(_plane(), unfinished={"late": (250.0, 25.0)})
    manifest = msgspec.structs.replace(manifest, values={})
    assert mass_grid(manifest, results).unplaced == ("late",)


def _dependent(drop=()):
    points = _plane(drop=drop)
    return {n: ((x, y + 130.0, y), obs, exp) for n, ((x, y), obs, exp) in points.items()}


def test_a_mass_that_depends_on_another_leaves_a_plane(build_run):
    run = build_run(_dependent())
    grid = mass_grid(*run)
    assert grid.labels == ("m1", "m2")
    assert grid.notes == ("m3 = m2 \N{MINUS SIGN} 130",)
    assert grid.points.tolist()[:2] == [[100, 130], [100, 180]]
    other = mass_grid(*run, ContourOptions(plane=("m1", "m3")))
    assert other.labels == ("m1", "m3")
    assert other.notes == ("m2 = m3 + 130",)
    assert other.points.tolist()[:2] == [[100, 0], [100, 50]]
    assert other.cls_obs.tolist() == grid.cls_obs.tolist()
    with pytest.raises(RequestError, match="m1 varies too, so that points of this plane coincide"):
        mass_grid(*run, ContourOptions(plane=("m2", "m3")))


def test_a_mass_in_the_middle_depends_on_two_and_may_be_rounded(build_run):
    points = {}
    for name, ((x, y), obs, exp) in _plane().items():
        low = y + (y == 50)
        points[name] = ((x, float(round((x + low) / 2)), low), obs, exp)
    grid = mass_grid(*build_run(points))
    assert grid.labels == ("m1", "m3")
    assert grid.notes == ("m2 is about 0.5 m1 + 0.5 m3",)


def test_a_plane_is_drawn_where_no_points_coincide_whatever_the_others_do(build_run):
    points = {}
    for i, (name, ((x, y), obs, exp)) in enumerate(_plane().items()):
        points[name] = ((x, y, float((7 * i) % 5)), obs, exp)
    run = build_run(points)
    with pytest.raises(RequestError, match="3 mass values vary"):
        mass_grid(*run)
    grid = mass_grid(*run, ContourOptions(plane=("m1", "m2")))
    assert grid.points.tolist()[:2] == [[100, 0], [100, 50]]
    assert grid.notes == ("m3 varies from 0 to 4",)


def test_three_points_are_on_a_plane_by_chance(build_run):
    points = {
        "a": ((1.0, 5.0, 9.0), 0.1, None),
        "b": ((2.0, 3.0, 1.0), 0.1, None),
        "c": ((4.0, 4.0, 2.0), 0.1, None),
    }
    with pytest.raises(RequestError, match="3 mass values vary"):
        mass_grid(*build_run(points))


def test_masses_that_all_depend_on_one_are_a_line(build_run):
    points = {f"p{x}": ((float(x), x + 130.0, 2.0 * x), 0.1, None) for x in (1, 2, 3, 5)}
    grid = mass_grid(*build_run(points))
    assert grid.dimension == 1
    assert "m3 = 2 m1" in grid.notes


def test_several_planes_need_a_choice(build_run):
    points = {
        f"{name}-{z}": ((*values, z), obs, exp)
        for z in (1.0, 2.0)
        for name, (values, obs, exp) in _plane().items()
    }
    run = build_run(points)
    with pytest.raises(RequestError, match="3 mass values vary") as caught:
        mass_grid(*run)
    assert "--plane m1,m2" in caught.value.hint
    with pytest.raises(RequestError, match="m3 varies too") as caught:
        mass_grid(*run, ContourOptions(plane=("m1", "m2")))
    assert "--at m3=1" in caught.value.hint
    grid = mass_grid(*run, ContourOptions(plane=("m1", "m2"), at={"m3": "2"}))
    assert all(name.endswith("2.0") for name in grid.names)
    assert grid.notes == ("m3 = 2",)
    with pytest.raises(RequestError, match="no hypothesis has m3 = 5"):
        mass_grid(*run, ContourOptions(at={"m3": 5}))
    with pytest.raises(RequestError, match="no mass value called m9"):
        mass_grid(*run, ContourOptions(plane=("m1", "m9")))


def test_words_among_the_values(build_run):
    points = {
        f"{kind}-{name}": ((kind, *values), obs, exp)
        for kind in ("left", "right")
        for name, (values, obs, exp) in _plane().items()
    }
    run = build_run(points)
    grid = mass_grid(*run, ContourOptions(at={"m1": "left"}))
    assert grid.labels == ("m2", "m3")
    assert grid.notes == ("m1 = left",)
    with pytest.raises(RequestError, match="m1 is not a number"):
        mass_grid(*run, ContourOptions(plane=("m1", "m2"), at={"m3": 0}))


def test_numbers_spelled_as_strings(build_run):
    points = {
        name: (tuple(str(value) for value in values), obs, exp)
        for name, (values, obs, exp) in _plane().items()
    }
    assert mass_grid(*build_run(points)).points[0].tolist() == [100, 0]


@pytest.mark.parametrize("slope", [1.0, 0.37])
def test_points_on_a_line_are_one_dimensional(build_run, slope):
    points = {f"p{x}": ((x, slope * x - 125.0), 0.04, None) for x in (200.0, 300.0, 450.0)}
    grid = mass_grid(*build_run(points))
    assert grid.dimension == 1
    assert "one line" in grid.notes[0]


def test_two_points_are_one_dimensional(build_run):
    points = {"a": ((1.0, 2.0), 0.01, None), "b": ((2.0, 1.0), 0.2, None)}
    assert mass_grid(*build_run(points)).dimension == 1


def test_signal_strength(build_run):
    manifest, results = build_run(_plane(), mu=(0.5, 1.0, 2.0))
    name = "p00"
    result = results[name]
    changed = [msgspec.structs.replace(p, CLs_obs=0.1 * p.mu) for p in result.points]
    results[name] = msgspec.structs.replace(result, points=changed, CLs_obs=0.05)
    # The exclusion of a hypothesis is at its own signal strength, one.
    assert mass_grid(manifest, results).cls_obs[0] == pytest.approx(0.1)
    assert mass_grid(manifest, results, ContourOptions(mu=0.5)).cls_obs[0] == 0.05
    assert mass_grid(manifest, results, ContourOptions(mu=2)).mu == 2
    with pytest.raises(RequestError, match="no CLs at mu = 3") as caught:
        mass_grid(manifest, results, ContourOptions(mu=3))
    assert "0.5, 1, 2" in caught.value.evidence


def test_one_point_is_refused(build_run):
    with pytest.raises(RequestError, match="one point"):
        mass_grid(*build_run({"only": ((100.0, 1.0), 0.01, None)}))


def test_nothing_valid_is_refused(build_run):
    points = {name: (values, None, [None] * 5) for name, (values, _, _) in _plane().items()}
    with pytest.raises(InputError, match="no hypothesis of the run has a valid CLs"):
        mass_grid(*build_run(points))
    manifest, _ = build_run(_plane())
    with pytest.raises(InputError, match="no hypothesis"):
        mass_grid(manifest, {})


def test_coincident_points_are_refused(build_run):
    points = {**_plane(), "twin": ((100.0, 0.0), 0.5, None)}
    with pytest.raises(RequestError, match="same point") as caught:
        mass_grid(*build_run(points))
    assert "p00 and twin" in caught.value.evidence
