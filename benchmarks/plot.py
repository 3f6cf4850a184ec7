"""Pictures of what was measured."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["draw"]


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw engines, growth with the model and growth with the number of patches."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = [name for name in ("engines", "growth", "patches") if found.get(name)]
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(5.8 * len(panels), 4.4), squeeze=False)
    drawers = {"engines": _engines, "growth": _growth, "patches": _patches}
    for name, ax in zip(panels, axes[0], strict=True):
        drawers[name](ax, found[name])
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _engines(ax: Any, found: dict[str, Any]) -> None:
    names = ["kernel, one core", *next(iter(found.values()))["engines"]]
    height = 0.8 / len(found)
    for order, (analysis, one) in enumerate(found.items()):
        values = [one["kernel"]["core seconds per hypothesis"]]
        values += [row["median"] or 0.0 for row in one["engines"].values()]
        places = [at + order * height for at in range(len(names))]
        ax.barh(places, values, height=height * 0.9, label=analysis)
        for place, value, row in zip(places[1:], values[1:], one["engines"].values(), strict=True):
            told = f"{value / values[0]:.0f}x" if value else row["why not"]
            ax.text(1.15 * (value or values[0]), place, told, va="center", size=8)
    ax.set_yticks([at + 0.4 - height / 2 for at in range(len(names))], names)
    ax.set_xscale("log")
    ax.set_xlim(right=ax.get_xlim()[1] * 8)
    ax.invert_yaxis()
    ax.set_xlabel("seconds per hypothesis, model building included")
    ax.legend(frameon=False)


def _growth(ax: Any, found: list[dict[str, Any]]) -> None:
    sizes = [one["parameters"] for one in found]
    for key, label, style in (
        ("kernel", "kernel, compiled", "o-"),
        ("kernel, compiling", "kernel, first hypothesis in a new process", "o--"),
        ("pyhf jax+scipy", "pyhf, jax + scipy", "s-"),
    ):
        known = [(size, one[key]) for size, one in zip(sizes, found, strict=True) if one[key]]
        if known:
            ax.plot(*zip(*known, strict=True), style, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    stopped = [
        (size, least)
        for size, one in zip(sizes, found, strict=True)
        if (least := one.get("pyhf jax+scipy, at least"))
    ]
    if stopped:
        label = "pyhf, stopped: it takes longer than this"
        ax.plot(*zip(*stopped, strict=True), "^", color="C2", markerfacecolor="none", label=label)
        for size, least in stopped:
            ax.annotate("", (size, 3 * least), (size, least), arrowprops={"arrowstyle": "->"})
    broken = [
        f"pyhf for {size}: {one['why not']}"
        for size, one in zip(sizes, found, strict=True)
        if one["why not"] and not one.get("pyhf jax+scipy, at least")
    ]
    ax.text(0.97, 0.03, "\n".join(broken), transform=ax.transAxes, ha="right", size=8)
    ax.set_xlabel("parameters of a synthetic analysis (bins and nuisance parameters)")
    ax.set_ylabel("seconds per hypothesis, one core")
    # Room for the legend above all points.
    ax.set_ylim(top=30 * ax.get_ylim()[1])
    ax.legend(frameon=False, fontsize=8, loc="upper left")


def _patches(ax: Any, found: list[dict[str, float]]) -> None:
    counts = [one["hypotheses"] for one in found]
    seconds = [one["seconds"] for one in found]
    slope, start = statistics.linear_regression(counts, seconds)
    ax.plot(counts, seconds, "o")
    line = [start, start + slope * max(counts)]
    ax.plot([0, max(counts)], line, "-", label=f"{1e3 * slope:.2f} ms for each")
    ax.legend(frameon=False)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("hypotheses of one analysis")
    ax.set_ylabel("seconds, all cores, compiled")
