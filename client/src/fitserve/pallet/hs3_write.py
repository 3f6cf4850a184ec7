"""Write a workspace of pyhf as HS3, in the dialect that ROOT 6.40 reads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fitserve.errors import InputError
from fitserve.pallet.checks import Findings, check_workspace
from fitserve.pallet.parameters import Outline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitserve.pallet.parameters import Settings

__all__ = ["write_hs3"]

_SIMULTANEOUS = "simPdf"
_LIKELIHOOD = "simPdf_obsData"


def write_hs3(workspace: dict[str, Any], where: str) -> dict[str, Any]:
    """Return HS3 of a complete workspace: one likelihood, and an analysis for each measurement.

    Names are ROOT's: ``alpha_`` before those of systematics, ``gamma_..._bin_0`` for factors of
    bins, ``Lumi`` for the luminosity.

    Parameters
    ----------
    workspace
        Valid by pyhf's schema.
    where
        Its name, for errors.

    Raises
    ------
    InputError
        The model has what HS3 as ROOT reads it does not have; the error names it.

    Examples
    --------
    >>> from fitserve.pallet.hs3_write import write_hs3
    >>> sample = {"name": "ttbar", "data": [10.0], "modifiers": []}
    >>> sample["modifiers"].append({"name": "mu", "type": "normfactor", "data": None})
    >>> workspace = {
    ...     "channels": [{"name": "SR", "samples": [sample]}],
    ...     "observations": [{"name": "SR", "data": [12]}],
    ...     "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": []}}],
    ...     "version": "1.0.0",
    ... }
    >>> content = write_hs3(workspace, "workspace.json")
    >>> [one["name"] for one in content["distributions"]], content["likelihoods"][0]["data"]
    (['model_SR'], ['obsData_SR'])
    """
    findings = Findings()
    base = check_workspace(workspace, findings)
    findings.take(base.configured)
    findings.conclude(where, force=True)
    outline = Outline(workspace["measurements"], base.parameters.by_name())
    return _Writer(workspace, outline, where).content()


class _Writer:
    def __init__(self, workspace: dict[str, Any], outline: Outline, where: str) -> None:
        self.workspace = workspace
        self.outline = outline
        self.where = where
        self.configured = {
            one["name"]: {each["name"]: each for each in one["config"]["parameters"]}
            for one in workspace["measurements"]
        }
        self.channels: dict[str, set[str]] = {}
        for channel in workspace["channels"]:
            for modifier in (one for each in channel["samples"] for one in each["modifiers"]):
                self.channels.setdefault(modifier["name"], set()).add(channel["name"])
        # ROOT's names of the components of each parameter, and those that have no uncertainty.
        self.components: dict[str, list[str]] = {}
        self.still: set[str] = set()
        self.constraints: dict[str, dict[str, Any]] = {}
        # Global observables, and where they are.
        self.constants: dict[str, float] = {}

    def refuse(self, cause: str, evidence: str) -> InputError:
        return InputError(f"{self.where} cannot be written as HS3: {cause}", evidence=evidence)

    def content(self) -> dict[str, Any]:
        names = [channel["name"] for channel in self.workspace["channels"]]
        axes = {
            channel["name"]: [
                {
                    "name": f"obs_x_{channel['name']}",
                    "min": 0.0,
                    "max": float(len(channel["samples"][0]["data"])),
                    "nbins": len(channel["samples"][0]["data"]),
                }
            ]
            for channel in self.workspace["channels"]
        }
        channels = [self._channel(one, axes[one["name"]]) for one in self.workspace["channels"]]
        data = [
            {
                "name": f"obsData_{one['name']}",
                "type": "binned",
                "axes": axes[one["name"]],
                "contents": one["data"],
            }
            for one in self.workspace["observations"]
            if one["name"] in axes
        ]
        models = [f"model_{name}" for name in names]
        combined = {
            "index_cat": "channelCat",
            "indices": [*range(len(names))],
            "labels": names,
        }
        analyses, domains, points, configs = [], [], [], {}
        for measurement in self.workspace["measurements"]:
            name = measurement["name"]
            free, values = self._parameters(measurement)
            poi = measurement["config"]["poi"]
            pois = self.components.get(poi, [])
            parts = {
                "nuisance_parameters": [one for one in free if one["name"] not in pois],
                "parameters_of_interest": [one for one in free if one["name"] in pois],
                "global_observables": [
                    {"name": one, "min": at - 10, "max": at + 10}
                    for one, at in self.constants.items()
                ],
            }
            domains += [
                {"name": f"{name}_{part}", "type": "product_domain", "axes": ranges}
                for part, ranges in parts.items()
            ]
            points.append({"name": name, "parameters": values})
            configs[name] = {"mcName": "ModelConfig", "pdfName": _SIMULTANEOUS}
            analyses.append(
                {
                    "name": name,
                    "likelihood": _LIKELIHOOD,
                    "parameters_of_interest": pois,
                    "domains": [f"{name}_{part}" for part in parts],
                    "init": name,
                }
            )
        default = self.workspace["measurements"][0]
        free, values = self._parameters(default)
        return {
            "metadata": {"hs3_version": "0.2"},
            "distributions": [*channels, *self.constraints.values()],
            "data": data,
            "likelihoods": [
                {
                    "name": _LIKELIHOOD,
                    "distributions": models,
                    "data": [f"obsData_{name}" for name in names],
                }
            ],
            "analyses": analyses,
            "domains": [
                *domains,
                {"name": "default_domain", "type": "product_domain", "axes": free},
            ],
            "parameter_points": [{"name": "default_values", "parameters": values}, *points],
            "misc": {
                "ROOT_internal": {
                    "ModelConfigs": configs,
                    "combined_datasets": {"obsData": combined},
                    "combined_distributions": {
                        _SIMULTANEOUS: {**combined, "distributions": models}
                    },
                }
            },
        }

    def _parameters(
        self, measurement: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the ranges of a measurement's free parameters, and the values of all."""
        free, values = [], []
        for name, components in self.components.items():
            settings: Settings = self.outline.settings(measurement, name)
            for component, value, (low, high) in zip(
                components, settings.inits, settings.bounds, strict=True
            ):
                one: dict[str, Any] = {"name": component, "value": value}
                if settings.fixed or component in self.still:
                    one["const"] = True
                else:
                    free.append({"name": component, "min": low, "max": high})
                values.append(one)
        constants = [
            {"name": name, "value": at, "const": True} for name, at in self.constants.items()
        ]
        return free, values + constants

    def _channel(self, channel: dict[str, Any], axes: list[dict[str, Any]]) -> dict[str, Any]:
        samples = [
            {
                "name": sample["name"],
                "data": {"contents": sample["data"]},
                "modifiers": [],
            }
            for sample in channel["samples"]
        ]
        statistical: dict[str, list[int]] = {}
        for index, sample in enumerate(channel["samples"]):
            for modifier in sample["modifiers"]:
                if modifier["type"] == "staterror":
                    statistical.setdefault(modifier["name"], []).append(index)
                else:
                    samples[index]["modifiers"].append(self._modifier(modifier, sample))
        content: dict[str, Any] = {
            "name": f"model_{channel['name']}",
            "type": "histfactory_dist",
            "axes": axes,
            "samples": samples,
        }
        # A channel has one staterror, whatever its name. Others are the shapesys that is the same.
        several = [name for name, members in statistical.items() if len(members) > 1]
        named = [name for name in statistical if name.startswith("staterror")]
        first = next(iter([*named, *several]), None)
        for name, members in statistical.items():
            errors = [_data(channel["samples"][one], name) for one in members]
            totals = [
                sum(column)
                for column in zip(
                    *(channel["samples"][one]["data"] for one in members), strict=True
                )
            ]
            widths = [
                math.hypot(*column) / total if total > 0 else 0.0
                for column, total in zip(zip(*errors, strict=True), totals, strict=True)
            ]
            if name == first:
                parameters = self._gammas(name, widths, f"stat_{channel['name']}")
                for index, error in zip(members, errors, strict=True):
                    samples[index]["data"]["errors"] = error
                    samples[index]["modifiers"].append(
                        {
                            "name": "staterror",
                            "type": "staterror",
                            "parameters": parameters,
                            "constraint_type": "Gauss",
                        }
                    )
                # ROOT takes the constraint from here.
                content["staterror"] = {"constraint_type": "Gauss"}
                continue
            alone = self.channels[name] == {channel["name"]}
            label = name if alone else f"{name}_{channel['name']}"
            parameters = self._gammas(name, widths, label)
            for index in members:
                samples[index]["modifiers"].append(_shapesys(name, parameters, widths, "Gauss"))
        return content

    def _modifier(self, modifier: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
        """Return a modifier other than a staterror."""
        name, type_, data = modifier["name"], modifier["type"], modifier["data"]
        if type_ == "normfactor":
            self.components[name] = [name]
            return {"name": name, "type": type_, "parameter": name}
        if type_ == "lumi":
            self.components[name] = ["Lumi"]
            configured = self._one(name, "auxdata", "sigmas")
            self.constants["nominalLumi"] = configured["auxdata"][0]
            return self._constrained(
                {"name": "Lumi", "type": "normfactor", "parameter": "Lumi"},
                "lumiConstraint",
                ("Lumi", "nominalLumi", configured["sigmas"][0]),
            )
        if type_ == "shapefactor":
            parameters = self._gammas(name, None, name, len(sample["data"]))
            return _shapesys(name, parameters, [0.0] * len(parameters), "Gauss")
        if type_ == "shapesys":
            self._one(name, "factors", "auxdata", refused=True)
            widths = [
                unc / value if value > 0 and unc > 0 else 0.0
                for unc, value in zip(data, sample["data"], strict=True)
            ]
            return _shapesys(name, self._gammas(name, widths, name), widths, "Poisson")
        parameter = f"alpha_{name}"
        self.components[name] = [parameter]
        self.constants[f"nom_{parameter}"] = self._one(name, "auxdata").get("auxdata", [0.0])[0]
        written: dict[str, Any] = {"name": name, "type": type_, "parameter": parameter}
        if type_ == "normsys":
            written["data"] = {"lo": data["lo"], "hi": data["hi"]}
        else:
            written["data"] = {
                "lo": {"contents": data["lo_data"]},
                "hi": {"contents": data["hi_data"]},
            }
        return self._constrained(
            written, f"{parameter}Constraint", (parameter, f"nom_{parameter}", 1.0)
        )

    def _constrained(
        self, modifier: dict[str, Any], name: str, of: tuple[str, str, float]
    ) -> dict[str, Any]:
        parameter, mean, sigma = of
        self.constraints[parameter] = {
            "name": name,
            "type": "gaussian_dist",
            "x": parameter,
            "mean": mean,
            "sigma": sigma,
        }
        return modifier | {"constraint_name": name}

    def _gammas(
        self, name: str, widths: Sequence[float] | None, label: str, bins: int = 0
    ) -> list[str]:
        """Return ROOT's names of the components of a parameter of bins, and keep them."""
        if widths is not None:
            self._one(name, "factors", "sigmas", "auxdata", refused=True)
        names = [f"gamma_{label}_bin_{one}" for one in range(bins or len(widths or ()))]
        before = self.components.get(name, [])
        if widths is None:
            self.components[name] = names if len(names) > len(before) else before
            return names
        # One of several channels: pyhf orders them by their names, as here.
        self.components[name] = before + [one for one in names if one not in before]
        self.still |= {one for one, width in zip(names, widths, strict=True) if width == 0}
        return names

    def _one(self, name: str, *keys: str, refused: bool = False) -> dict[str, Any]:
        """Return what measurements say of a parameter's constraint: all have to say the same."""
        said = [
            {key: one[name][key] for key in keys if key in one.get(name, {})}
            for one in self.configured.values()
        ]
        if any(one != said[0] for one in said):
            raise self.refuse("measurements differ in the constraint of a parameter", repr(name))
        if refused and said[0]:
            raise self.refuse(
                "a measurement replaces the constraint of bins", f"{name!r}: {', '.join(said[0])}"
            )
        return said[0]


def _data(sample: dict[str, Any], name: str) -> list[float]:
    """Return the data of a sample's staterror."""
    found: Iterable[list[float]] = (
        one["data"]
        for one in sample["modifiers"]
        if one["type"] == "staterror" and one["name"] == name
    )
    return next(iter(found))


def _shapesys(
    name: str, parameters: list[str], widths: Sequence[float], constraint: str
) -> dict[str, Any]:
    return {
        "name": name,
        "type": "shapesys",
        "parameters": parameters,
        "constraint_type": constraint,
        "data": {"vals": [*widths]},
    }
