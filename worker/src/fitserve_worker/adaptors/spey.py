"""A backend of Spey, with the fit kernel behind it: ``spey.get_backend("fitserve.full")``.

It takes what Spey's ``pyhf`` backend takes. Spey's own search for limits and its formulae for CLs
stay as they are; what it minimises, -log L over the nuisance parameters, is minimised here, for
observed and Asimov data at a time. -log L of Asimov data is given relative to its minimum: CLs
and limits depend on differences alone. Where Spey needs the likelihood of other data, or at given
nuisance parameters, that is pyhf's.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cachetools import LRUCache
from spey import BackendBase, ExpectationType
from spey.base.model_config import ModelConfig

from fitserve_contract._version import __version__
from fitserve_worker.inprocess import Likelihood

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fitserve_worker.inprocess import Profile

__all__ = ["FullStatisticalModel"]

# The lowest signal strength where negative ones are allowed, as in Spey's pyhf backend.
_MINIMUM = -10.0
# Workspaces that are kept, told apart by identity.
_KEPT = 16


class FullStatisticalModel(BackendBase):  # type: ignore[misc]  # Spey has no types
    """A published likelihood with a signal.

    Parameters
    ----------
    signal_patch
        The signal, as a JSON Patch for the background-only model.
    background_only_model
        The background-only workspace, or the path of one. The workspaces of models that are made
        of the same object, or the same path, are read once.
    """

    name = "fitserve.full"
    version = __version__
    author = "fitserve"
    spey_requires = ">=0.2.0,<0.3.0"
    doi: tuple[str, ...] = ()

    def __init__(
        self,
        signal_patch: Sequence[Mapping[str, Any]],
        background_only_model: Mapping[str, Any] | str,
    ) -> None:
        self._observed = _likelihood(background_only_model)
        self._apriori: Likelihood | None = None
        self._patch = list(map(dict, signal_patch))
        self._profiles: dict[tuple[bool, str, float], Profile] = {}

    @property
    def is_alive(self) -> bool:
        """Whether the signal has events in any bin."""
        values = [one["value"] for one in self._patch if one["op"] == "add"]
        return any(event > 0 for one in values for event in one.get("data", ()))

    def config(
        self, allow_negative_signal: bool = True, poi_upper_bound: float = 10.0
    ) -> ModelConfig:
        """Return the parameters of pyhf's model: names, initial values and bounds."""
        config = self._model.config
        bounds = list(config.suggested_bounds())
        low = _MINIMUM if allow_negative_signal else 0.0
        bounds[config.poi_index] = (low, poi_upper_bound)
        return ModelConfig(
            poi_index=config.poi_index,
            minimum_poi=_MINIMUM,
            suggested_init=config.suggested_init(),
            suggested_bounds=bounds,
            parameter_names=config.par_names,
            suggested_fixed=config.suggested_fixed(),
        )

    def get_logpdf_func(
        self,
        expected: ExpectationType = ExpectationType.observed,
        data: Sequence[float] | None = None,
    ) -> Callable[[Any], float]:
        """Return log L of all parameters, by pyhf."""
        if data is None:
            events = self._likelihood(expected).observations
            channels = self._model.config.channels
            data = [event for name in channels for event in events[name]]
            data += self._model.config.auxdata
        return lambda pars: float(np.asarray(self._model.logpdf(pars, data)).item())

    def expected_data(self, pars: Sequence[float]) -> list[float]:
        """Return the expected events of all bins and the auxiliary data, by pyhf."""
        return [float(one) for one in self._model.expected_data(pars)]

    def negative_loglikelihood(
        self,
        poi_test: float = 1.0,
        expected: ExpectationType = ExpectationType.observed,
        **others: Any,
    ) -> float:
        """Return -log L with the signal strength held, minimised over all other parameters."""
        self._must_be_plain(others)
        return self._profile(expected, "q", poi_test).held[0]

    def minimize_negative_loglikelihood(
        self,
        expected: ExpectationType = ExpectationType.observed,
        allow_negative_signal: bool = True,
        **others: Any,
    ) -> tuple[float, float]:
        """Return the best-fit signal strength and -log L there."""
        self._must_be_plain(others)
        found = self._profile(expected, "q" if allow_negative_signal else "qtilde", 0.0)
        if found.muhat < 0 and not allow_negative_signal:
            return 0.0, found.background
        return found.muhat, found.free

    def asimov_negative_loglikelihood(
        self,
        poi_test: float = 1.0,
        expected: ExpectationType = ExpectationType.observed,
        test_statistics: str = "qtilde",
        **others: Any,
    ) -> float:
        """Return by how much -log L of the background's Asimov data is above its minimum."""
        self._must_be_plain(others, test_statistics)
        return self._profile(expected, "q", poi_test).asimov[0]

    def minimize_asimov_negative_loglikelihood(
        self,
        expected: ExpectationType = ExpectationType.observed,  # noqa: ARG002 - Spey's call
        test_statistics: str = "qtilde",
        **others: Any,
    ) -> tuple[float, float]:
        """Return the best fit to the background's Asimov data: no signal."""
        self._must_be_plain(others, test_statistics)
        return 0.0, 0.0

    def _must_be_plain(self, others: Mapping[str, Any], test_statistics: str = "qtilde") -> None:
        """Leave to Spey's own fits what is asked of other data, or besides the value."""
        names = ("data", "return_parameters", "poi_indices", "par_bounds")
        if any(others.get(name) is not None and others.get(name) is not False for name in names):
            raise NotImplementedError
        if test_statistics not in ("qtilde", "q", "qmu"):
            raise NotImplementedError

    def _likelihood(self, expected: ExpectationType) -> Likelihood:
        if expected != ExpectationType.apriori:
            return self._observed
        if self._apriori is None:
            self._apriori = _apriori(self._observed)
        return self._apriori

    def _profile(self, expected: ExpectationType, test_stat: str, mu: Any) -> Profile:
        if isinstance(mu, dict):
            raise NotImplementedError
        key = expected == ExpectationType.apriori, test_stat, float(mu)
        if key not in self._profiles:
            likelihood = self._likelihood(expected)
            self._profiles[key] = likelihood.profile(self._patch, key[2], test_stat=test_stat)
        return self._profiles[key]

    @functools.cached_property
    def _model(self) -> Any:
        import pyhf

        return pyhf.Workspace(self._observed.workspace).model(
            patches=[self._patch],
            modifier_settings={
                "normsys": {"interpcode": "code4"},
                "histosys": {"interpcode": "code4p"},
            },
        )


_kept: LRUCache[int | str, tuple[Any, Likelihood]] = LRUCache(_KEPT)
_expected: LRUCache[int, tuple[Likelihood, Likelihood]] = LRUCache(_KEPT)


def _likelihood(workspace: Mapping[str, Any] | str) -> Likelihood:
    # What is kept keeps the workspace, so that its identity is not another's.
    key = workspace if isinstance(workspace, str) else id(workspace)
    if key not in _kept:
        content: Any = json.loads(Path(key).read_text()) if isinstance(key, str) else workspace
        _kept[key] = workspace, Likelihood(content)
    return _kept[key][1]


def _apriori(likelihood: Likelihood) -> Likelihood:
    """Return the likelihood of the background's nominal events."""
    if id(likelihood) not in _expected:
        _expected[id(likelihood)] = likelihood, likelihood.with_nominal_observations()
    return _expected[id(likelihood)][1]
