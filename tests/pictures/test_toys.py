"""The picture of toys: what is on it, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import yaml
from scipy.stats import chi2, norm

from fitserve.draw.curves import contour_lines
from fitserve.draw.style import figure_bytes
from fitserve.draw.toys import asymptotic_distribution, draw_toys
from fitserve.errors import InputError, RequestError
from fitserve.export.hepdata import write_submission
from fitserve_contract import (
    AsymptoticCLs,
    HypotestRequest,
    HypothesisResult,
    ToyDistribution,
    ToysAnswer,
    ToysRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve.runs.records import Manifest

NAME = "p_300_100"
EDGES = [0.0, 1.0, 2.0, 3.0, 4.0]
ANSWER = ToysAnswer(
    mu=1.0,
    asked=100,
    done=100,
    failed=1,
    positive=0,
    fits=400,
    observed=2.4,
    CLsb_obs=0.05,
    CLsb_obs_error=0.02,
    CLb_obs=0.5,
    CLb_obs_error=0.05,
    CLs_obs_error=0.041,
    CLsb_exp=[0.01, 0.02, 0.1, 0.3, 0.6],
    CLb_exp=[0.02, 0.16, 0.5, 0.84, 0.98],
    CLs_exp_error=[0.01, 0.01, 0.02, 0.03, 0.04],
    asymptotic=AsymptoticCLs(CLs_obs=0.11, CLs_exp=[0.01, 0.05, 0.134, 0.4, 0.7]),
    edges=EDGES,
    signal=ToyDistribution(zero=50, counts=[30, 10, 6, 3], beyond=0, failed=1),
    background=ToyDistribution(zero=5, counts=[15, 30, 25, 20], beyond=5, failed=0),
)
RESULT = HypothesisResult(
    name=NAME,
    key="k",
    mass_hypotheses=(300.0, 100.0),
    status="ok",
    reason=None,
    CLs_obs=0.1,
    CLs_exp=[0.01, 0.05, 0.2, 0.4, 0.7],
    fit_time=1.0,
    setup_time=0.1,
    engine="kernel",
    points=[],
    toys=ANSWER,
)


@pytest.fixture
def toys_manifest(build_run: Callable[..., tuple[Manifest, Any]]) -> Manifest:
    manifest, _ = build_run({NAME: ((300.0, 100.0), 0.1, None)})
    return msgspec.structs.replace(manifest, request=ToysRequest(toys=100))


def _texts(figure: Any) -> str:
    (axes,) = figure.axes
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    return "\n".join([*(text.get_text() for text in axes.texts), *legend])


def test_both_distributions_the_observed_value_and_the_asymptotics_are_drawn(
    toys_manifest: Manifest,
) -> None:
    figure = draw_toys(toys_manifest, {NAME: RESULT})
    (axes,) = figure.axes
    steps = [patch for patch in axes.patches if hasattr(patch, "get_data")]
    drawn = [patch.get_data() for patch in steps]
    assert any(np.array_equal(one.values, [50, 30, 10, 6, 3]) for one in drawn)
    assert any(np.array_equal(one.values, [5, 15, 30, 25, 20]) for one in drawn)
    # Those at zero are left of it.
    assert all(one.edges[0] < 0 == one.edges[1] for one in drawn)
    assert [segment[0][0] for line in axes.collections for segment in line.get_segments()] == [2.4]
    curves = [line for line in axes.lines if len(line.get_xdata()) == len(EDGES) - 1]
    assert len(curves) == 2
    root = -norm.ppf(0.134 / 2)
    signal, background = asymptotic_distribution(np.array(EDGES), root, "qtilde")
    np.testing.assert_allclose(curves[0].get_ydata(), 99 * signal[1:], rtol=1e-6)
    np.testing.assert_allclose(curves[1].get_ydata(), 100 * background[1:], rtol=1e-6)
    told = _texts(figure)
    assert "100 toys with signal, 100 without" in told
    assert "0.100 ± 0.041, asymptotic 0.11" in told
    assert "Observed (2.4)" in told
    assert "1 of 200 toys failed" in told


def test_the_picture_is_the_same_every_time_and_in_every_format(toys_manifest: Manifest) -> None:
    for kind in ("png", "svg", "pdf"):
        first, second = (
            figure_bytes(draw_toys(toys_manifest, {NAME: RESULT}), kind) for _ in range(2)
        )
        assert first == second


@pytest.mark.parametrize("root", [0.4, 1.0, 3.0])
def test_the_asymptotic_distributions_are_probabilities(root: float) -> None:
    edges = np.linspace(0, 120, 481)
    for test_stat in ("qtilde", "q"):
        for part in asymptotic_distribution(edges, root, test_stat):
            assert (part >= 0).all()
            assert part.sum() == pytest.approx(1, abs=1e-6)
    with_signal, without = asymptotic_distribution(edges, root, "q")
    # Half at zero, and half of a chi-square of one degree of freedom.
    np.testing.assert_allclose(with_signal[1:], np.diff(chi2.cdf(edges, 1)) / 2, atol=1e-12)
    assert without[0] == pytest.approx(norm.cdf(-root))


def test_q_tilde_has_its_tail_beyond_the_value_of_the_asimov_data() -> None:
    root = 1.2
    edges = np.array([0.0, root**2, 5.0])
    signal, _ = asymptotic_distribution(edges, root, "qtilde")
    assert signal[1] == pytest.approx((chi2.cdf(root**2, 1)) / 2)
    assert signal[:3].sum() == pytest.approx(norm.cdf((5.0 + root**2) / (2 * root)))


def test_what_cannot_be_drawn_is_refused(toys_manifest: Manifest) -> None:
    other = msgspec.structs.replace(toys_manifest, request=HypotestRequest())
    with pytest.raises(RequestError, match="needs a run with --toys"):
        draw_toys(other, {NAME: RESULT})
    failed = msgspec.structs.replace(RESULT, toys=None, status="failed", reason="no model")
    with pytest.raises(InputError, match="nothing to draw"):
        draw_toys(toys_manifest, {NAME: failed})


@pytest.mark.parametrize("kind", ["signal", "background"])
def test_few_toys_are_no_distribution(toys_manifest: Manifest, kind: str) -> None:
    two = ToyDistribution(zero=1, counts=[0, 1, 0, 0], beyond=0, failed=0)
    few = msgspec.structs.replace(RESULT, toys=msgspec.structs.replace(ANSWER, **{kind: two}))
    with pytest.raises(InputError, match="too few toys") as caught:
        draw_toys(toys_manifest, {NAME: few})
    assert caught.value.evidence.startswith("2 with a valid fit")
    assert "--toys 10000" in caught.value.hint


def test_a_doubtful_result_says_so(toys_manifest: Manifest) -> None:
    doubted = msgspec.structs.replace(RESULT, status="suspect", reason="9 of 200 toys failed")
    assert "SUSPECT: 9 of 200" in _texts(draw_toys(toys_manifest, {NAME: doubted}))


def test_no_toys_beyond_is_no_more_than_their_number_tells(toys_manifest: Manifest) -> None:
    places = {"p_1": 100.0, "p_2": 200.0, "p_3": 300.0}
    none = msgspec.structs.replace(ANSWER, CLs_obs_error=0.012)
    results = {
        name: msgspec.structs.replace(
            RESULT,
            name=name,
            mass_hypotheses=(place, 1.0),
            CLs_obs=cls,
            toys=none,
        )
        for (name, place), cls in zip(places.items(), (0.0, 0.03, 0.4), strict=True)
    }
    manifest = msgspec.structs.replace(
        toys_manifest,
        hypotheses=list(places),
        values={name: (place, 1.0) for name, place in places.items()},
    )
    grid = contour_lines(manifest, results).grid
    assert [float(value) for value in grid.cls_obs] == [0.012, 0.03, 0.4]
    assert results["p_1"].CLs_obs == 0


def test_a_hepdata_table_has_the_errors_of_toys(toys_manifest: Manifest, tmp_path: Path) -> None:
    write_submission(toys_manifest, {NAME: RESULT}, tmp_path / "hepdata")
    text = (tmp_path / "hepdata" / "cls_at_signal_strength_1.yaml").read_text()
    variables = {one["header"]["name"]: one for one in yaml.safe_load(text)["dependent_variables"]}
    observed, median = variables["Observed CLs"], variables["Expected CLs"]
    assert observed["values"][0]["errors"] == [{"label": "toys", "symerror": 0.041}]
    assert median["values"][0]["errors"] == [{"label": "toys", "symerror": 0.02}]
    assert {"name": "Toys", "value": 100} in observed["qualifiers"]
    description = (tmp_path / "hepdata" / "submission.yaml").read_text()
    assert "asymptotic" not in " ".join(description.split())
    assert "100 pseudo-experiments (toys) with signal" in " ".join(description.split())
