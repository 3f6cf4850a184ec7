"""SModelS' interface to pyhf, with the fit kernel behind it.

`use` puts it in the place of SModelS' own, for all that SModelS computes afterwards. Or make a
`PyhfUpperLimitComputer` with a `smodels.statistics.pyhfInterface.PyhfData`, as SModelS does.
Results mean what they mean there: limits on the strength of the given signals, CLs, and -log L of
pyhf's models. -log L of Asimov data is left to SModelS' own methods.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from smodels.base.smodelsLogging import logger
from smodels.statistics import pyhfInterface, statsTools
from smodels.statistics.basicStats import aposteriori, apriori, clsType, observed

from fitserve_contract import Hypothesis
from fitserve_worker.inprocess import Likelihood

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitserve_contract import HypothesisResult

__all__ = ["PyhfUpperLimitComputer", "use"]

# Workspaces that are kept. They are told apart by identity: SModelS keeps one object for each.
_KEPT = 16
_likelihoods: LRUCache[tuple[int, tuple[str, ...], bool], tuple[Any, Likelihood]] = LRUCache(_KEPT)
_MEDIAN = 2
_Theirs: Any = pyhfInterface.PyhfUpperLimitComputer


def use(*, fitserve: bool = True) -> None:
    """Have SModelS compute limits and likelihoods of pyhf's models by fitserve, or by itself again.

    Parameters
    ----------
    fitserve
        Whether to.
    """
    chosen = PyhfUpperLimitComputer if fitserve else _Theirs
    pyhfInterface.PyhfUpperLimitComputer = chosen
    statsTools.PyhfUpperLimitComputer = chosen


class PyhfUpperLimitComputer(_Theirs):  # type: ignore[misc]  # SModelS has no types
    """Upper limits, CLs and likelihoods of the signals of a ``PyhfData``.

    Parameters
    ----------
    data
        SModelS' ``PyhfData``: a background-only workspace and the signals in its regions.
    cl
        Confidence level of upper limits.
    lumi
        The luminosity.
    """

    def __init__(self, data: Any, cl: float = 0.95, lumi: Any = None) -> None:
        # SModelS calls this again to begin anew. It makes two workspaces of pyhf's each time, which
        # only its own methods need: here they are made when they are asked for.
        self.data, self.cl, self.lumi = data, cl, lumi
        self.name = data.jsonFileName
        self.dataType = "pyhf"
        self.allowNegativeSignals = False
        self.nsignals = copy.deepcopy(data.nsignals)
        self.inputJson = data.inputJson
        self.channelsInfo = getattr(data, "channelsInfo", None)
        self.zeroSignalsFlag = data.zeroSignalsFlag
        self.includeCRs = data.includeCRs
        self.patch = self.patchMaker()
        self._made: dict[bool, Any] = {}
        self.scale = 1.0
        self.sigma_mu = None
        self.alreadyBeenThere = False
        if "_found" not in self.__dict__:
            self._found: dict[Any, HypothesisResult] = {}

    @property
    def workspace(self) -> Any:
        """The workspace of pyhf with the signal, None if it cannot be made."""
        return self._workspace(expected=False)

    @workspace.setter
    def workspace(self, made: Any) -> None:
        self._made[False] = made

    @property
    def workspace_expected(self) -> Any:
        """The same with the nominal events of the background as observed ones."""
        return self._workspace(expected=True)

    @workspace_expected.setter
    def workspace_expected(self, made: Any) -> None:
        self._made[True] = made

    def _workspace(self, *, expected: bool) -> Any:
        if expected not in self._made:
            self._made[expected] = self.wsMaker(apriori=expected)
        return self._made[expected]

    def _getUpperLimitOnMu(self, evaluationType: Any = observed, nSigma: int = 0) -> float | None:
        self.__init__(self.data, self.cl, self.lumi)  # type: ignore[misc]
        if self.data.errorFlag or self.patch is None or self.zeroSignalsFlag:
            return None
        limits = self._limits(evaluationType).limit
        if limits is None:
            return None
        at = _expected(evaluationType, nSigma)
        return limits.observed if at is None else limits.expected[at]

    def _CLs(
        self,
        mu_rel: float,
        evaluationType: Any,
        return_type: str = "CLs",
        nSigma: int = 0,
    ) -> float:
        if mu_rel == 0 or not any(self.nsignals.values()):
            cls: float | None = 1.0
        else:
            found = self._tested(mu_rel, evaluationType)
            at = _expected(evaluationType, nSigma)
            cls = found.CLs_obs if at is None else found.CLs_exp[at]
        return clsType(math.nan if cls is None else cls, return_type, 0.95)  # type: ignore[no-any-return]

    def nll(
        self, mu: float = 1.0, evaluationType: Any = observed, asimov: float | None = None
    ) -> float | None:
        """Return -log L at a signal strength, None if there is none."""
        if asimov is not None:
            return super().nll(mu, evaluationType, asimov)  # type: ignore[no-any-return]
        self.__init__(self.data, self.cl, self.lumi)  # type: ignore[misc]
        found = self._tested(mu, evaluationType)
        if found.twice_nll is None or found.points[0].twice_delta_nll is None:
            return None
        return (found.twice_nll + found.points[0].twice_delta_nll) / 2

    def nll_min(
        self, evaluationType: Any = observed, allowNegativeSignals: bool = False
    ) -> dict[str, float] | None:
        """Return the best-fit signal strength, its uncertainty, and -log L there.

        The uncertainty is that of the background's Asimov data, arXiv:1007.1727, eq. 30, at the
        median expected limit: it is defined where the best fit is at a bound too.
        """
        self.__init__(self.data, self.cl, self.lumi)  # type: ignore[misc]
        found = self._limits(evaluationType, "q" if allowNegativeSignals else "qtilde")
        if found.twice_nll is None or found.muhat is None:
            return None
        points = [point for point in found.points if point.q_asimov]
        middle = found.limit.expected[_MEDIAN] if found.limit else None
        nearest = min(points, key=lambda one: abs(one.mu - (middle or 1.0)), default=None)
        sigma = nearest.mu / math.sqrt(nearest.q_asimov or 1.0) if nearest else math.nan
        return {"muhat": found.muhat, "sigma_mu": sigma, "nll_min": found.twice_nll / 2}

    def _limits(self, evaluation: Any, test_stat: str = "qtilde") -> HypothesisResult:
        key = ("limits", self._yields(), self.cl, evaluation == apriori, test_stat)
        if key not in self._found:
            likelihood, signal = self._posed(1.0, evaluation)
            found = likelihood.upper_limit(signal, self.cl, test_stat=test_stat)
            self._found[key] = _told(found, self.name)
        return self._found[key]

    def _tested(self, mu: float, evaluation: Any) -> HypothesisResult:
        key = ("test", self._yields(), mu, evaluation == apriori)
        if key not in self._found:
            # As SModelS does it: the signal is scaled, whatever the bounds of its strength.
            likelihood, signal = self._posed(mu, evaluation)
            self._found[key] = _told(likelihood.hypotest(signal), self.name)
        return self._found[key]

    def _yields(self) -> tuple[Any, ...]:
        return tuple(self.nsignals.items())

    def _posed(self, scale: float, evaluation: Any) -> tuple[Likelihood, Hypothesis]:
        """Return the likelihood of the regions that are fitted, and the signal in them."""
        removed = {int(one["path"].split("/")[2]) for one in self.patch if one["op"] == "remove"}
        names = [channel["name"] for channel in self.inputJson["channels"]]
        kept = [at for at in range(len(names)) if at not in removed]
        likelihood = _likelihood(
            self.inputJson, tuple(names[at] for at in kept), expected=evaluation == apriori
        )
        patch = []
        for one in self.patch:
            if one["op"] != "add":
                continue
            at = kept.index(int(one["path"].split("/")[2]))
            sample = _scaled(one["value"], scale)
            patch.append({"op": "add", "path": f"/channels/{at}/samples/0", "value": sample})
        return likelihood, Hypothesis(name=str(self.name), values=(), patch=patch)


def _expected(evaluation: Any, sigmas: int) -> int | None:
    """Return which of the expected values SModelS asks for, None for the observed one."""
    return _MEDIAN + sigmas if evaluation == aposteriori or sigmas else None


def _scaled(sample: Mapping[str, Any], scale: float) -> dict[str, Any]:
    def times(values: list[float]) -> list[float]:
        # SModelS takes numbers of NumPy, of which no JSON can be made.
        return [float(scale * value) for value in values]

    modifiers = [
        {**one, "data": {side: times(values) for side, values in one["data"].items()}}
        if one["type"] == "histosys"
        else one
        for one in sample["modifiers"]
    ]
    return {**sample, "data": times(sample["data"]), "modifiers": modifiers}


def _likelihood(
    workspace: Mapping[str, Any], channels: tuple[str, ...], *, expected: bool
) -> Likelihood:
    key = id(workspace), channels, expected
    # What is kept keeps the workspace, so that its identity is not another's.
    kept = _likelihoods.get(key)
    if kept is None:
        chosen = [one for one in workspace["channels"] if one["name"] in channels]
        observations = [one for one in workspace["observations"] if one["name"] in channels]
        made = Likelihood({**workspace, "channels": chosen, "observations": observations})
        kept = workspace, made.with_nominal_observations() if expected else made
        _likelihoods[key] = kept
    return kept[1]


def _told(found: HypothesisResult, name: object) -> HypothesisResult:
    if found.status != "ok":
        logger.warning(f"fitserve: {name}: {found.status}: {found.reason}")
    return found
