"""Observed and expected CLs at one or several signal strengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fitserve.contract import HypotestRequest
from fitserve.kinds.base import TEST_STATS, Kind, cls_text, cls_titles, strengths_of
from fitserve.kinds.shown import at_strength, shown_strength

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.contract import HypothesisResult, ToyRange

__all__ = ["Hypotest"]

# Each further signal strength, on the published pallets.
_KERNEL_STRENGTH = 0.4


class Hypotest(Kind[HypotestRequest]):
    """CLs at signal strengths."""

    request = HypotestRequest
    options = (
        click.option(
            "--mu",
            type=float,
            multiple=True,
            default=(1.0,),
            show_default=True,
            help="Signal strength to test; may be repeated.",
        ),
    )
    flags = ("mu", "test_stat")
    verifiable = True

    def tests(self, request: HypotestRequest, parameters: int) -> float:
        return len(request.mu)

    def kernel_tests(self, request: HypotestRequest, parameters: int) -> float:
        return 1 + _KERNEL_STRENGTH * (len(request.mu) - 1)

    def problems(
        self, request: HypotestRequest, result: HypothesisResult, toys: ToyRange | None
    ) -> Iterator[str]:
        if result.status == "ok" and None in (result.CLs_obs, *result.CLs_exp):
            yield "it is ok and has no CLs"
        yield from strengths_of(request, result)

    def asked(self, request: HypotestRequest) -> list[tuple[str, str]]:
        strengths = ", ".join(f"{mu:g}" for mu in request.mu)
        return [
            ("Signal strengths", strengths),
            ("Test statistic", TEST_STATS[request.test_stat]),
        ]

    def titles(self, request: HypotestRequest) -> list[str]:
        return cls_titles(request)

    def cells(self, request: HypotestRequest, result: HypothesisResult) -> list[str]:
        point = at_strength(request, result, shown_strength(request) or 0.0)
        return [cls_text(point.CLs_obs), cls_text(point.CLs_exp[2])]
