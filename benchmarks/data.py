"""What is fitted: published pallets, and synthetic workspaces of any size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fitserve_contract import Hypothesis

__all__ = ["Problem", "example", "pallet_file", "published", "synthetic"]

_ROOT = Path(__file__).parent.parent
# A synthetic analysis: samples in a channel, how many of them a normsys acts on, in how many
# channels a histosys acts, and bins of a channel.
_SAMPLES = 5
_SHARING = 3
_REACH = 4
_CHANNEL = 50


class Problem(NamedTuple):
    """A background-only workspace and signal hypotheses for it."""

    name: str
    workspace: dict[str, Any]
    hypotheses: list[Hypothesis]


def example() -> Problem:
    """Return the bundled example."""
    from fitserve.pallet.load import load_pallet

    pallet = load_pallet("example")
    return Problem("example", pallet.workspace, list(pallet.hypotheses))


def pallet_file(name: str) -> Path:
    """Return where the archive of a published analysis is, if it is here."""
    shared = Path(os.environ.get("FITSERVE_SHARED", _ROOT.parent / "shared"))
    return shared / "pallets" / f"{name}.tar.xz"


def published(name: str) -> Problem | None:
    """Return a published analysis, ``1Lbb`` or ``staus``; None where its pallet is not here."""
    from fitserve.pallet.load import load_pallet

    path = pallet_file(name)
    if not path.exists():
        return None
    pallet = load_pallet(str(path))
    return Problem(name, pallet.workspace, list(pallet.hypotheses))


def synthetic(bins: int, parameters: int, hypotheses: int = 1, seed: int = 1) -> Problem:
    """Make an analysis of a given size.

    Five background samples in channels of up to 50 bins. Three quarters of the nuisance
    parameters are normsys on three samples of every channel, one quarter histosys on one
    sample of four channels; every bin has a staterror. Observed events are drawn from the
    expected ones.

    Parameters
    ----------
    bins, parameters
        Bins in all, and nuisance parameters besides the staterrors.
    hypotheses
        Signals: bumps at different places.
    seed
        Of all random numbers.
    """
    generator = np.random.default_rng(seed)
    sizes = np.full(-(-bins // _CHANNEL), _CHANNEL)
    sizes[-1] = bins - sizes[:-1].sum()
    samples = [f"bkg{i}" for i in range(_SAMPLES)]
    shapes = parameters // 4
    channels, observations = [], []
    for number, size in enumerate(sizes.tolist()):
        made = []
        for order, sample in enumerate(samples):
            yields = generator.uniform(5, 60) * np.exp(-np.linspace(0, 2, size))
            modifiers: list[dict[str, Any]] = [
                {"name": f"norm{i}", "type": "normsys", "data": _factors(generator)}
                for i in range(parameters - shapes)
                if (i + order) % _SAMPLES < _SHARING
            ]
            modifiers += [
                {"name": f"shape{i}", "type": "histosys", "data": _variations(generator, yields)}
                for i in range(shapes)
                if i % _SAMPLES == order and (number - i) % max(1, len(sizes)) < _REACH
            ]
            modifiers.append(
                {
                    "name": f"stat_{number}",
                    "type": "staterror",
                    "data": (0.05 * yields).tolist(),
                }
            )
            made.append({"name": sample, "data": yields.tolist(), "modifiers": modifiers})
        channels.append({"name": f"ch{number:03d}", "samples": made})
        total = np.sum([sample["data"] for sample in made], axis=0)
        observations.append(
            {"name": f"ch{number:03d}", "data": generator.poisson(total).astype(float).tolist()}
        )
    workspace = {
        "channels": channels,
        "observations": observations,
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }
    return Problem(
        f"{bins} bins, {parameters} parameters",
        workspace,
        [_bump(sizes, at, generator) for at in range(hypotheses)],
    )


def _factors(generator: np.random.Generator) -> dict[str, float]:
    size = generator.normal(0, 0.02)
    return {"hi": float(np.exp(size)), "lo": float(np.exp(-0.9 * size))}


def _variations(generator: np.random.Generator, yields: np.ndarray) -> dict[str, list[float]]:
    slope = generator.normal(0, 0.05) * np.linspace(-1, 1, len(yields))
    return {
        "hi_data": (yields * (1 + slope)).tolist(),
        "lo_data": (yields * (1 - 0.8 * slope)).tolist(),
    }


def _bump(sizes: np.ndarray, at: int, generator: np.random.Generator) -> Hypothesis:
    patch = []
    for number in range(min(3, len(sizes))):
        place = np.arange(sizes[number]) - generator.uniform(0, sizes[number])
        data = 12 * np.exp(-0.5 * (place / 3) ** 2) + 1e-3
        value = {
            "name": "signal",
            "data": data.tolist(),
            "modifiers": [
                {"name": "mu", "type": "normfactor", "data": None},
                {"name": "norm0", "type": "normsys", "data": {"hi": 1.03, "lo": 0.97}},
                {"name": f"stat_{number}", "type": "staterror", "data": (0.1 * data).tolist()},
            ],
        }
        patch.append({"op": "add", "path": f"/channels/{number}/samples/-", "value": value})
    return Hypothesis(name=f"signal {at}", values=(float(at),), patch=patch)
