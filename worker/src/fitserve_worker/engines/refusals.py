"""What cannot be fitted, whichever engine is asked, and in whose words it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitserve.contract import PatchError, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.contract import Request
    from fitserve_worker.engines.models import BuiltModel
    from fitserve_worker.kernel.batch import Batch

__all__ = ["UnfitError", "below_zero", "check_model", "in_words", "refused", "unbuilt"]

_SHOWN = 3


class UnfitError(Exception):
    """A hypothesis cannot be fitted; the message is for the user."""


def in_words(error: Exception) -> str:
    """Return the reason of a result that an exception has prevented."""
    # Known by their modules: the kernel alone is not to wait for pyhf.
    module = type(error).__module__
    if isinstance(error, UnfitError) or module == "pyhf.exceptions":
        return str(error)
    if isinstance(error, PatchError):
        return f"the patch does not apply: {error}"
    if isinstance(error, MemoryError):
        return "the fit broke off: the worker has not enough memory for it"
    return f"the fit broke off: {str(error) or 'no reason is given'}"


def unbuilt(spec: dict[str, Any], error: Exception) -> UnfitError:
    """Return the error for a patched workspace of which pyhf makes no model.

    It has no words for a luminosity without settings, for a staterror that the samples which
    share it have in different channels, and for one with a slash in its name.
    """
    where: dict[str, dict[str, set[str]]] = {}
    lumi = False
    for channel in spec["channels"]:
        for sample in channel["samples"]:
            for modifier in sample["modifiers"]:
                lumi |= modifier["type"] == "lumi"
                if modifier["type"] == "staterror":
                    samples = where.setdefault(modifier["name"], {})
                    samples.setdefault(sample["name"], set()).add(channel["name"])
    uneven = [name for name, each in where.items() if len(set(map(frozenset, each.values()))) > 1]
    if isinstance(error, AssertionError) and uneven:
        return UnfitError(
            f"staterror {uneven[0]!r} is shared unevenly: not all samples that have it have it in "
            "the same channels"
        )
    slash = [name for name in where if "/" in name]
    if isinstance(error, KeyError) and slash:
        return UnfitError(f"pyhf does not take a staterror with a slash in its name: {slash[0]!r}")
    if isinstance(error, TypeError) and lumi:
        return UnfitError(
            "the measurement does not say what lumi is: it needs inits, bounds, auxdata and sigmas"
        )
    return UnfitError(f"pyhf makes no model of the patched workspace: {error}")


def check_model(built: BuiltModel, request: Request) -> None:
    """Refuse what pyhf's optimizers would be asked in vain, or would answer for something else.

    Raises
    ------
    UnfitError
        A parameter starts outside its bounds, or that of interest cannot be what is asked for.
    """
    config = built.model.config
    bounds = config.suggested_bounds()
    for name, init, (low, high) in zip(
        config.par_names, config.suggested_init(), bounds, strict=True
    ):
        if not low <= init <= high:
            raise UnfitError(
                f"parameter {name!r} starts at {init:g}, outside its bounds {low:g} to {high:g}"
            )
    at = config.poi_index
    if at is not None:
        fixed = bool(config.suggested_fixed()[at])
        told = refusal(request, config.poi_name, *bounds[at], fixed=fixed)
        if told is not None:
            raise UnfitError(": ".join(told))


def refused(request: Request, batch: Batch) -> list[str]:
    """Return the hypotheses of a batch that are not for the kernel to fit, but to refuse."""
    found = []
    for member in batch.members:
        poi = member.sets.get(batch.poi) or member.common.get(batch.poi)
        if poi is not None and refusal(
            request, batch.poi, float(poi.lower[0]), float(poi.upper[0])
        ):
            found.append(member.name)
    return found


def below_zero(built: BuiltModel) -> str:
    """Say which systematics take the expected yields of which bins below zero, if any do."""
    told = []
    for channel, index, value, name, at in _negative(built):
        told.append(f"bin {index} of channel {channel!r} is {value:g} with {name!r} at {at:+g}")
        if len(told) == _SHOWN:
            break
    return f"the expected yields are below zero: {', '.join(told)}" if told else ""


def _negative(built: BuiltModel) -> Iterator[tuple[str, int, float, str, float]]:
    """Yield channel, bin, yield, parameter and its value, one standard deviation either way.

    The signal strength is at zero. Only a histosys adds to yields, and only a yield that is
    negative falls as a factor grows.
    """
    model = built.model
    config = model.config
    factors = bool((model.main_model.nominal_rates < 0).any())
    names = {name for name, type_ in config.modifiers if factors or type_ == "histosys"}
    bins = [(channel, index) for channel, n in config.channel_nbins.items() for index in range(n)]
    initial = config.suggested_init()
    if config.poi_index is not None:
        initial[config.poi_index] = 0.0
    for name in config.par_order:
        made = config.param_set(name)
        if name not in names or not made.is_scalar or not made.constrained:
            continue
        for sign in (-1.0, 1.0):
            values = list(initial)
            at = config.par_slice(name).start
            values[at] += sign * made.width()[0]
            expected = model.expected_actualdata(values)
            for (channel, index), value in zip(bins, expected, strict=True):
                if value < 0:
                    yield channel, index, float(value), name, values[at]
