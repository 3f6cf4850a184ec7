"""Observed and expected CLs at one or several signal strengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fitserve.kinds.base import OfStrengths, at_strength, cls_text, of_strength, shown_strength
from fitserve_contract import HypotestRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve_contract import HypothesisResult, ToyRange

__all__ = ["Hypotest"]


class Hypotest(OfStrengths[HypotestRequest]):
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

    def problems(
        self, request: HypotestRequest, result: HypothesisResult, toys: ToyRange | None
    ) -> Iterator[str]:
        if result.status == "ok" and None in (result.CLs_obs, *result.CLs_exp):
            yield "it is ok and has no CLs"
        yield from super().problems(request, result, toys)

    def question(self, request: HypotestRequest) -> tuple[str, str]:
        return "Signal strengths", ", ".join(f"{mu:g}" for mu in request.mu)

    def titles(self, request: HypotestRequest) -> list[str]:
        at = of_strength(request)
        return [f"CLs obs{at}", f"CLs exp{at}"]

    def cells(self, request: HypotestRequest, result: HypothesisResult) -> list[str]:
        point = at_strength(request, result, shown_strength(request) or 0.0)
        return [cls_text(point.CLs_obs), cls_text(point.CLs_exp[2])]
