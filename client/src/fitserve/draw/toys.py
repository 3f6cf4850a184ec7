"""The test statistic of toys with and without signal, the observed one, and the asymptotics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.draw.frame import (
    add_legend,
    chosen,
    new_figure,
    refuse_nothing,
    title_above,
)
from fitserve.draw.style import OBSERVED, pictures
from fitserve.errors import InputError
from fitserve_contract import ToysRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult, ToyDistribution, ToysAnswer

    Array = NDArray[np.float64]

__all__ = ["asymptotic_distribution", "draw_toys"]

_SIGNAL = "#d55e00"
_BACKGROUND = "#0072b2"
# With fewer toys a histogram shows single toys, not a distribution.
_FEWEST = 20
_SYMBOL = {"qtilde": r"\tilde{q}", "q": "q"}


def draw_toys(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    name: str | None = None,
) -> Any:
    """Draw the distributions of the test statistic of one hypothesis.

    Toys with a test statistic of exactly zero have a column of their own left of zero.

    Parameters
    ----------
    manifest, results
        A run for toys.
    name
        Of the hypothesis; None where the run has one only.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RequestError, InputError
        The run is of another kind, the hypothesis is not in it, it failed, or has too few toys.
    MissingExtraError
        The packages for drawing are not installed.
    """
    request, result = chosen(manifest, results, name, ToysRequest)
    toys = result.toys
    if toys is None:
        raise refuse_nothing(result)
    fewest = min(_columns(of)[1] for of in (toys.signal, toys.background))
    if fewest < _FEWEST:
        raise InputError(
            "there are too few toys for a distribution",
            evidence=f"{fewest} with a valid fit of one kind, {_FEWEST} are needed",
            hint="fitserve run PALLET --toys 10000; the numbers are in: fitserve show RUN",
        )
    edges = np.array(toys.edges)
    with pictures():
        figure = new_figure(8.0, 7.2)
        figure.subplots_adjust(left=0.13, right=0.96, bottom=0.11, top=0.94)
        axes = figure.add_subplot()
        for of, colour, hatch in (
            (toys.background, _BACKGROUND, None),
            (toys.signal, _SIGNAL, "////"),
        ):
            _draw_toys(axes, edges, of, colour, hatch)
        _draw_asymptotic(axes, edges, toys, request.test_stat)
        width = edges[1] - edges[0]
        axes.set_xlim(-2.4 * width, edges[-1])
        axes.axvline(0, color="0.6", linewidth=0.8, zorder=0.5)
        axes.set_yscale("log")
        most = max(_columns(of)[0].max() for of in (toys.background, toys.signal))
        axes.set_ylim(0.5, 2.0 * max(most, 1))
        # No higher than the toys: the text is above them.
        axes.vlines(toys.observed, 0.5, max(most, 1), color=OBSERVED, linewidth=2.4, zorder=6)
        symbol = _SYMBOL[request.test_stat]
        axes.set_xlabel(rf"Test statistic ${symbol}_\mu$ at $\mu$ = {toys.mu:g}")
        axes.set_ylabel(f"Toys / {width:g}")
        what = f"{toys.done:,} toys with signal, {toys.done:,} without"
        lines = [*title_above(axes, manifest, result, what), *_cls_lines(result, toys)]
        add_legend(axes, lines, _entries(toys))
    return figure


def asymptotic_distribution(edges: Array, root: float, test_stat: str) -> tuple[Array, Array]:
    """Return the probabilities of intervals of the test statistic by the asymptotic formulae.

    Parameters
    ----------
    edges
        Of the intervals, from zero up, of shape (intervals + 1,).
    root
        Square root of the test statistic of the background's Asimov data.
    test_stat
        ``"qtilde"`` (arXiv:1007.1727, equation 65) or ``"q"`` (equation 57).

    Returns
    -------
    tuple
        With signal, and without, both of shape (intervals + 1,): first that of exactly zero.

    Examples
    --------
    >>> import numpy as np
    >>> signal, background = asymptotic_distribution(np.array([0.0, 1.0, 4.0]), 2.0, "q")
    >>> signal.round(4).tolist(), background.round(4).tolist()
    ([0.5, 0.3413, 0.1359], [0.0228, 0.1359, 0.3413])
    """
    from scipy.special import ndtr

    bent = (edges > root**2) if test_stat == "qtilde" else np.zeros(len(edges), dtype=bool)

    def probabilities(shift: float) -> Array:
        inside = np.sqrt(edges) - shift
        beyond = (edges + root**2 - 2 * root * shift) / (2 * root)
        below = ndtr(np.where(bent, beyond, inside))
        columns: Array = np.concatenate([below[:1], np.diff(below)])
        return columns

    return probabilities(0.0), probabilities(root)


def _columns(of: ToyDistribution) -> tuple[Array, int]:
    """Return the numbers of toys, first of those at zero, and the sum of all."""
    counts = np.array([of.zero, *of.counts], dtype=float)
    return counts, int(counts.sum()) + of.beyond


def _outer(edges: Array) -> Array:
    """Return the edges with those of a column, two intervals wide, for exactly zero."""
    return np.concatenate([[edges[0] - 2 * (edges[1] - edges[0])], edges])


def _draw_toys(
    axes: Any, edges: Array, of: ToyDistribution, colour: str, hatch: str | None
) -> None:
    counts, _ = _columns(of)
    axes.stairs(counts, _outer(edges), baseline=0.01, color=colour, linewidth=1.8, zorder=3)
    axes.stairs(
        counts,
        _outer(edges),
        baseline=0.01,
        fill=True,
        facecolor="none" if hatch else (*_rgb(colour), 0.22),
        edgecolor=(*_rgb(colour), 0.45) if hatch else "none",
        hatch=hatch,
        linewidth=0,
        zorder=2,
    )


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    rgb: tuple[float, float, float] = to_rgb(colour)
    return rgb


def _root_asimov(toys: ToysAnswer) -> float | None:
    """Return sqrt(q_A), which the median expected CLs of 2 Phi(-sqrt(q_A)) stands for."""
    from scipy.special import ndtri

    median = toys.asymptotic.CLs_exp[2]
    if median is None or not 0 < median < 1:
        return None
    return float(-ndtri(median / 2))


def _draw_asymptotic(axes: Any, edges: Array, toys: ToysAnswer, test_stat: str) -> None:
    root = _root_asimov(toys)
    if root is None:
        return
    middle = np.concatenate([[edges[0] - (edges[1] - edges[0])], (edges[1:] + edges[:-1]) / 2])
    for part, of, colour, dashes in zip(
        asymptotic_distribution(edges, root, test_stat),
        (toys.signal, toys.background),
        (_SIGNAL, _BACKGROUND),
        ((0, (5, 2)), (0, (1.2, 1.2))),
        strict=True,
    ):
        expected = part * _columns(of)[1]
        axes.plot(middle[1:], expected[1:], color=colour, linestyle=dashes, linewidth=2.2, zorder=5)
        axes.plot(
            middle[:1], expected[:1], color=colour, marker="D", markersize=6,
            markerfacecolor="white", linestyle="none", zorder=5,
        )  # fmt: skip


def _cls_lines(result: HypothesisResult, toys: ToysAnswer) -> list[str]:
    asymptotic = toys.asymptotic
    lines = []
    for name, value, error, other in (
        ("Observed", result.CLs_obs, toys.CLs_obs_error, asymptotic.CLs_obs),
        ("Expected", result.CLs_exp[2], toys.CLs_exp_error[2], asymptotic.CLs_exp[2]),
    ):
        if value is not None and error is not None:
            text = rf"{name} $\mathrm{{CL}}_\mathrm{{s}}$ = {_with_error(value, error)}"
            lines.append(text if other is None else f"{text}, asymptotic {other:.3g}")
    if toys.failed:
        lines.append(f"{toys.failed} of {2 * toys.done:,} toys failed")
    return lines


def _with_error(value: float, error: float) -> str:
    """Return a value and its error to two digits of the error.

    Examples
    --------
    >>> _with_error(0.04567, 0.00123)
    '0.0457 \u00b1 0.0012'
    """
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 3
    return f"{value:.{digits}f} \N{PLUS-MINUS SIGN} {error:.{digits}f}"


def _entries(toys: ToysAnswer) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    signal = Patch(facecolor="none", edgecolor=_SIGNAL, hatch="////", linewidth=1.8)
    background = Patch(facecolor=(*_rgb(_BACKGROUND), 0.22), edgecolor=_BACKGROUND, linewidth=1.8)
    entries: list[tuple[Any, str]] = [
        (signal, r"Toys with signal ($\mathrm{s} + \mathrm{b}$)"),
        (background, r"Toys without ($\mathrm{b}$)"),
    ]
    if _root_asimov(toys) is not None:
        for colour, dashes, what in (
            (_SIGNAL, (0, (5, 2)), r"\mathrm{s} + \mathrm{b}"),
            (_BACKGROUND, (0, (1.2, 1.2)), r"\mathrm{b}"),
        ):
            line = Line2D([], [], color=colour, linestyle=dashes, linewidth=2.2)
            entries.append((line, f"Asymptotic, ${what}$"))
    label = f"Observed ({toys.observed:.3g})"
    entries.append((Line2D([], [], color=OBSERVED, linewidth=2.4), label))
    return entries
