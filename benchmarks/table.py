"""What was measured as text: beside what is to be reached, and everything side by side."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Goal", "goals", "table"]


class Goal(NamedTuple):
    """A figure to reach, and what was; ``met`` is None where nothing was measured."""

    what: str
    reach: str
    reached: str
    met: bool | None


# Of a hypothesis of 1Lbb: how many times as long pyhf takes.
_FASTER = {"pyhf numpy+scipy": 2000, "pyhf jax+scipy": 1000}
_WARM = {"1Lbb": 1.2, "staus": 2.0}
_COMMAND = {"warm": 9.0, "cold": 15.0}
_MEMORY = 1024.0
_TOYS = 500.0
# A straight line through the times of more and more patches leaves this part of the longest.
_LINEAR = 0.1


def goals(found: dict[str, Any]) -> list[Goal]:
    """Return the figures to reach, in the order of their table."""
    return [
        *_warm(found),
        *_ratios(found),
        *_command(found),
        *_compiled(found),
        *_memory(found),
        *_growth(found),
        *_toys(found),
    ]


def _goal(what: str, reach: str, value: float | None, limit: float, unit: str) -> Goal:
    if value is None:
        return Goal(what, reach, "not measured", None)
    return Goal(what, reach, f"{value:.3g} {unit}".strip(), value <= limit)


def _warm(found: dict[str, Any]) -> Iterator[Goal]:
    for name, limit in _WARM.items():
        one = found.get("kernel", {}).get(name)
        count = f", {one['hypotheses']} hypotheses" if one else ""
        yield _goal(
            f"{name}{count}, warm workers",
            f"<= {limit:g} s",
            one["median"] if one else None,
            limit,
            "s (median)",
        )


def _ratios(found: dict[str, Any]) -> Iterator[Goal]:
    one = found.get("engines", {}).get("1Lbb")
    for engine, factor in _FASTER.items():
        what = f"1Lbb, {engine} in units of the kernel"
        reach = f">= {factor}"
        median = one["engines"].get(engine, {}).get("median") if one else None
        if median is None:
            yield Goal(what, reach, "not measured", None)
            continue
        wall = median / one["kernel"]["seconds per hypothesis"]
        core = median / one["kernel"]["core seconds per hypothesis"]
        yield Goal(what, reach, f"{wall:.0f} (one core: {core:.0f})", wall >= factor)


def _command(found: dict[str, Any]) -> Iterator[Goal]:
    one = found.get("run", {}).get("1Lbb")
    for state, limit in _COMMAND.items():
        value = None
        if one:
            value = statistics.median(one["warm"]) if state == "warm" else one["cold"]
        what = f"fitserve run 1Lbb, compile cache {state}"
        yield _goal(what, f"<= {limit:g} s", value, limit, "s")


def _compiled(found: dict[str, Any]) -> Iterator[Goal]:
    rows = found.get("patches")
    what, reach = "programs for one analysis", "one, whatever the patches"
    if not rows:
        yield Goal(what, reach, "not measured", None)
        return
    counts = sorted({row["programs"] for row in rows})
    few, many = min(row["hypotheses"] for row in rows), max(row["hypotheses"] for row in rows)
    reached = f"{', '.join(map(str, counts))} for {few} to {many} patches"
    yield Goal(what, reach, reached, counts == [1])


def _memory(found: dict[str, Any]) -> Iterator[Goal]:
    one = found.get("kernel", {}).get("1Lbb")
    yield _goal("memory of a worker, 1Lbb", "<= 1 GB", one["peak"] if one else None, _MEMORY, "MiB")


def _growth(found: dict[str, Any]) -> Iterator[Goal]:
    rows = found.get("patches")
    what, reach = "growth with patches", "linear"
    if rows:
        left = _off_line([(row["hypotheses"], row["seconds"]) for row in rows])
        yield Goal(what, reach, f"linear but for {100 * left:.0f} %", left <= _LINEAR)
    else:
        yield Goal(what, reach, "not measured", None)
    what, reach = "synthetic series, beside pyhf jax+scipy", "always ahead"
    yield _ahead(what, reach, found.get("growth", []))


def _ahead(what: str, reach: str, rows: list[dict[str, Any]]) -> Goal:
    """Return how far ahead the kernel is, where pyhf ended and where it was stopped."""
    ratios = [one["pyhf jax+scipy"] / one["kernel"] for one in rows if one["pyhf jax+scipy"]]
    stopped = [one for one in rows if one.get("pyhf jax+scipy, at least")]
    if not ratios and not stopped:
        return Goal(what, reach, "not measured", None)
    told = []
    if ratios:
        ended = max(one["bins"] for one in rows if one["pyhf jax+scipy"])
        told.append(f"{min(ratios):.0f} to {max(ratios):.0f} times, up to {ended} bins")
    if stopped:
        # Where pyhf was stopped compiling counts too: it compiles for every hypothesis.
        bounds = [one["pyhf jax+scipy, at least"] / one["kernel, compiling"] for one in stopped]
        sizes = ", ".join(str(one["bins"]) for one in stopped)
        told.append(f"more than {min(bounds):.1f} times, compiling included, for {sizes}")
        ratios += bounds
    missing = [str(one["bins"]) for one in rows if _unknown(one)]
    if missing:
        told.append(f"no time of pyhf for {', '.join(missing)}")
    return Goal(what, reach, "; ".join(told), min(ratios) > 1 and not missing)


def _unknown(one: dict[str, Any]) -> bool:
    return not (one["pyhf jax+scipy"] or one.get("pyhf jax+scipy, at least"))


def _off_line(points: list[tuple[float, float]]) -> float:
    """Return the greatest distance from a straight line, as part of the largest value."""
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    off = [abs(y - slope * x - intercept) for x, y in points]
    return max(off) / max(y for _, y in points)


def _toys(found: dict[str, Any]) -> Iterator[Goal]:
    one = found.get("toys", {}).get("staus")
    what, reach = "toy fits per second and core, staus", f">= {_TOYS:g}"
    if one is None:
        yield Goal(what, reach, "not measured", None)
    else:
        rate = one["fits per second and core"]
        yield Goal(what, reach, f"{rate:.0f}", rate >= _TOYS)


def table(found: dict[str, Any]) -> str:
    """Return all of it as text."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("pyhf", "jax", "numpy", "scipy"))
    load = machine["load at the start"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, load {load:.2f}; {versions}",
        "",
        f"{'what':48s} {'reach':26s} reached",
    ]
    marks = {True: "", False: "   NOT REACHED", None: ""}
    lines += [f"{g.what:48s} {g.reach:26s} {g.reached}{marks[g.met]}" for g in goals(found)]
    for part in (_of_kernel, _of_toys, _of_engines, _of_growth, _of_profile):
        told = list(part(found))
        if told:
            lines += ["", *told]
    return "\n".join(lines)


def _of_kernel(found: dict[str, Any]) -> Iterator[str]:
    for name, one in found.get("kernel", {}).items():
        yield (
            f"{name}: {one['hypotheses']} hypotheses on {one['workers']} warm workers: median "
            f"{one['median']:.3f} s, best {min(one['seconds']):.3f} s; "
            f"{1e3 * one['core seconds per hypothesis']:.2f} ms of a core each, "
            f"{one['peak']:.0f} MiB"
        )
        yield (
            f"  first result in a new process {one['first result, nothing compiled']:.1f} s, "
            f"compiled before {one['first result, compiled before']:.1f} s"
        )
    for name, one in found.get("run", {}).items():
        warm = ", ".join(f"{value:.1f}" for value in one["warm"])
        yield f"fitserve run {name}: cold {one['cold']:.1f} s, warm {warm} s"


def _of_toys(found: dict[str, Any]) -> Iterator[str]:
    for name, one in found.get("toys", {}).items():
        yield (
            f"{name}: {one['toys']} toys in {one['fits']} fits on one core in "
            f"{one['seconds']:.1f} s, {one['fits per second and core']:.0f} fits per second"
        )


def _of_engines(found: dict[str, Any]) -> Iterator[str]:
    for name, one in found.get("engines", {}).items():
        wall = one["kernel"]["seconds per hypothesis"]
        core = one["kernel"]["core seconds per hypothesis"]
        yield f"{name}, seconds per hypothesis, with building its model (and times the kernel's)"
        yield f"  {'kernel, all cores':22s} {wall:9.4f}"
        yield f"  {'kernel, one core':22s} {core:9.4f}"
        for engine, row in one["engines"].items():
            if row["median"] is None:
                yield f"  {engine:22s} {row['why not']}"
                continue
            difference = row["largest difference in CLs"]
            agrees = "" if difference is None else f"   |delta CLs| <= {difference:.1e}"
            yield (
                f"  {engine:22s} {row['median']:9.2f} {row['median'] / wall:8.0f} x, one core "
                f"{row['median'] / core:6.0f} x  ({len(row['seconds'])} sampled){agrees}"
            )


def _of_growth(found: dict[str, Any]) -> Iterator[str]:
    rows = found.get("growth")
    if not rows:
        return
    yield "synthetic analyses, seconds per hypothesis on one core"
    for one in rows:
        theirs = one["pyhf jax+scipy"]
        told = one["why not"] if theirs is None else f"{theirs:.1f} s"
        yield (
            f"  {one['bins']:5d} bins, {one['nuisance']:5d} nuisance parameters and one per bin: "
            f"kernel {one['kernel']:.3f} s (first {one['kernel, compiling']:.1f} s), "
            f"{one['kernel, MiB']:.0f} MiB; pyhf jax+scipy {told}"
        )


def _of_profile(found: dict[str, Any]) -> Iterator[str]:
    for name, one in found.get("profile", {}).items():
        if name == "peak":
            continue
        total = sum(one["milliseconds"].values())
        yield f"{name}: where {total:.2f} ms of a core per hypothesis go"
        for part, value in one["milliseconds"].items():
            yield f"  {part:26s} {value:7.3f} ms {100 * value / total:5.1f} %"
        rate, peak = one["operations per second"], found["profile"]["peak"]
        yield (
            f"  {one['operations'] / 1e6:.1f} Mflop per hypothesis; {rate / 1e9:.2f} Gflop/s while "
            f"fits run, {100 * rate / peak:.0f} % of the {peak / 1e9:.1f} that a matrix product "
            "reaches on the core"
        )
