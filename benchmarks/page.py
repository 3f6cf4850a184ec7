"""What was measured as Markdown, and its place in docs/performance.md."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from table import goals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["markdown", "put_into", "table", "write_into"]

PLACE = "<!-- {} of what {} --docs writes -->"
BEGIN, END = (PLACE.format(word, "benchmarks/run.py") for word in ("begin", "end"))

_PICTURE = (
    "Engines side by side, growth with the size of the analysis, growth with the number of "
    "hypotheses"
)


def write_into(page: Path, found: dict[str, Any], picture: Path | None = None) -> None:
    """Replace the figures of a page, between `BEGIN` and `END`, and the picture beside it.

    Raises
    ------
    ValueError
        The page has no such place.
    """
    told = markdown(found)
    if picture is not None:
        copy = page.with_suffix(".png")
        shutil.copy(picture, copy)
        told += f"\n\n![{_PICTURE}]({copy.name})"
    put_into(page, "benchmarks/run.py", told)


def put_into(page: Path, program: str, told: str) -> None:
    """Replace what a program has written into a page.

    Raises
    ------
    ValueError
        The page has no such place.
    """
    begin, end = (PLACE.format(word, program) for word in ("begin", "end"))
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no place for the figures: {begin} ... {end}")
    page.write_text(f"{before}{begin}\n\n{told}\n\n{end}{after}")


def markdown(found: dict[str, Any]) -> str:
    """Return the tables of everything that was measured."""
    machine = found["machine"]
    names = ("python", "pyhf", "jax", "numpy", "scipy", "iminuit", "cabinetry")
    versions = ", ".join(f"{name} {machine[name]}" for name in names)
    load = machine["load at the start"]
    parts = [
        f"{machine['processor']}, {machine['cores']} cores, load {load:.2f}; {versions}.",
        table(["", "to reach", "reached"], _goals(found)),
    ]
    engines, growth, profile = list(_engines(found)), list(_growth(found)), list(_profile(found))
    if engines:
        parts.append(
            "Seconds for one hypothesis, with building its model, and how many times as long that "
            "is as by the kernel on all cores, and on one:"
        )
        head = ["analysis", "engine", "sampled", "median / s", "times", "one core", "ΔCLs"]
        parts.append(table(head, engines))
    if growth:
        parts.append("Synthetic analyses, seconds for one hypothesis on one core:")
        head = ["bins", "nuisance parameters", "kernel", "the first, compiling", "MiB"]
        parts.append(table([*head, "pyhf jax+scipy"], growth))
    if profile:
        parts.append("Where a core's time for one hypothesis goes:")
        parts.append(table(["", *_profiled(found)], profile))
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _goals(found: dict[str, Any]) -> Iterator[list[str]]:
    marks = {True: "", False: " (**not reached**)", None: ""}
    for goal in goals(found):
        yield [goal.what, goal.reach, goal.reached + marks[goal.met]]


def _engines(found: dict[str, Any]) -> Iterator[list[str]]:
    for name, one in found.get("engines", {}).items():
        wall = one["kernel"]["seconds per hypothesis"]
        core = one["kernel"]["core seconds per hypothesis"]
        yield [name, "kernel", "all", f"{wall:.4f}", "1", f"1 ({core:.4f} s)", ""]
        for engine, row in one["engines"].items():
            sampled = str(len(row["seconds"]))
            if row["median"] is None:
                yield [name, engine, sampled, row["why not"], "", "", ""]
                continue
            median, difference = row["median"], row["largest difference in CLs"]
            yield [
                name,
                engine,
                sampled,
                f"{median:.2f}",
                f"{median / wall:.0f}",
                f"{median / core:.0f}",
                "" if difference is None else f"{difference:.1e}",
            ]


def _growth(found: dict[str, Any]) -> Iterator[list[str]]:
    for one in found.get("growth", []):
        theirs = one["pyhf jax+scipy"]
        yield [
            str(one["bins"]),
            f"{one['nuisance']} and one for each bin",
            f"{one['kernel']:.3f}",
            f"{one['kernel, compiling']:.1f}",
            f"{one['kernel, MiB']:.0f}",
            one["why not"] if theirs is None else f"{theirs:.1f}",
        ]


def _profiled(found: dict[str, Any]) -> list[str]:
    return [name for name in found.get("profile", {}) if name != "peak"]


def _profile(found: dict[str, Any]) -> Iterator[list[str]]:
    names = _profiled(found)
    if not names:
        return
    measured = [found["profile"][name] for name in names]
    totals = [sum(one["milliseconds"].values()) for one in measured]
    for part in measured[0]["milliseconds"]:
        values = [one["milliseconds"][part] for one in measured]
        cells = [
            f"{value:.3f} ms, {100 * value / total:.0f} %"
            for value, total in zip(values, totals, strict=True)
        ]
        yield [part, *cells]
    yield ["in all", *(f"{total:.2f} ms" for total in totals)]
    for what in ("fits", "gradients", "hessians"):
        yield [what, *(f"{one['counts'][what]:.1f}" for one in measured)]
    yield ["Mflop", *(f"{one['operations'] / 1e6:.1f}" for one in measured)]
    rates = [one["operations per second"] for one in measured]
    peak = found["profile"]["peak"]
    yield [
        f"Gflop/s while fits run (a matrix product: {peak / 1e9:.1f})",
        *(f"{rate / 1e9:.2f}, {100 * rate / peak:.0f} %" for rate in rates),
    ]
