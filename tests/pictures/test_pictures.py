"""Pictures of limits, scans, fits and rankings: what is on them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from fitserve.cli import cli
from fitserve.draw.grid import ContourOptions
from fitserve.draw.limits import draw_limits
from fitserve.draw.pulls import draw_correlations, draw_pulls
from fitserve.draw.ranking import draw_ranking
from fitserve.draw.scan import draw_scan
from fitserve.draw.style import figure_bytes
from fitserve.draw.yields import draw_yields
from fitserve.errors import InputError, RequestError
from fitserve_contract import (
    ChannelYields,
    Correlations,
    FitAnswer,
    FitRequest,
    FittedParameter,
    HypothesisResult,
    Impact,
    LimitRequest,
    MuPoint,
    RankingAnswer,
    RankingRequest,
    Request,
    SampleYields,
    ScanRequest,
    UpperLimits,
    Yields,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitserve.runs.records import Manifest

    Run = tuple[Manifest, dict[str, HypothesisResult]]

NAME = "p_300_100"


def _limit(mass: float, bound: float = 10.0) -> UpperLimits:
    median = (mass / 500) ** 3
    values = [0.9 * median, *(median * f for f in (0.5, 0.7, 1.0, 1.4, 2.0))]
    shown = [value if value < bound else None for value in values]
    reasons = {} if shown[0] is not None else {"observed": f"above the POI's bound of {bound:g}"}
    return UpperLimits(level=0.95, observed=shown[0], expected=shown[1:], reasons=reasons)


def _parameter(name: str, bestfit: float = 0.3, **changes: Any) -> FittedParameter:
    fields = {"uncertainty": 0.9, "prefit": 0.0, "prefit_uncertainty": 1.0} | changes
    width = fields["prefit_uncertainty"]
    if width and fields["uncertainty"]:
        fields |= {"pull": bestfit / width, "constraint": fields["uncertainty"] / width}
    return FittedParameter(name=name, bestfit=bestfit, **fields)


POI = _parameter("mu", 0.7, prefit_uncertainty=None)
FIT = FitAnswer(
    poi="mu",
    parameters=[
        POI,
        _parameter("jes"),
        _parameter("b_tag", -4.2),
        _parameter("x$y", 0.1),
        _parameter("held", 1.0, uncertainty=None, prefit_uncertainty=None, fixed=True),
    ],
    correlations=Correlations(names=["mu", "jes", "b_tag"], lower=[[], [-0.6], [0.02, 0.0]]),
    channels=[
        ChannelYields(
            name=name,
            data=data,
            total=Yields(
                prefit=total, prefit_uncertainty=[1.0] * len(data),
                postfit=total, postfit_uncertainty=[0.5] * len(data),
            ),
            samples=[
                SampleYields(
                    name="top",
                    yields=Yields(
                        prefit=total, prefit_uncertainty=[1.0] * len(data),
                        postfit=total, postfit_uncertainty=[0.5] * len(data),
                    ),
                )
            ],
        )
        for name, data, total in (
            ("SR", [3.0, 0.0, 9.0], [2.5, 0.4, 4.0]),
            ("CR", [900.0], [890.0]),
        )
    ],
)  # fmt: skip
RANKING = RankingAnswer(
    poi=POI,
    impacts=[
        Impact(
            parameter=_parameter(f"np_{i}"),
            postfit_up=0.2 / (i + 1),
            postfit_down=-0.2 / (i + 1),
            prefit_up=0.25 / (i + 1),
            prefit_down=None,
        )
        for i in range(5)
    ],
)
POINTS = [
    MuPoint(
        mu=mu, CLs_obs=float(np.exp(-2 * mu)),
        CLs_exp=[float(np.exp(-k * mu)) for k in (4, 3, 2, 1.5, 1)],
        twice_delta_nll=mu**2, status=status,
    )
    for mu, status in ((0.0, "ok"), (1.0, "ok"), (2.0, "suspect"), (3.0, "failed"))
]  # fmt: skip


@pytest.fixture
def run_of(build_run: Callable) -> Callable[..., Run]:
    """Return a function that makes a run of a plane for a request."""

    def make(request: Request, **fields: Any) -> Run:
        places = {
            f"p_{x}_{y}": ((float(x), float(y)), 0.01 if x < 500 else 0.5, None)
            for x in (300, 400, 500, 600, 700)
            for y in (0, 100, 200)
        }
        manifest, results = build_run(places)
        changed = {
            name: msgspec.structs.replace(
                result,
                **fields,
                limit=_limit(result.mass_hypotheses[0], bound=2.0)
                if isinstance(request, LimitRequest)
                else None,
            )
            for name, result in results.items()
        }
        return msgspec.structs.replace(manifest, request=request), changed

    return make


def _texts(figure: Any) -> str:
    import matplotlib.text

    return "\n".join(one.get_text() for one in figure.findobj(matplotlib.text.Text))


def test_the_map_has_every_limit_at_its_place(run_of: Callable[..., Run]) -> None:
    figure = draw_limits(*run_of(LimitRequest()))
    axes = figure.axes[0]
    written = {one.get_position(): one.get_text() for one in axes.texts}
    assert written[300.0, 100.0] == f"{0.9 * 0.6**3:.2g}"
    assert written[700.0, 0.0] == "> 1"  # the largest signal strength that was evaluated
    assert "3 of 15 observed limits are above the bound of the search" in _texts(figure)
    assert figure.axes[1].get_ylabel() == r"Observed upper limit on $\mu$"


def test_the_band_has_the_limits_of_one_mass(run_of: Callable[..., Run]) -> None:
    figure = draw_limits(*run_of(LimitRequest(level=0.9)), ContourOptions(at={"m2": 100.0}))
    axes = figure.axes[0]
    expected, observed = axes.lines[:2]
    assert list(expected.get_xdata()) == [300, 400, 500, 600, 700]
    assert expected.get_ydata()[:4] == pytest.approx([0.216, 0.512, 1.0, 1.728])
    assert observed.get_ydata()[:4] == pytest.approx([0.9 * v for v in (0.216, 0.512, 1.0, 1.728)])
    assert np.isnan(observed.get_ydata()[4])
    assert "at 90% CL" in _texts(figure)
    # The one above the bound is an arrow there, and no point on the line of mu = 1.
    (arrow,) = [line for line in axes.lines if line.get_marker() == "^"]
    assert (arrow.get_xdata().tolist(), arrow.get_ydata().tolist()) == ([700.0], [1.0])
    assert "Observed limit above (1)" in _texts(figure)


def test_a_scan_shows_both_curves_and_marks_doubts(run_of: Callable[..., Run]) -> None:
    request = ScanRequest(mu=(0.0, 1.0, 2.0, 3.0))
    figure = draw_scan(*run_of(request, points=POINTS, muhat=1e-19), NAME)
    upper, lower = figure.axes
    assert list(upper.lines[0].get_ydata()) == [0, 1, 4, 9]
    assert lower.get_yscale() == "log"
    text = _texts(figure)
    assert "Suspect (1)" in text
    assert "Failed, not drawn (1)" in text
    assert r"$\hat{\mu}$ = 0" in text
    assert upper.get_xlim() == lower.get_xlim()


def test_pulls_show_what_is_constrained_and_tell_the_rest(run_of: Callable[..., Run]) -> None:
    figure = draw_pulls(*run_of(FitRequest(), fit=FIT), NAME)
    labels = [one.get_text() for one in figure.axes[0].get_yticklabels()]
    assert labels == ["jes", "b_tag", r"x\$y"]
    text = _texts(figure)
    assert r"mu = 0.7 $\pm$ 0.9" in text
    assert "held = 1 (fixed)" in text
    low, high = figure.axes[0].get_xlim()
    assert low < -4.2 < 4.2 < high


def _bars(figure: Any) -> dict[str, tuple[float, float]]:
    """Return the ends of the bars by parameter."""
    axes = figure.axes[0]
    names = [one.get_text() for one in axes.get_yticklabels()]
    (lines,) = axes.collections
    segments = [segment for segment in lines.get_segments() if len(segment)]
    return {names[round(one[0, 1])]: (one[0, 0], one[1, 0]) for one in segments}


def test_pulls_are_drawn_with_the_intervals_that_were_asked_for(run_of: Callable[..., Run]) -> None:
    parameters = [
        _parameter("mu", 0.7, prefit_uncertainty=None, lower=0.2, upper=1.4),
        _parameter("jes", 0.5, prefit_uncertainty=2.0, lower=-0.5, upper=3.5),
        _parameter("open", 0.2, lower=None, upper=1.0),
        _parameter("none", 0.1, lower=None, upper=None),
    ]
    fit = msgspec.structs.replace(FIT, parameters=parameters)
    figure = draw_pulls(*run_of(FitRequest(intervals=True), fit=fit), NAME)
    bars = _bars(figure)
    assert bars["jes"] == pytest.approx((-0.25, 1.75))
    low, _ = figure.axes[0].get_xlim()
    assert bars["open"][0] <= low
    assert bars["open"][1] == pytest.approx(1.0)
    assert "none" not in bars
    text = _texts(figure)
    assert "Bars: profile-likelihood intervals (68%)" in text
    assert "An arrow: the end is beyond the parameter's bound" in text
    assert "mu = 0.7 (68% interval: 0.2 to 1.4)" in text
    plain = draw_pulls(*run_of(FitRequest(), fit=fit), NAME)
    assert _bars(plain)["jes"] == pytest.approx((0.25 - 0.45, 0.25 + 0.45))
    assert "Bars: uncertainties from the Hessian" in _texts(plain)
    assert "interval" not in _texts(plain)


def test_a_pull_beyond_the_frame_is_written(run_of: Callable[..., Run]) -> None:
    far = msgspec.structs.replace(FIT, parameters=[_parameter("far", 37.25)])
    assert "37.2" in _texts(draw_pulls(*run_of(FitRequest(), fit=far), NAME))


def test_correlations_below_the_threshold_are_left_out_and_counted(
    run_of: Callable[..., Run],
) -> None:
    figure = draw_correlations(*run_of(FitRequest(), fit=FIT), NAME)
    (image,) = figure.axes[0].images
    assert np.asarray(image.get_array()).tolist() == [[1.0, -0.6], [-0.6, 1.0]]
    assert "1 of 3 parameters" in _texts(figure)
    assert "\N{MINUS SIGN}.60" in _texts(figure)
    whole = draw_correlations(*run_of(FitRequest(), fit=FIT), NAME, threshold=0.0)
    assert whole.axes[0].images[0].get_array().shape == (3, 3)
    with pytest.raises(InputError, match="no two parameters"):
        draw_correlations(*run_of(FitRequest(), fit=FIT), NAME, threshold=0.9)


@pytest.mark.parametrize("prefit", [False, True])
def test_yields_are_stacked_to_the_total(run_of: Callable[..., Run], *, prefit: bool) -> None:
    figure = draw_yields(*run_of(FitRequest(), fit=FIT), NAME, prefit=prefit)
    upper, lower = figure.axes
    bars = [bar for bar in upper.patches if bar.get_hatch() is None]
    assert [bar.get_height() for bar in bars] == [2.5, 0.4, 4.0, 890.0]
    hatched = [bar.get_height() for bar in upper.patches if bar.get_hatch()]
    assert hatched == pytest.approx([2.0 if prefit else 1.0] * 4)
    assert upper.get_yscale() == "log"
    labels = [one.get_text() for one in lower.get_xticklabels()]
    assert labels == ["SR 1", "SR 2", "SR 3", "CR"]
    # 9 events where 4 are expected are beyond the ratio's axis: an arrow says so.
    assert any(line.get_marker() == "^" for line in lower.lines)


def test_rankings_have_the_largest_first(run_of: Callable[..., Run]) -> None:
    figure = draw_ranking(*run_of(RankingRequest(), ranking=RANKING), NAME, most=3)
    axes = figure.axes[0]
    assert [one.get_text() for one in axes.get_yticklabels()] == ["np_0", "np_1", "np_2"]
    widths = [round(bar.get_width(), 3) for bar in axes.patches]
    assert 0.2 in widths
    assert -0.2 in widths
    assert "2 smaller impacts are not drawn" in _texts(figure)


DRAWN: dict[str, tuple[Callable, Request, dict[str, Any]]] = {
    "scan": (draw_scan, ScanRequest(mu=(0.0, 1.0)), {"points": POINTS}),
    "pulls": (draw_pulls, FitRequest(), {"fit": FIT}),
    "correlations": (draw_correlations, FitRequest(), {"fit": FIT}),
    "yields": (draw_yields, FitRequest(), {"fit": FIT}),
    "ranking": (draw_ranking, RankingRequest(), {"ranking": RANKING}),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_pictures_of_one_hypothesis_refuse_what_they_cannot_show(
    run_of: Callable[..., Run], kind: str
) -> None:
    draw, request, fields = DRAWN[kind]
    manifest, results = run_of(request, **fields)
    with pytest.raises(RequestError, match="the run has several"):
        draw(manifest, results)
    with pytest.raises(RequestError, match="has no hypothesis 'p_300'") as caught:
        draw(manifest, results, "p_300")
    assert NAME in caught.value.evidence
    with pytest.raises(RequestError, match="not finished"):
        draw(manifest, {}, NAME)
    with pytest.raises(RequestError, match="the picture needs a run with --"):
        draw(*run_of(RankingRequest() if kind != "ranking" else FitRequest()), NAME)
    nothing = {"status": "failed", "reason": "no", "points": [], "fit": None, "ranking": None}
    broken = results | {NAME: msgspec.structs.replace(results[NAME], **nothing)}
    with pytest.raises(InputError, match="has no valid fit") as failed:
        draw(manifest, broken, NAME)
    assert failed.value.evidence == "no"


@pytest.mark.parametrize("kind", DRAWN)
def test_doubts_are_told_and_bytes_are_reproducible(run_of: Callable[..., Run], kind: str) -> None:
    draw, request, fields = DRAWN[kind]
    doubts = {"status": "suspect", "reason": "an odd minimum"}
    run = run_of(request, **fields, **doubts)
    assert "SUSPECT: an odd minimum" in _texts(draw(*run, NAME))
    first, second = (figure_bytes(draw(*run, NAME), "svg") for _ in range(2))
    assert first == second


def test_limits_of_another_run_are_refused(run_of: Callable[..., Run]) -> None:
    with pytest.raises(RequestError, match="needs a run with --limit"):
        draw_limits(*run_of(FitRequest(), fit=FIT))


@pytest.mark.parametrize("kind", [*DRAWN, "limits"])
def test_commands_write_pictures(
    run_of: Callable[..., Run], save_run: Callable, tmp_path: Path, kind: str
) -> None:
    _, request, fields = DRAWN.get(kind, (None, LimitRequest(), {}))
    saved = save_run(tmp_path / "run", *run_of(request, **fields))
    words = [] if kind == "limits" else ["--patch", NAME]
    output = tmp_path / "picture.png"
    result = CliRunner().invoke(cli, ["plot", kind, str(saved.path), "-o", str(output), *words])
    assert result.exit_code == 0, result.stderr
    assert output.read_bytes().startswith(b"\x89PNG")
    bad = CliRunner().invoke(cli, ["plot", kind, str(saved.path), "-o", "picture.gif", *words])
    assert (bad.exit_code, Path("picture.gif").exists()) == (4, False)
