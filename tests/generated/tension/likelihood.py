"""-2 log L of a patched workspace, as pyhf defines it, for many parameter points at once.

Written from the specification (HistFactory, CERN-OPEN-2012-016, with interpolation code4 for
normsys and code4p for histosys) and not from the kernel or pyhf, with its first derivatives.
A cell is a bin of one sample in one channel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import gammaln, xlogy

__all__ = ["Data", "Likelihood"]

Array = np.ndarray[Any, np.dtype[np.float64]]

_FACTOR_BOUNDS = {"normfactor": (0.0, 10.0), "shapefactor": (0.0, 10.0)}
_PER_BIN = ("shapesys", "staterror", "shapefactor")


class Data(NamedTuple):
    """Observed events of the bins, and the auxiliary data of the parameters (NaN: none)."""

    events: Array
    auxiliary: Array


class _Systematic(NamedTuple):
    """A normsys or histosys of all the samples it acts on.

    ``cells`` are the indices of its cells; ``up`` and ``down`` are their slopes above +1 and
    below -1, ``inner`` the coefficients of the polynomial between.
    """

    kind: str
    parameter: int
    cells: Any
    up: Array
    down: Array
    inner: Array


class Likelihood:
    """-2 log L of a workspace with its signal.

    ``names``, ``inits``, ``lower``, ``upper`` and ``widths`` (of the constraints, NaN: none)
    describe the parameters, a parameter of several bins as ``name[i]``; ``poi`` is the index
    of the parameter of interest. If it is ``positive``, it is infinite also where samples expect
    fewer than no events, by more than a tenth of the standard deviation of the bin's.
    """

    def __init__(self, spec: dict[str, Any], *, positive: bool = False) -> None:
        self._positive = positive
        self.names: list[str] = []
        self._init: list[tuple[float, float, float]] = []
        self._normal: dict[int, tuple[float, float]] = {}
        self._poisson: dict[int, float] = {}
        config = spec["measurements"][0]["config"]
        self._configs = {one["name"]: one for one in config["parameters"]}
        observed = {one["name"]: one["data"] for one in spec["observations"]}
        nominal: list[float] = []
        bins: list[int] = []
        factors: list[list[int]] = []
        variations: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
        events: list[float] = []
        for channel in spec["channels"]:
            first = len(events)
            events += observed[channel["name"]]
            self._staterrors(channel["samples"])
            for sample in channel["samples"]:
                for at, value in enumerate(sample["data"]):
                    nominal.append(value)
                    bins.append(first + at)
                    factors.append([])
                    for modifier in sample["modifiers"]:
                        self._apply(modifier, at, value, len(nominal) - 1, factors[-1], variations)
        self._nominal = np.array(nominal)
        self.poi = self.names.index(config["poi"])
        self.inits, self.lower, self.upper = np.array(self._init).T
        self._systematics = [
            self._systematic(kind, name, np.array(rows))
            for (kind, name), rows in variations.items()
        ]
        size, count = len(self.names), len(nominal)
        slots = max(map(len, factors))
        # An index past the parameters is that of a factor of 1.
        self._slots = np.full((slots, count), size)
        for cell, indices in enumerate(factors):
            self._slots[: len(indices), cell] = indices
        self._bins = len(events)
        self._to_bins = sparse.csr_array(
            (np.ones(count), (np.array(bins), np.arange(count))), (self._bins, count)
        )
        self._bin_of = np.array(bins)
        self._scatter = self._scattering()
        self._constraints()
        self.data = Data(np.array(events), self._centres)

    def _systematic(self, kind: str, name: str, rows: Array) -> _Systematic:
        cells, up, down = rows.T
        inner = _inner(kind, up, down)
        if kind == "normsys":
            up, down = np.log(up), -np.log(down)
        return _Systematic(kind, self.names.index(name), cells.astype(int), up, down, inner)

    def _parameter(self, name: str, init: float, low: float, high: float) -> int:
        if name not in self.names:
            self.names.append(name)
            self._init.append((init, low, high))
        return self.names.index(name)

    def _staterrors(self, samples: list[Any]) -> None:
        """Add a channel's staterror parameters: widths add in squares over the samples."""
        totals: dict[str, list[Array]] = {}
        for sample in samples:
            for modifier in sample["modifiers"]:
                if modifier["type"] == "staterror":
                    data = np.array(sample["data"]), np.array(modifier["data"]) ** 2
                    totals.setdefault(modifier["name"], []).append(np.array(data))
        for name, each in totals.items():
            nominal, squares = np.sum(each, axis=0)
            for at, width in enumerate(np.sqrt(squares) / nominal):
                index = self._parameter(f"{name}[{at}]", 1.0, 1e-10, 10.0)
                self._normal[index] = (1.0, float(width))

    def _apply(
        self,
        modifier: dict[str, Any],
        at: int,
        value: float,
        cell: int,
        factors: list[int],
        variations: dict[tuple[str, str], list[tuple[int, float, float]]],
    ) -> None:
        name, kind, data = modifier["name"], modifier["type"], modifier["data"]
        if kind in ("normsys", "histosys"):
            self._normal[self._parameter(name, 0.0, -5.0, 5.0)] = (0.0, 1.0)
            if kind == "normsys":
                row = (cell, data["hi"], data["lo"])
            else:
                row = (cell, data["hi_data"][at] - value, value - data["lo_data"][at])
            variations.setdefault((kind, name), []).append(row)
            return
        if kind == "lumi":
            config = self._configs[name]
            index = self._parameter(name, config["inits"][0], *config["bounds"][0])
            self._normal[index] = (config["auxdata"][0], config["sigmas"][0])
        else:
            low, high = _FACTOR_BOUNDS.get(kind, (1e-10, 10.0))
            full = f"{name}[{at}]" if kind in _PER_BIN else name
            index = self._parameter(full, 1.0, low, high)
            if kind == "shapesys":
                self._poisson[index] = (value / data[at]) ** 2
        factors.append(index)

    def _scattering(self) -> Any:
        """Return the matrix from derivatives of cells in slots to those of bins."""
        slots, count = self._slots.shape
        size = len(self.names)
        cells = np.broadcast_to(np.arange(count), (slots, count)).ravel()
        parameters = self._slots.ravel()
        real = np.flatnonzero(parameters < size)
        rows = self._bin_of[cells[real]] * size + parameters[real]
        return sparse.csr_array(
            (np.ones(len(real)), (rows, real)), (self._bins * size, slots * count)
        )

    def _constraints(self) -> None:
        size = len(self.names)
        self._centres = np.full(size, np.nan)
        self.widths = np.full(size, np.nan)
        self._n = np.array(list(self._normal), dtype=int)
        self._p = np.array(list(self._poisson), dtype=int)
        for index, (centre, width) in self._normal.items():
            self._centres[index], self.widths[index] = centre, width
        for index, rate in self._poisson.items():
            self._centres[index], self.widths[index] = rate, rate**-0.5
        self._rates = self._centres[self._p]

    def expected(self, points: Array) -> Data:
        """Return what is expected at points of shape (points, parameters): Asimov data."""
        auxiliary = np.where(np.isnan(self._centres), np.nan, points)
        auxiliary[:, self._p] *= self._rates
        return Data(self._yields(points)[0], auxiliary)

    def value(self, points: Array, data: Data) -> Array:
        """Return -2 log L, infinite where a bin with events expects none.

        As in pyhf a bin without events may expect less than nothing.
        """
        return self._value(points, data, self._yields(points)[0])

    def derivatives(self, points: Array, data: Data) -> tuple[Array, Array, Array]:
        """Return -2 log L, its gradient, and its Hessian as if yields were linear.

        Shapes are (points,), (points, parameters) and (points, parameters, parameters).
        """
        yields, jacobian = self._yields(points, with_jacobian=True)
        value = self._value(points, data, yields)
        with np.errstate(all="ignore"):
            ratio = np.where(data.events == 0, 0.0, data.events / yields)
            gradient = 2 * np.einsum("pbi,pb->pi", jacobian, 1 - ratio)
            weights = np.where(data.events == 0, 0.0, 2 * ratio / yields)
            weighted = jacobian * np.sqrt(weights)[:, :, None]
            hessian = weighted.transpose(0, 2, 1) @ weighted
        n, p = self._n, self._p
        precision = 2 / self.widths[n] ** 2
        gradient[:, n] += (points[:, n] - data.auxiliary[..., n]) * precision
        hessian[:, n, n] += precision
        counts = data.auxiliary[..., p]
        gradient[:, p] += 2 * (self._rates - counts / points[:, p])
        hessian[:, p, p] += 2 * counts / points[:, p] ** 2
        return value, gradient, hessian

    def _value(self, points: Array, data: Data, yields: Array) -> Array:
        with np.errstate(all="ignore"):
            events = data.events
            main = (yields - xlogy(events, yields) + gammaln(events + 1)).sum(axis=-1)
            n, p = self._n, self._p
            pull = (data.auxiliary[..., n] - points[:, n]) / self.widths[n]
            normal = (pull**2 / 2 + np.log(self.widths[n] * np.sqrt(2 * np.pi))).sum(axis=-1)
            rate, counts = points[:, p] * self._rates, data.auxiliary[..., p]
            poisson = (rate - counts * np.log(rate) + gammaln(counts + 1)).sum(axis=-1)
            value = 2 * (main + normal + poisson)
        good = ((yields > 0) | (events == 0)).all(axis=-1) & np.isfinite(value)
        return np.where(good, value, np.inf)

    def _yields(self, points: Array, *, with_jacobian: bool = False) -> tuple[Array, Array]:
        """Return yields (points, bins), and derivatives (points, bins, parameters) if asked for."""
        count, cells = len(points), len(self._nominal)
        added = np.tile(self._nominal, (count, 1))
        log = np.zeros((count, cells))
        slopes = []
        for one in self._systematics:
            move, slope = _interpolated(one, points[:, one.parameter])
            (log if one.kind == "normsys" else added)[:, one.cells] += move
            slopes.append(slope)
        extended = np.concatenate([points, np.ones((count, 1))], axis=1)
        parts = extended[:, self._slots]
        before = np.ones_like(parts)
        after = np.ones_like(parts)
        for slot in range(1, parts.shape[1]):
            before[:, slot] = before[:, slot - 1] * parts[:, slot - 1]
            after[:, -slot - 1] = after[:, -slot] * parts[:, -slot]
        product = before[:, -1] * parts[:, -1]
        factor = np.exp(log)
        cell = added * factor * product
        yields = np.ascontiguousarray((self._to_bins @ cell.T).T)
        if self._positive:
            missing = -(self._to_bins @ np.minimum(cell, 0.0).T).T
            yields[(missing > 0.1 * np.sqrt(np.maximum(yields, 1.0))).any(axis=1)] = np.nan
        if not with_jacobian:
            return yields, np.empty(0)
        each = (added * factor)[:, None] * before * after
        flat = self._scatter @ each.reshape(count, -1).T
        jacobian = np.ascontiguousarray(flat.T).reshape(count, self._bins, len(self.names))
        for one, slope in zip(self._systematics, slopes, strict=True):
            moved = np.zeros((count, cells))
            scale = cell if one.kind == "normsys" else factor * product
            moved[:, one.cells] = slope * scale[:, one.cells]
            jacobian[:, :, one.parameter] += (self._to_bins @ moved.T).T
        return yields, jacobian


# Value, slope and curvature at +1 and at -1 of a1 x + ... + a6 x^6, by rows.
_POWERS = np.arange(1, 7)
_MATCHED = np.linalg.inv(
    np.array(
        [
            np.ones(6),
            (-1.0) ** _POWERS,
            _POWERS,
            _POWERS * (-1.0) ** (_POWERS - 1),
            _POWERS * (_POWERS - 1),
            _POWERS * (_POWERS - 1) * (-1.0) ** _POWERS,
        ]
    )
)


def _inner(kind: str, up: Array, down: Array) -> Array:
    """Return the coefficients of alpha to alpha^6 within +-1, of shape (6, cells).

    For code4p of the added yield, with differences; for code4 of the factor less 1.
    """
    if kind == "histosys":
        mean, odd, none = (up + down) / 2, (up - down) / 16, np.zeros_like(up)
        return np.array([mean, 15 * odd, none, -10 * odd, none, 3 * odd])
    log_up, log_down = np.log(up), np.log(down)
    ends = [up - 1, down - 1, up * log_up, -down * log_down, up * log_up**2, down * log_down**2]
    return np.asarray(_MATCHED @ np.array(ends))


def _interpolated(one: _Systematic, alpha: Array) -> tuple[Array, Array]:
    """Return what a systematic does to its cells at alpha (points,), and the derivative.

    Histosys add to the yield, normsys to its logarithm: linearly outside of +-1, matched to
    that by a polynomial within.
    """
    within = np.where(np.abs(alpha) <= 1, alpha, 0.0)[:, None]
    powers = within**_POWERS
    slopes = _POWERS * within ** (_POWERS - 1) * (np.abs(alpha) <= 1)[:, None]
    above, below = (alpha > 1)[:, None], (alpha < -1)[:, None]
    outer_slope = above * one.up + below * one.down
    outer = alpha[:, None] * outer_slope
    move, slope = powers @ one.inner, slopes @ one.inner
    if one.kind == "normsys":
        return np.log1p(move) + outer, slope / (1 + move) + outer_slope
    return move + outer, slope + outer_slope
