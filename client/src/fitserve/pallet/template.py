"""Tables of signals, written: empty ones to fill, and the signals of a pallet itself."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve.errors import InputError
from fitserve.pallet.patches import ADDED_SAMPLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve.pallet.load import Pallet
    from fitserve_contract import Hypothesis

__all__ = ["Region", "added_yields", "regions", "write_table"]


class Region(NamedTuple):
    """A channel, for whoever fills a table.

    ``observed`` and ``background`` are events in each bin, the latter before any fit. ``published``
    is how many of the pallet's own signals have events here, and ``most`` how many at most.
    """

    name: str
    kind: str
    observed: list[float]
    background: list[float]
    published: int
    most: float


def regions(pallet: Pallet) -> list[Region]:
    """Return what each channel of a pallet is, by its name and by the pallet's own signals."""
    observed = {each["name"]: each["data"] for each in pallet.workspace["observations"]}
    background = {
        channel["name"]: np.sum([sample["data"] for sample in channel["samples"]], axis=0).tolist()
        for channel in pallet.workspace["channels"]
    }
    counts, most = dict.fromkeys(background, 0), dict.fromkeys(background, 0.0)
    for hypothesis in pallet.hypotheses:
        try:
            added = _added_samples(pallet.workspace, hypothesis)
        except InputError:
            continue
        for name in {name for name, _ in added}:
            total = np.sum([sample["data"] for at, sample in added if at == name], axis=0)
            counts[name] += bool(total.any())
            most[name] = max(most[name], float(total.max()))
    return [
        Region(name, _kind(name), list(map(float, observed[name])), total, counts[name], most[name])
        for name, total in background.items()
    ]


def _kind(name: str) -> str:
    """Return what a channel is by the custom of names; nothing if its name does not say it."""
    for short, long in (("SR", "signal"), ("CR", "control"), ("VR", "validation")):
        if short in name or long in name.lower():
            return f"{long} region"
    return ""


def _added_samples(
    workspace: dict[str, Any], hypothesis: Hypothesis
) -> list[tuple[str, dict[str, Any]]]:
    """Return the samples that a patch adds, with the names of their channels.

    Raises
    ------
    InputError
        The patch does more than add samples.
    """
    samples = []
    for operation in hypothesis.patch:
        match = ADDED_SAMPLE.fullmatch(operation["path"])
        if operation["op"] != "add" or match is None:
            raise InputError(
                f"hypothesis {hypothesis.name!r} is no signal that is added to the background",
                evidence=f"its patch has {operation['op']} {operation['path']}",
                hint="choose others with --patch",
            )
        samples.append((workspace["channels"][int(match[1])]["name"], operation["value"]))
    return samples


def added_yields(workspace: dict[str, Any], hypothesis: Hypothesis) -> dict[str, float]:
    """Return the events that a patch adds to bins, by the names of their columns in a table.

    Raises
    ------
    InputError
        The patch does more than add samples.
    """
    return _cells(_added_samples(workspace, hypothesis), uncertainties=False)


def write_table(
    pallet: Pallet, hypotheses: Sequence[Hypothesis] = (), *, uncertainties: bool = False
) -> str:
    """Return a table in CSV: empty, or with the yields of hypotheses.

    Lines that begin with ``#`` say what the channels are. Systematics are relative: they are lost
    in bins without events.

    Parameters
    ----------
    pallet
        Where the channels are from.
    hypotheses
        To be written, with all they add to a bin.
    uncertainties
        Whether with the statistical uncertainties and systematics.

    Raises
    ------
    InputError
        A hypothesis does more than add samples.
    """
    stream = io.StringIO()
    for region in regions(pallet):
        stream.write(f"# {_describe(region)}\n")
    bins = [f"{name}[{index}]" for name, count in pallet.bins.items() for index in range(count)]
    rows = [
        _cells(_added_samples(pallet.workspace, one), uncertainties=uncertainties)
        for one in hypotheses
    ]
    extra = dict.fromkeys(name for row in rows for name in row if name not in bins)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["name", *pallet.labels, *bins, *extra])
    for hypothesis, row in zip(hypotheses, rows, strict=True):
        cells = [row.get(name, 0.0) for name in (*bins, *extra)]
        writer.writerow([hypothesis.name, *hypothesis.values, *(f"{one:.12g}" for one in cells)])
    return stream.getvalue()


def _cells(
    samples: Sequence[tuple[str, dict[str, Any]]], *, uncertainties: bool
) -> dict[str, float]:
    """Return the cells of a signal by column; several samples of a channel are added up."""
    yields: Counter[str] = Counter()
    squares: Counter[str] = Counter()
    changes: Counter[tuple[str, str]] = Counter()
    factors: dict[str, float] = {}
    alone = Counter(channel for channel, _ in samples)
    for channel, sample in samples:
        bins = [f"{channel}[{index}]" for index in range(len(sample["data"]))]
        yields.update(dict(zip(bins, sample["data"], strict=True)))
        for modifier in sample["modifiers"] if uncertainties else ():
            if modifier["type"] == "normsys" and alone[channel] == 1:
                for end, key in (("up", "hi"), ("down", "lo")):
                    factors[f"{channel}:{modifier['name']}:{end}"] = modifier["data"][key] - 1
                continue
            if modifier["type"] == "staterror":
                squares.update({b: one**2 for b, one in zip(bins, modifier["data"], strict=True)})
            for end, shifts in _shifts(modifier, sample["data"]).items():
                what = f"{modifier['name']}:{end}"
                changes.update({(b, what): by for b, by in zip(bins, shifts, strict=True)})
    relative = {f"{b}:{what}": by / yields[b] for (b, what), by in changes.items() if yields[b]}
    stat = {f"{b}:stat": one**0.5 for b, one in squares.items()}
    return {**yields, **stat, **factors, **relative}


def _shifts(modifier: dict[str, Any], yields: Sequence[float]) -> dict[str, list[float]]:
    """Return by how many events a systematic changes each bin, up and down; nothing for others."""
    data = modifier["data"]
    match modifier["type"]:
        case "histosys":
            up, down = data["hi_data"], data["lo_data"]
        case "normsys":
            up, down = ([data[end] * value for value in yields] for end in ("hi", "lo"))
        case _:
            return {}
    return {
        end: [to - value for to, value in zip(ends, yields, strict=True)]
        for end, ends in (("up", up), ("down", down))
    }


def _describe(region: Region) -> str:
    """Return what a channel is, on one line."""
    size = len(region.observed)
    published = (
        f"; {region.published} published signals, up to {region.most:.3g} events in a bin"
        if region.published
        else ""
    )
    return (
        f"{region.name}: {region.kind + ', ' if region.kind else ''}{size} bin{'s' * (size != 1)}, "
        f"observed {' '.join(f'{one:g}' for one in region.observed)}, "
        f"background {' '.join(f'{one:.3g}' for one in region.background)}{published}"
    )
