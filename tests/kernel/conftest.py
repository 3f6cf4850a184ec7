"""Models for the kernel's tests: generated ones, and pyhf's view of the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jsonpatch
import numpy as np
import pyhf
import pytest
from hypothesis import strategies as st

from fitserve_contract import Hypothesis, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Callable

CODES = {
    "default": ModelOptions(),
    "kinked": ModelOptions(normsys="code1", histosys="code0"),
    "quadratic": ModelOptions(normsys="code1", histosys="code2"),
    "mixed": ModelOptions(normsys="code4", histosys="code0"),
}


class Case(NamedTuple):
    """A workspace and hypotheses on it."""

    workspace: dict[str, Any]
    hypotheses: list[Hypothesis]


def _rounded(low: float, high: float) -> st.SearchStrategy[float]:
    # Three digits are enough to be arbitrary, and keep failing examples readable.
    return st.integers(round(low * 1000), round(high * 1000)).map(lambda i: i / 1000)


@st.composite
def _variation(draw: st.DrawFn, *, wild: bool) -> tuple[float, float]:
    """Draw factors of the two variations; wild ones may move a yield the same way."""
    up, down = draw(_rounded(-0.3, 0.4)), draw(_rounded(0.05, 0.3))
    return 1 + up, 1 + (draw(st.sampled_from([-1, 1])) if wild else -np.sign(up or 1)) * down


@st.composite
def _modifiers(
    draw: st.DrawFn,
    nominal: list[float],
    channel: str,
    sample: str,
    alphas: list[str],
    *,
    signal: bool,
    wild: bool,
) -> list[dict[str, Any]]:
    modifiers: list[dict[str, Any]] = []
    for name in alphas:
        kind = draw(st.sampled_from(["none", "normsys", "histosys", "both"]))
        if kind in ("normsys", "both"):
            hi, lo = draw(_variation(wild=wild))
            modifiers.append({"name": name, "type": "normsys", "data": {"hi": hi, "lo": lo}})
        if kind in ("histosys", "both"):
            factors = [draw(_variation(wild=wild)) for _ in nominal]
            data = {
                "hi_data": [v * hi for v, (hi, _) in zip(nominal, factors, strict=True)],
                "lo_data": [v * lo for v, (_, lo) in zip(nominal, factors, strict=True)],
            }
            modifiers.append({"name": name, "type": "histosys", "data": data})
    if draw(st.booleans()):
        data = [round(abs(value) * draw(_rounded(0.0, 0.3)), 6) for value in nominal]
        modifiers.append({"name": f"stat_{channel}", "type": "staterror", "data": data})
    if draw(st.integers(0, 3)) == 0:
        data = [round(abs(value) * draw(_rounded(0.0, 0.3)), 6) for value in nominal]
        name = f"shape_{channel}_{sample}"
        modifiers.append({"name": name, "type": "shapesys", "data": data})
    if draw(st.integers(0, 3)) == 0:
        modifiers.append({"name": "lumi", "type": "lumi", "data": None})
    if not signal and draw(st.integers(0, 3)) == 0:
        modifiers.append({"name": "norm", "type": "normfactor", "data": None})
    if not signal and draw(st.integers(0, 5)) == 0:
        modifiers.append({"name": "free", "type": "shapefactor", "data": None})
    if signal:
        modifiers.append({"name": "mu", "type": "normfactor", "data": None})
    return modifiers


@st.composite
def models(draw: st.DrawFn, *, wild: bool) -> Case:
    """Draw a workspace with a background and two signals for it.

    Every modifier type occurs, some shared between samples, channels and types; bins may be
    empty in any sample; observed counts go from zero to a million. Wild models have
    systematics whose variations move a yield the same way, several minima, and measurements
    that configure parameters of every kind.
    """
    alphas = [f"alpha{i}" for i in range(draw(st.integers(0, 4)))]
    bins = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    scale = draw(st.sampled_from([1.0, 10.0, 1e5]))
    channels, observations, adds = [], [], [[], []]
    own = ["alpha_signal"] * draw(st.booleans())
    for index, count in enumerate(bins):
        channel = f"ch{index}"
        samples = []
        for number in range(draw(st.integers(1, 2))):
            low = 0.0 if draw(st.integers(0, 4)) == 0 else 2.0
            nominal = [round(scale * draw(_rounded(low, 9.0)), 6) for _ in range(count)]
            name = f"bkg{number}"
            samples.append(
                {
                    "name": name,
                    "data": nominal,
                    "modifiers": draw(
                        _modifiers(nominal, channel, name, alphas, signal=False, wild=wild)
                    ),
                }
            )
        channels.append({"name": channel, "samples": samples})
        total = np.sum([sample["data"] for sample in samples], axis=0)
        data = [float(round(value * draw(_rounded(0.5, 1.5)))) for value in total]
        if draw(st.integers(0, 4)) == 0:
            data[0] = 0.0
        observations.append({"name": channel, "data": data})
        for add in adds:
            if add and draw(st.booleans()):
                continue
            nominal = [round(scale * draw(_rounded(0.0, 3.0)), 6) for _ in range(count)]
            # Somewhere there is a signal.
            nominal[0] = nominal[0] or scale
            sample = {
                "name": "signal",
                "data": nominal,
                "modifiers": draw(
                    _modifiers(nominal, channel, "signal", alphas + own, signal=True, wild=wild)
                ),
            }
            path = f"/channels/{index}/samples/{draw(st.integers(0, len(samples)))}"
            add.append({"op": "add", "path": path, "value": sample})
    workspace = {
        "channels": channels,
        "observations": observations,
        "measurements": [
            {"name": "m", "config": {"poi": "mu", "parameters": draw(_configs(bins, wild=wild))}}
        ],
        "version": "1.0.0",
    }
    hypotheses = [
        Hypothesis(name=f"h{i}", values=(float(i),), patch=add) for i, add in enumerate(adds)
    ]
    return Case(workspace, hypotheses)


@st.composite
def _configs(draw: st.DrawFn, bins: list[int], *, wild: bool) -> list[dict[str, Any]]:
    """Draw a measurement's configuration of parameters, of which a model may have only some."""
    configs: list[dict[str, Any]] = [
        {
            "name": "lumi",
            "inits": [1.0],
            "bounds": [[0.9, 1.1]],
            "auxdata": [draw(_rounded(0.98, 1.02))],
            "sigmas": [draw(_rounded(0.005, 0.08)) if wild else 0.02],
            "fixed": draw(st.booleans()),
        }
    ]
    if draw(st.booleans()):
        configs.append({"name": "mu", "bounds": [[draw(st.sampled_from([0.0, -1.0])), 7.0]]})
    if draw(st.booleans()):
        configs.append({"name": "alpha0", "inits": [0.25], "bounds": [[-3.0, 2.0]]})
    if draw(st.integers(0, 3)) == 0:
        configs.append({"name": "alpha1", "fixed": True, "inits": [0.5]})
    if draw(st.integers(0, 3)) == 0:
        configs.append({"name": "alpha2", "auxdata": [0.3]})
    return configs + draw(_factor_configs(bins)) if wild else configs


@st.composite
def _factor_configs(draw: st.DrawFn, bins: list[int]) -> list[dict[str, Any]]:
    """Draw the configuration of parameters that multiply yields."""
    configs: list[dict[str, Any]] = []
    if draw(st.integers(0, 2)) == 0:
        configs.append(draw(_config("norm", 1)))
    if draw(st.integers(0, 2)) == 0:
        # Nobody can make this parameter where channels differ in their number of bins.
        configs.append(draw(_config("free", bins[0])))
    for index, count in enumerate(bins):
        if draw(st.booleans()):
            normal = {"auxdata": (0.8, 1.2), "sigmas": (0.01, 0.4)}
            configs.append(draw(_config(f"stat_ch{index}", count, normal)))
        for sample in ("bkg0", "bkg1", "signal"):
            if draw(st.integers(0, 2)) == 0:
                poisson = {"auxdata": (0.5, 300.0), "factors": (0.5, 300.0)}
                configs.append(draw(_config(f"shape_ch{index}_{sample}", count, poisson)))
    return configs


@st.composite
def _config(
    draw: st.DrawFn,
    name: str,
    count: int,
    constraint: dict[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Draw the configuration of parameters around 1, each part of it there or not."""
    config: dict[str, Any] = {"name": name}
    for key, (low, high) in {"inits": (0.7, 1.4), **(constraint or {})}.items():
        if draw(st.booleans()):
            config[key] = [draw(_rounded(low, high)) for _ in range(count)]
    if draw(st.booleans()):
        ends = [draw(_rounded(0.05, 0.6)), draw(_rounded(1.5, 6.0))]
        config["bounds"] = [ends for _ in range(count)]
    if draw(st.integers(0, 2)) == 0:
        config["fixed"] = draw(st.booleans())
    return config


def _everything() -> Case:
    """Return a case with every modifier type, shared and not, and what is odd about them."""
    a, b = {"hi": 1.12, "lo": 0.9}, {"hi": 0.93, "lo": 1.08}

    def shape(data: list[float], up: list[float], down: list[float]) -> dict[str, Any]:
        hi = [value * (1 + by) for value, by in zip(data, up, strict=True)]
        lo = [value * (1 - by) for value, by in zip(data, down, strict=True)]
        return {"hi_data": hi, "lo_data": lo}

    top, jets, rare = [30.0, 12.0, 4.0], [8.0, 0.0, 1.5], [2.0, 1.0, 0.5]
    channels = [
        {
            "name": "SR",
            "samples": [
                {
                    "name": "top",
                    "data": top,
                    "modifiers": [
                        {"name": "mu_top", "type": "normfactor", "data": None},
                        {"name": "JES", "type": "normsys", "data": a},
                        {
                            "name": "JES",
                            "type": "histosys",
                            "data": shape(top, [0.05, 0.1, 0.2], [0.04, 0.1, 0.15]),
                        },
                        {"name": "stat_SR", "type": "staterror", "data": [1.5, 1.0, 0.6]},
                    ],
                },
                {
                    "name": "jets",
                    "data": jets,
                    "modifiers": [
                        {"name": "free", "type": "shapefactor", "data": None},
                        {"name": "stat_SR", "type": "staterror", "data": [0.8, 0.0, 0.3]},
                    ],
                },
                {
                    "name": "rare",
                    "data": rare,
                    "modifiers": [
                        {"name": "lumi", "type": "lumi", "data": None},
                        {"name": "xsec", "type": "normsys", "data": b},
                        {"name": "nothing", "type": "normsys", "data": {"hi": 1.0, "lo": 1.0}},
                    ],
                },
            ],
        },
        {
            "name": "VR",
            "samples": [
                {
                    "name": "top",
                    "data": [210.0, 95.0],
                    "modifiers": [
                        {"name": "mu_top", "type": "normfactor", "data": None},
                        {"name": "JES", "type": "normsys", "data": b},
                        {"name": "bkg_VR", "type": "shapesys", "data": [12.0, 0.0]},
                    ],
                },
                {
                    "name": "jets",
                    "data": [20.0, 5.0],
                    "modifiers": [
                        {"name": "free", "type": "shapefactor", "data": None},
                        {
                            "name": "shape",
                            "type": "histosys",
                            "data": shape([20.0, 5.0], [0.1, -0.2], [0.12, -0.1]),
                        },
                    ],
                },
            ],
        },
    ]
    signal = [3.0, 6.0, 2.5]
    first = [
        {
            "op": "add",
            "path": "/channels/0/samples/3",
            "value": {
                "name": "signal",
                "data": signal,
                "modifiers": [
                    {"name": "mu", "type": "normfactor", "data": None},
                    {"name": "lumi", "type": "lumi", "data": None},
                    {"name": "JES", "type": "normsys", "data": a},
                    {"name": "theory", "type": "normsys", "data": a},
                    {
                        "name": "theory",
                        "type": "histosys",
                        "data": shape(signal, [0.1, 0.05, 0.02], [0.1, 0.04, 0.05]),
                    },
                    {"name": "stat_SR", "type": "staterror", "data": [0.4, 0.5, 0.3]},
                    {"name": "own_SR", "type": "shapesys", "data": [0.3, 0.0, 0.2]},
                ],
            },
        },
        {
            "op": "add",
            "path": "/channels/1/samples/-",
            "value": {
                "name": "signal",
                "data": [1.0, 0.0],
                "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
            },
        },
    ]
    second = [
        {
            "op": "add",
            "path": "/channels/0/samples/0",
            "value": {
                "name": "signal",
                "data": [0.5, 2.0, 4.0],
                "modifiers": [
                    {"name": "mu", "type": "normfactor", "data": None},
                    {"name": "stat_SR", "type": "staterror", "data": [0.1, 0.3, 0.5]},
                ],
            },
        }
    ]
    lumi = {"inits": [1.0], "bounds": [[0.5, 1.5]], "auxdata": [1.0], "sigmas": [0.02]}
    parameters = [
        {"name": "lumi", **lumi},
        {"name": "mu", "bounds": [[0.0, 8.0]], "inits": [0.8]},
        {"name": "xsec", "inits": [0.1], "bounds": [[-2.0, 3.0]], "auxdata": [0.2]},
    ]
    workspace = {
        "channels": channels,
        "observations": [
            {"name": "VR", "data": [221.0, 104.0]},
            {"name": "SR", "data": [44.0, 15.0, 6.0]},
        ],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": parameters}}],
        "version": "1.0.0",
    }
    patches = {"first": first, "second": second}
    return Case(
        workspace,
        [Hypothesis(name=name, values=(0.0,), patch=patch) for name, patch in patches.items()],
    )


@pytest.fixture(scope="session")
def everything() -> Case:
    """Return a case with every modifier type."""
    return _everything()


@pytest.fixture(params=list(CODES))
def options(request: pytest.FixtureRequest) -> ModelOptions:
    """Return interpolation codes: each one occurs."""
    return CODES[request.param]


@pytest.fixture(scope="session")
def any_options() -> st.SearchStrategy[ModelOptions]:
    """Return a strategy for interpolation codes."""
    return st.sampled_from(list(CODES.values()))


@pytest.fixture(scope="session")
def models_strategy() -> Callable[..., st.SearchStrategy[Case]]:
    """Return `models`."""
    return models


def pyhf_model(case: Case, index: int, options: ModelOptions) -> tuple[Any, list[float]]:
    """Return pyhf's model of a hypothesis, and its observed data."""
    spec = jsonpatch.JsonPatch(case.hypotheses[index].patch).apply(case.workspace)
    workspace = pyhf.Workspace(spec)
    model = workspace.model(
        modifier_settings={
            "normsys": {"interpcode": options.normsys},
            "histosys": {"interpcode": options.histosys},
        }
    )
    return model, workspace.data(model)


@pytest.fixture(scope="session", name="pyhf_model")
def _pyhf_model() -> Callable[..., tuple[Any, list[float]]]:
    """Return `pyhf_model`."""
    return pyhf_model


@pytest.fixture(autouse=True)
def _numpy_backend() -> None:
    pyhf.set_backend("numpy")
