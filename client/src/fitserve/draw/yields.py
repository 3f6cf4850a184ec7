"""Observed and fitted events of every channel, stacked by sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.draw.frame import chosen, new_figure, raise_limit, refuse_nothing, write_title
from fitserve.draw.style import EXPECTED, OBSERVED, pictures, safe_text
from fitserve_contract import FitRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitserve.runs.records import Manifest
    from fitserve_contract import ChannelYields, FitAnswer, HypothesisResult

__all__ = ["draw_yields"]

# Okabe and Ito's colours, then lighter ones; further samples are drawn as one.
_COLOURS = (
    "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#0072b2",
    "#abd9f4", "#f3cf80", "#80cfb9", "#f8f2a1",
)  # fmt: skip
_OTHERS = "#b5b5b5"
_BAR = 0.34


def draw_yields(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    name: str | None = None,
    *,
    prefit: bool = False,
) -> Any:
    """Draw the events of each bin, the expected ones by sample, and their ratio.

    Parameters
    ----------
    manifest, results
        A run for fits.
    name
        Of the hypothesis; None where the run has one only.
    prefit
        Before the fit instead of after it.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RequestError, InputError
        The run is of another kind, the hypothesis is not in it, or it failed.
    MissingExtraError
        The packages for drawing are not installed.
    """
    _, result = chosen(manifest, results, name, FitRequest)
    fit = result.fit
    if fit is None:
        raise refuse_nothing(result)
    when = "prefit" if prefit else "postfit"
    what = f"events {'before' if prefit else 'after'} the fit"
    bins = sum(len(channel.data) for channel in fit.channels)
    with pictures():
        figure = new_figure(max(8.0, 1.6 + _BAR * (bins + len(fit.channels))), 8.2)
        top = write_title(figure, manifest, result, what, [])
        left = 1.05 / figure.get_figwidth()
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        edges, labels = _places(fit.channels)
        names = max((len(label) for label in labels), default=0)
        figure.subplots_adjust(
            left=left,
            right=0.98,
            top=top,
            hspace=0.06,
            bottom=min(0.4, (0.25 + 0.085 * names) / figure.get_figheight()),
        )
        entries = _draw_stack(upper, fit, edges, when)
        _draw_ratio(lower, fit, edges, when)
        _label_bins(upper, lower, edges, labels)
        _leave_room(upper, entries)
    return figure


def _places(channels: Sequence[ChannelYields]) -> tuple[list[Any], list[str]]:
    """Return the left edges of the bins of each channel, one apart, and their labels."""
    edges, labels, at = [], [], 0.0
    for channel in channels:
        count = len(channel.data)
        edges.append(at + np.arange(count))
        numbered = [f"{channel.name} {i + 1}" for i in range(count)]
        labels += numbered if count > 1 else [channel.name]
        at += count + 0.5
    return edges, labels


def _arrays(fit: FitAnswer, when: str) -> tuple[Any, Any, Any]:
    """Return data, expected events and their uncertainties, each of shape (bins,)."""
    data = np.concatenate([one.data for one in fit.channels])
    total = np.concatenate([getattr(one.total, when) for one in fit.channels])
    sigma = np.concatenate([getattr(one.total, f"{when}_uncertainty") for one in fit.channels])
    return data, total, sigma


def _by_sample(fit: FitAnswer, when: str) -> dict[str, Any]:
    """Return the events of each sample in all bins, the largest samples first."""
    starts = np.cumsum([0, *(len(one.data) for one in fit.channels)])
    events: dict[str, Any] = {}
    for start, channel in zip(starts, fit.channels, strict=False):
        for sample in channel.samples:
            row = events.setdefault(sample.name, np.zeros(starts[-1]))
            row[start : start + len(channel.data)] += getattr(sample.yields, when)
    return dict(sorted(events.items(), key=lambda item: -item[1].sum()))


def _draw_stack(axes: Any, fit: FitAnswer, edges: list[Any], when: str) -> list[tuple[Any, str]]:
    from matplotlib.patches import Patch

    x = np.concatenate(edges) + 0.5
    data, total, sigma = _arrays(fit, when)
    samples = _by_sample(fit, when)
    shown = dict(list(samples.items())[: len(_COLOURS)])
    others = sum(
        (row for name, row in samples.items() if name not in shown), start=np.zeros(len(x))
    )
    stack = [*zip(shown.values(), _COLOURS, map(safe_text, shown), strict=False)]
    if len(samples) > len(shown):
        stack.append((others, _OTHERS, f"{len(samples) - len(shown)} smaller samples"))
    base = np.zeros(len(x))
    entries: list[tuple[Any, str]] = []
    # The smallest at the bottom: on a logarithmic axis it would vanish at the top.
    for row, colour, label in reversed(stack):
        axes.bar(x, row, 1.0, bottom=base, color=colour, edgecolor="white", linewidth=0.4)
        base = base + row
        entries.insert(0, (Patch(facecolor=colour), label))
    axes.bar(x, 2 * sigma, 1.0, bottom=total - sigma, **_uncertain())
    entries.insert(0, _data(axes, x, data))
    entries.append((Patch(**_uncertain()), "Uncertainty"))
    positive = np.concatenate([data[data > 0], total[total > 0]])
    high = float(max(positive.max(initial=1.0), (total + sigma).max()))
    low = float(positive.min(initial=high))
    if high > 30 * low:
        axes.set_yscale("log")
        axes.set_ylim(min(0.3 * low, 0.5), 1.6 * high)
    else:
        axes.set_ylim(0, 1.15 * (high + np.sqrt(high)))
    axes.set_ylabel("Events")
    return entries


def _uncertain() -> dict[str, Any]:
    return {"facecolor": "none", "edgecolor": "#4d4d4d", "hatch": "//////", "linewidth": 0}


def _data(axes: Any, x: Any, data: Any) -> tuple[Any, str]:
    low, high = _poisson(data)
    drawn = axes.errorbar(
        x, np.where(data > 0, data, np.nan), yerr=[data - low, high - data],
        fmt="o", color=EXPECTED, markersize=4.5, linewidth=1.3, zorder=5,
    )  # fmt: skip
    return drawn, "Data"


def _poisson(data: Any) -> tuple[Any, Any]:
    """Return the ends of the central 68.27 % intervals of Poisson means (Garwood 1936)."""
    from scipy.special import gammaincinv, ndtr

    tail = ndtr(-1.0)
    low = np.where(data > 0, gammaincinv(np.maximum(data, 1e-9), tail), 0.0)
    return low, gammaincinv(data + 1.0, 1 - tail)


def _draw_ratio(axes: Any, fit: FitAnswer, edges: list[Any], when: str) -> None:
    x = np.concatenate(edges) + 0.5
    data, total, sigma = _arrays(fit, when)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, relative = data / total, sigma / total
        low, high = (end / total for end in _poisson(data))
    axes.bar(x, 2 * relative, 1.0, bottom=1 - relative, **_uncertain())
    axes.axhline(1, color=EXPECTED, linewidth=0.9, linestyle=":")
    axes.errorbar(
        x, ratio, yerr=[ratio - low, high - ratio],
        fmt="o", color=EXPECTED, markersize=4.5, linewidth=1.3, zorder=5,
    )  # fmt: skip
    bottom, top = 0.0, 2.0
    for place, value in zip(x, ratio, strict=True):
        if value > top:
            axes.plot(place, 0.94 * top, marker="^", color=OBSERVED, markersize=7)
    axes.set_ylim(bottom, top)
    axes.set_ylabel("Data / exp.")


def _label_bins(upper: Any, lower: Any, edges: list[Any], labels: list[str]) -> None:
    from matplotlib.ticker import NullLocator

    for axes in (upper, lower):
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(axis="x", which="both", length=0)
        for later in edges[1:]:
            axes.axvline(later[0] - 0.25, color="#b5b5b5", linewidth=0.8)
    lower.set_xticks(
        np.concatenate(edges) + 0.5, map(safe_text, labels), rotation=90, fontsize="small"
    )
    lower.set_xlim(-0.25, edges[-1][-1] + 1.25)


def _leave_room(axes: Any, entries: list[tuple[Any, str]]) -> None:
    """Put the legend into the frame and raise the y axis below it."""
    renderer = axes.figure.canvas.get_renderer()
    longest = max(len(label) for _, label in entries)
    columns = max(2, int(axes.get_window_extent(renderer).width / 100 / (0.6 + 0.085 * longest)))
    legend = axes.legend(
        [handle for handle, _ in entries],
        [label for _, label in entries],
        loc="upper left",
        ncols=min(columns, 6),
        fontsize="small",
        columnspacing=1.2,
        handlelength=1.6,
        labelspacing=0.35,
    )
    box = axes.transAxes.inverted().transform(legend.get_window_extent(renderer))
    raise_limit(axes, 1 - box[0, 1] + 0.03)
