"""Models drawn at random, whose data fit them well or badly.

Model number n of a seed is always the same. Twenty in a row have one form (channels, bins,
samples, and which modifiers act where), so that the kernel's programs serve several of them;
all numbers are each model's own. They have at most six digits, so that the model does not
depend on the last bits of a logarithm.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import jsonpatch
import numpy as np

__all__ = ["SPREADS", "Model", "draw"]

SPREADS = (0.0, 0.1, 0.25, 0.5)
"""Bins are off by a factor e^N(0, spread); model n has number n modulo 4."""

_ALIKE = 20
_LARGEST = 0.4
_LUMI = {"inits": [1.0], "bounds": [[0.5, 1.5]], "auxdata": [1.0]}


class Model(NamedTuple):
    """A background-only workspace, and the patch that adds a signal with POI mu."""

    workspace: dict[str, Any]
    patch: list[dict[str, Any]]

    @property
    def patched(self) -> dict[str, Any]:
        """The workspace with its signal."""
        patched: dict[str, Any] = jsonpatch.JsonPatch(self.patch).apply(self.workspace)
        return patched

    @property
    def digest(self) -> str:
        """A digest (16 hexadecimal digits), to notice another model under the same number."""
        return hashlib.sha256(json.dumps(self, sort_keys=True).encode()).hexdigest()[:16]


def draw(seed: int, number: int) -> Model:
    """Return a model of 1 to 4 channels of 1 to 6 bins, with any of the modifier types.

    Systematics are shared between samples, channels and types, vary yields by up to 40 % and
    are asymmetric, one way only now and then.
    """
    return _Drawing(seed, number).model()


def _short(values: Any) -> Any:
    """Return a number or an array of numbers with six digits, for JSON."""
    short = [float(f"{value:.6g}") for value in np.atleast_1d(values)]
    return short if np.ndim(values) else short[0]


class _Drawing:
    """One model being drawn."""

    def __init__(self, seed: int, number: int) -> None:
        self.form = np.random.default_rng([seed, 0, number // _ALIKE])
        self.random = np.random.default_rng([seed, 1, number])
        self.spread = SPREADS[number % len(SPREADS)]
        self.sizes = [int(size) for size in self.form.integers(1, 7, self.form.integers(1, 5))]
        self.systematics = [f"syst{i}" for i in range(self.form.integers(1, 6))]
        self.statistics = float(self.form.choice([0.0, 0.3, 0.6]))
        self.lumi = self.chance(0.3)
        self.free = self._shared_by_two()
        self.largest = float(self.random.choice([0.15, _LARGEST, _LARGEST]))
        self.one_way = float(self.random.choice([0.0, 0.1, 0.5]))

    def chance(self, probability: float) -> bool:
        """Return whether this form of a model has something."""
        return bool(self.form.random() < probability)

    def _shared_by_two(self) -> list[int]:
        """Return channels that share a shapefactor, never all: something has to measure mu."""
        if len(self.sizes) == 1 or not self.chance(0.25):
            return []
        first = int(self.form.integers(len(self.sizes)))
        same = [i for i, size in enumerate(self.sizes) if size == self.sizes[first]]
        others = [i for i in same if i != first][: len(self.sizes) - 2]
        return [first, *others]

    def model(self) -> Model:
        channels, observations, patch = [], [], []
        for index, size in enumerate(self.sizes):
            name = f"ch{index}"
            scale = float(np.exp(self.random.uniform(np.log(5), np.log(300))))
            shape = np.exp(-self.random.uniform(0, 0.6) * np.arange(size))
            samples = [
                self._background(index, number, scale * shape)
                for number in range(self.form.integers(1, 4))
            ]
            total = np.sum([sample["data"] for sample in samples], axis=0)
            signal = self._signal(index, total)
            strength = float(self.random.choice([0.0, 0.0, 1.0])) if signal else 0.0
            expected = total + strength * np.array(signal["data"] if signal else 0.0)
            off = np.exp(self.spread * self.random.normal(size=size))
            observed = self.random.poisson(expected * off).astype(float).tolist()
            channels.append({"name": name, "samples": samples})
            observations.append({"name": name, "data": observed})
            if signal:
                path = f"/channels/{index}/samples/-"
                patch.append({"op": "add", "path": path, "value": signal})
        config: dict[str, Any] = {"poi": "mu", "parameters": []}
        if self.lumi:
            width = _short(self.random.uniform(0.01, 0.05))
            config["parameters"].append({"name": "lumi", "sigmas": [width], **_LUMI})
        workspace = {
            "channels": channels,
            "observations": observations,
            "measurements": [{"name": "m", "config": config}],
            "version": "1.0.0",
        }
        return Model(workspace, patch)

    def _background(self, index: int, number: int, scale: np.ndarray) -> dict[str, Any]:
        spread = self.random.uniform(-0.3, 0.3, len(scale))
        nominal = np.array(_short(scale * self.random.uniform(0.2, 1.2) * np.exp(spread)))
        modifiers = self._modifiers(index, f"bkg{number}", nominal)
        if number == 0 and index in self.free:
            modifiers.append({"name": "free", "type": "shapefactor", "data": None})
        elif self.chance(0.2):
            modifiers.append({"name": f"norm{number}", "type": "normfactor", "data": None})
        return {"name": f"bkg{number}", "data": nominal.tolist(), "modifiers": modifiers}

    def _signal(self, index: int, background: np.ndarray) -> dict[str, Any] | None:
        # The last channel that can measure the signal has one.
        measures = [i for i in range(len(self.sizes)) if i not in self.free]
        if index != measures[-1] and self.chance(0.3):
            return None
        size = np.exp(self.random.uniform(np.log(0.3), np.log(8)))
        part = self.random.uniform(0.02, 1, len(background))
        nominal = np.array(_short(size * part * np.sqrt(background)))
        modifiers = self._modifiers(index, "signal", nominal)
        modifiers.append({"name": "mu", "type": "normfactor", "data": None})
        return {"name": "signal", "data": nominal.tolist(), "modifiers": modifiers}

    def _modifiers(self, index: int, sample: str, nominal: np.ndarray) -> list[dict[str, Any]]:
        modifiers: list[dict[str, Any]] = []
        for name in self.systematics:
            if self.chance(0.4):
                hi, lo = _short(self._factors(1)[:, 0])
                modifiers.append({"name": name, "type": "normsys", "data": {"hi": hi, "lo": lo}})
            if self.chance(0.35):
                hi, lo = self._factors(len(nominal)) * nominal
                data = {"hi_data": _short(hi), "lo_data": _short(lo)}
                modifiers.append({"name": name, "type": "histosys", "data": data})
        if self.chance(self.statistics):
            width = _short(nominal * self.random.uniform(0.02, 0.25, len(nominal)))
            modifiers.append({"name": f"stat_ch{index}", "type": "staterror", "data": width})
        if self.chance(0.15):
            width = _short(nominal * self.random.uniform(0.03, 0.4, len(nominal)))
            name = f"shape_ch{index}_{sample}"
            modifiers.append({"name": name, "type": "shapesys", "data": width})
        if self.lumi and (sample == "signal" or self.chance(0.5)):
            modifiers.append({"name": "lumi", "type": "lumi", "data": None})
        return modifiers

    def _factors(self, count: int) -> np.ndarray:
        """Return the factors of both variations, of shape (2, count)."""
        size = self.random.uniform(0.02, self.largest)
        if self.random.random() < 0.6:
            up = size * self.random.uniform(-1, 1, count)
        else:
            up = size * np.linspace(*self.random.uniform(-1, 1, 2), count)
        down = -up * self.random.uniform(0.3, 1.3, count)
        one_way = self.random.random(count) < self.one_way
        down = np.where(one_way, self.random.choice([0.0, -0.7]) * down, down)
        return np.clip(1 + np.stack([up, down]), 1 - _LARGEST, 1 + _LARGEST)
