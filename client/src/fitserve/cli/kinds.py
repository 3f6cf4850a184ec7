"""The options of `fitserve run` that say what to compute."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from fitserve.contract import MAX_STRENGTHS, MAX_TOYS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["asking", "request_options"]

_Command = TypeVar("_Command", bound="Callable[..., Any]")

_KINDS = ("limit", "scan", "fit", "ranking", "toys")
# Which options belong to which kinds of request, besides those of every kind.
_OF_KINDS = {
    "mu": ("hypotest", "toys"),
    "level": ("limit",),
    "intervals": ("fit",),
    "background_only": ("fit",),
    "seed": ("toys",),
    "test_stat": ("hypotest", "limit", "scan", "toys"),
}


def _strengths(_: click.Context, __: click.Parameter, text: str | None) -> list[float] | None:
    """Return the signal strengths of ``START:STOP:STEP`` or a list with commas."""
    if text is None:
        return None
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


def asking(command: _Command) -> _Command:
    """Add the options that say what to compute: by default CLs at ``--mu``."""
    for option in (
        click.option(
            "--seed",
            type=click.IntRange(min=0, max=2**53 - 1),
            default=0,
            show_default=True,
            help="With --toys: decides which toys.",
        ),
        click.option(
            "--toys",
            type=click.IntRange(min=1, max=MAX_TOYS),
            metavar="N",
            help="CLs by N pseudo-experiments with signal and N without, at one --mu.",
        ),
        click.option("--ranking", is_flag=True, help="Impacts of the nuisance parameters."),
        click.option(
            "--background-only",
            is_flag=True,
            help="With --fit: the workspace without a signal, instead of the hypotheses.",
        ),
        click.option(
            "--intervals",
            is_flag=True,
            help="With --fit: profile-likelihood intervals of every parameter too.",
        ),
        click.option("--fit", is_flag=True, help="Best fit, pulls, correlations and yields."),
        click.option(
            "--scan",
            metavar="START:STOP:STEP",
            callback=_strengths,
            help="Profile likelihood and CLs at these signal strengths (or at 0,0.5,2).",
        ),
        click.option(
            "--level",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            default=0.95,
            show_default=True,
            help="With --limit: the confidence level.",
        ),
        click.option("--limit", is_flag=True, help="Observed and expected upper limits on mu."),
        click.option(
            "--mu",
            type=float,
            multiple=True,
            default=(1.0,),
            show_default=True,
            help="Signal strength to test; may be repeated.",
        ),
    ):
        command = option(command)
    return command


def request_options(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `fitserve.api.make_request` that the options stand for.

    Raises
    ------
    click.UsageError
        Options are of different kinds of request.
    """
    chosen = [kind for kind in _KINDS if options[kind]]
    if len(chosen) > 1:
        raise click.UsageError(f"--{chosen[0]} and --{chosen[1]} are two requests: make two runs")
    kind = chosen[0] if chosen else "hypotest"
    arguments: dict[str, Any] = {"kind": kind}
    for name, kinds in _OF_KINDS.items():
        if kind in kinds:
            arguments[name] = options[name]
        elif context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            flag = name.replace("_", "-")
            if kind == "hypotest":
                raise click.UsageError(f"--{flag} goes with --{kinds[0]}")
            raise click.UsageError(f"--{flag} does not go with --{kind}")
    if kind == "toys":
        if len(options["mu"]) > 1:
            raise click.UsageError("toys are made at one --mu: make a run for each")
        arguments |= {"toys": options["toys"], "mu": options["mu"][0]}
    if kind == "scan":
        arguments["mu"] = options["scan"]
    return arguments
