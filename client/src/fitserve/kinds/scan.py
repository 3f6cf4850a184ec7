"""The profile likelihood ratio and CLs at many signal strengths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from fitserve.kinds.base import Detail, OfStrengths, cls_text, number_text
from fitserve_contract import MAX_STRENGTHS, ScanRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitserve_contract import HypothesisResult

__all__ = ["Scan"]


def _strengths(text: str) -> list[float]:
    """Return the signal strengths of ``START:STOP:STEP`` or a list with commas."""
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        start, stop, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither START:STOP:STEP nor numbers") from None
    if not (math.isfinite(stop - start) and math.isfinite(step) and step > 0 and stop >= start):
        raise click.BadParameter("START:STOP:STEP needs STOP >= START and STEP > 0")
    # The stop is in the scan where a whole number of steps leads there.
    count = math.floor((stop - start) / step + 1e-9) + 1
    if count > MAX_STRENGTHS:
        raise click.BadParameter(f"{count} signal strengths are more than {MAX_STRENGTHS}")
    return [round(start + i * step, 12) for i in range(count)]


class Scan(OfStrengths[ScanRequest]):
    """A scan of the signal strength."""

    request = ScanRequest
    options = (
        click.option(
            "--scan",
            metavar="START:STOP:STEP",
            type=_strengths,
            help="Profile likelihood and CLs at these signal strengths (or at 0,0.5,2).",
        ),
    )
    flags = ("test_stat",)
    pictures = ("scan",)
    excludes = False

    def arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().arguments(options), "mu": options["scan"]}

    def question(self, request: ScanRequest) -> tuple[str, str]:
        ends = f"{min(request.mu):g} to {max(request.mu):g}"
        return "Scan", f"{len(request.mu)} signal strengths from {ends}"

    def titles(self, request: ScanRequest) -> list[str]:
        return ["mu-hat", "points", "ok"]

    def cells(self, request: ScanRequest, result: HypothesisResult) -> list[str]:
        good = sum(point.status == "ok" for point in result.points)
        return [cls_text(result.muhat), str(len(result.points)), str(good)]

    def detail(self, request: ScanRequest, result: HypothesisResult, most: int) -> Detail | None:
        if not result.points:
            return None
        rows = [
            [
                f"{one.mu:g}",
                *map(number_text, (one.twice_delta_nll, one.CLs_obs, one.CLs_exp[2])),
                one.status,
            ]
            for one in result.points[:most]
        ]
        titles = ["\u03bc", "\u22122 \u0394 log L", "CLs obs.", "CLs exp.", "status"]
        return Detail(result.name, titles, rows)
