"""A published likelihood in one's own process, asked about one signal after the other.

The engines are those of tasks, and everything that they keep stays from one call to the next: the
workspace that was read, its arrays, and compiled programs, which serve all signals of a kind. So a
scan of a model's parameters, in which each point follows from the last, costs milliseconds a point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from fitserve_contract import (
    EngineOptions,
    HypotestRequest,
    Hypothesis,
    LimitRequest,
    ModelOptions,
    ScanRequest,
    digest,
    poi_bounds,
    request_digest,
)
from fitserve_contract.errors import FitserveError
from fitserve_worker.engines import answers
from fitserve_worker.engines.base import Work

__all__ = ["Likelihood", "Profile", "Signal", "SignalError"]

Signal: TypeAlias = Hypothesis | Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""A signal: a hypothesis, a JSON Patch, or the events of each bin by channel."""


class SignalError(FitserveError):
    """A signal does not fit the workspace."""


class Profile(NamedTuple):
    """-log L of the observed data, minimised over all other parameters.

    ``free`` is its minimum, at signal strength ``muhat``; ``background`` is at zero, and ``held``
    at each of the signal strengths ``mu``. ``asimov`` is how far -log L of the background's Asimov
    data rises from its minimum to each of them.
    """

    muhat: float
    free: float
    background: float
    mu: tuple[float, ...]
    held: tuple[float, ...]
    asimov: tuple[float, ...]


class Likelihood:
    """A background-only workspace, to be asked about signals.

    Parameters
    ----------
    workspace
        The workspace. It must not be changed afterwards.
    measurement, poi
        Its measurement, and the parameter of interest; by default the first, and its own.
    modifiers
        Modifiers of signals that are given by their events, besides the parameter of interest: a
        luminosity, for instance.
    model, engine
        Interpolation codes, and what fits; ``measurement`` and ``poi`` of ``model`` do not count.

    Examples
    --------
    >>> from fitserve_worker.inprocess import Likelihood
    >>> modifiers = [{"name": "shape", "type": "shapesys", "data": [5.0, 2.0]}]
    >>> background = {"name": "background", "data": [50.0, 20.0], "modifiers": modifiers}
    >>> likelihood = Likelihood({
    ...     "channels": [{"name": "SR", "samples": [background]}],
    ...     "observations": [{"name": "SR", "data": [52.0, 18.0]}],
    ...     "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": []}}],
    ...     "version": "1.0.0",
    ... })
    >>> round(likelihood.upper_limit({"SR": [5.0, 5.0]}).limit.observed, 3)
    1.659
    >>> weak, strong = likelihood.hypotest([{"SR": [5.0, 5.0]}, {"SR": [0, 30.0]}])
    >>> weak.CLs_obs > 0.05 > strong.CLs_obs
    True
    """

    def __init__(
        self,
        workspace: Mapping[str, Any],
        *,
        measurement: str | None = None,
        poi: str | None = None,
        modifiers: Sequence[Mapping[str, Any]] = (),
        model: ModelOptions | None = None,
        engine: EngineOptions | None = None,
    ) -> None:
        self._workspace = dict(workspace)
        self._digest = digest(self._workspace)
        self._model = msgspec.structs.replace(
            model or ModelOptions(), measurement=measurement, poi=poi
        )
        self._engine = engine or EngineOptions()
        try:
            measured = next(
                one for one in self._workspace["measurements"] if measurement in (None, one["name"])
            )
            self.poi = poi or measured["config"]["poi"]
            self._upper = poi_bounds(measured, self._model)[1]
            self._channels = {
                channel["name"]: (at, len(channel["samples"]), len(channel["samples"][0]["data"]))
                for at, channel in enumerate(self._workspace["channels"])
            }
        except (LookupError, StopIteration, TypeError) as error:
            raise SignalError(
                "this is no workspace",
                evidence=f"{type(error).__name__}: {error}",
                hint="give a HistFactory workspace as pyhf has it, and one of its measurements",
            ) from error
        factor = {"name": self.poi, "type": "normfactor", "data": None}
        self._modifiers = [factor, *map(dict, modifiers)]

    @property
    def bins(self) -> dict[str, int]:
        """The number of bins of each channel."""
        return {name: bins for name, (_, _, bins) in self._channels.items()}

    def signal(self, events: Mapping[str, Any], name: str = "signal") -> Hypothesis:
        """Return the hypothesis of a signal of so many events in each bin.

        Parameters
        ----------
        events
            For each channel the events of its bins; channels that are missing have none.
        name
            The name of the sample and of the hypothesis.

        Raises
        ------
        SignalError
            There is no such channel, or it has another number of bins.
        """
        patch = []
        for channel, values in events.items():
            if channel not in self._channels:
                raise SignalError(
                    f"there is no channel {channel!r}",
                    evidence=f"the channels are {', '.join(self._channels)}",
                    hint="name the workspace's channels",
                )
            at, samples, bins = self._channels[channel]
            try:
                data = np.atleast_1d(np.asarray(values, dtype=np.float64))
            except (TypeError, ValueError):
                data = np.empty(0)
            if data.shape != (bins,) or not np.isfinite(data).all():
                raise SignalError(
                    f"the events of channel {channel!r} are not {bins} finite numbers",
                    evidence=f"they are {values!r:.200}",
                    hint="give one number for each bin of the channel",
                )
            sample = {"name": name, "data": data.tolist(), "modifiers": self._modifiers}
            patch.append(
                {"op": "add", "path": f"/channels/{at}/samples/{samples}", "value": sample}
            )
        return Hypothesis(name=name, values=(), patch=patch)

    def hypotest(
        self, signals: Signal | Sequence[Signal], mu: float | Sequence[float] = 1.0, **options: Any
    ) -> Any:
        """Test signals: observed and expected CLs at signal strengths.

        Parameters
        ----------
        signals
            One signal, or several.
        mu
            One signal strength, or several.
        options
            ``test_stat``, as in `fitserve_contract.HypotestRequest`.

        Returns
        -------
        fitserve_contract.HypothesisResult or list of them
            One for each signal; see its ``status`` before its numbers.
        """
        strengths = _strengths(mu)
        options = {**self._options(options), "model": self._wide(strengths)}
        return self._asked(signals, HypotestRequest(mu=strengths, **options))

    def upper_limit(
        self, signals: Signal | Sequence[Signal], level: float = 0.95, **options: Any
    ) -> Any:
        """Find the observed and expected upper limits on the strength of signals.

        The limits are in ``limit`` of the results; parameters and results are otherwise those of
        `hypotest`. A signal may be as weak or as strong as it likes.
        """
        return self._asked(signals, LimitRequest(level=level, **self._options(options)))

    def profile(self, signal: Signal, mu: float | Sequence[float] = 1.0, **options: Any) -> Profile:
        """Return -log L with the signal strength free, at zero, and held at given ones.

        Parameters
        ----------
        signal, mu, options
            As in `hypotest`. Signal strengths may be below zero where ``test_stat`` is ``"q"``.

        Raises
        ------
        SignalError
            There is no number.
        """
        strengths = _strengths(mu)
        options = {**self._options(options), "model": self._wide(strengths)}
        found = self._asked(signal, ScanRequest(mu=strengths, **options))
        points = found.points
        if found.twice_nll is None or any(point.twice_delta_nll is None for point in points):
            raise SignalError(
                f"there is no likelihood of {found.name!r}",
                evidence=found.reason or found.status,
                hint="look at the yields of the signal and of the background",
            )
        return Profile(
            muhat=found.muhat,
            free=found.twice_nll / 2,
            background=found.twice_nll_background / 2,
            mu=tuple(point.mu for point in points),
            held=tuple((found.twice_nll + point.twice_delta_nll) / 2 for point in points),
            asimov=tuple((point.q_asimov or 0.0) / 2 for point in points),
        )

    def max_likelihood(self, signal: Signal, **options: Any) -> tuple[float, float]:
        """Return the best-fit signal strength, and -log L there."""
        found = self.profile(signal, 0.0, **options)
        return found.muhat, found.free

    def negative_log_likelihood(self, signal: Signal, mu: float = 1.0, **options: Any) -> float:
        """Return -log L with the signal strength held, minimised over all other parameters."""
        return self.profile(signal, mu, **options).held[0]

    @property
    def workspace(self) -> dict[str, Any]:
        """The workspace; not to be changed."""
        return self._workspace

    @property
    def observations(self) -> dict[str, list[float]]:
        """The observed events of each channel."""
        return {one["name"]: list(one["data"]) for one in self._workspace["observations"]}

    def with_nominal_observations(self) -> Likelihood:
        """Return the same likelihood with the nominal events of the background as observed."""
        return self.with_observations(
            {
                channel["name"]: np.sum(
                    [one["data"] for one in channel["samples"]], axis=0
                ).tolist()
                for channel in self._workspace["channels"]
            }
        )

    def with_observations(self, observations: Mapping[str, Sequence[float]]) -> Likelihood:
        """Return the same likelihood of other observed events, by channel.

        Channels that are missing keep theirs.
        """
        made = [
            {**one, "data": list(observations.get(one["name"], one["data"]))}
            for one in self._workspace["observations"]
        ]
        return Likelihood(
            {**self._workspace, "observations": made},
            measurement=self._model.measurement,
            poi=self._model.poi,
            modifiers=self._modifiers[1:],
            model=self._model,
            engine=self._engine,
        )

    def _wide(self, mu: Sequence[float]) -> ModelOptions:
        """Return options with bounds of the signal strength that the given ones are within."""
        most = max(map(abs, mu), default=0.0)
        if not self._upper < most < math.inf:
            return self._model
        # Few bounds, so that what is kept for each serves again.
        return msgspec.structs.replace(self._model, mu_max=4.0 ** math.ceil(math.log(most, 4)))

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self._model, "engine": self._engine, **given}

    def _asked(self, signals: Any, request: Any) -> Any:
        several = not _is_one(signals)
        given = list(signals) if several else [signals]
        # The engines tell them apart by name.
        named = [
            msgspec.structs.replace(self._hypothesis(one), name=f"signal {at}")
            for at, one in enumerate(given)
        ]
        work = Work(self._digest, self._workspace, named, request, request_digest(request))
        by_name = {found.name: found for found in answers(work)}
        results = [
            msgspec.structs.replace(by_name[one.name], name=_name(given[at]) or one.name)
            for at, one in enumerate(named)
        ]
        return results if several else results[0]

    def _hypothesis(self, signal: Signal) -> Hypothesis:
        if isinstance(signal, Hypothesis):
            return signal
        if isinstance(signal, Mapping):
            return self.signal(signal)
        return Hypothesis(name="signal", values=(), patch=list(map(dict, signal)))


def _name(signal: Signal) -> str | None:
    return signal.name if isinstance(signal, Hypothesis) else None


def _is_one(signals: Any) -> bool:
    """Tell one signal from several: a JSON Patch is a list of operations."""
    if isinstance(signals, Hypothesis | Mapping):
        return True
    if not isinstance(signals, Iterable) or isinstance(signals, str | bytes):
        raise SignalError(
            "this is no signal",
            evidence=f"it is a {type(signals).__name__}",
            hint="give a JSON Patch, or the events of each bin by channel",
        )
    return all(isinstance(one, Mapping) and "op" in one for one in signals)


def _strengths(mu: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(float(one) for one in np.atleast_1d(np.asarray(mu, dtype=float)))
