"""Write the example pallet that comes with fitserve.

Usage: python tools/make_example_pallet.py [DIRECTORY]

A simulated search for pair-produced X, each decaying to a visible particle and an invisible
chi of mass m(chi) < m(X): a background-only workspace with two signal regions and two control
regions, every HistFactory modifier type, and a patchset over the plane of both masses. The
yields follow plain formulas below; the observations are drawn around the background with a
fixed seed. All numbers are rounded, so that the files are the same, byte for byte, wherever
they are made.

The cross-section falls steeply with m(X), which ends the sensitivity at high mass; the
visible energy, and with it the acceptance, vanishes as m(chi) approaches m(X), which ends it
towards the diagonal. The exclusion contour therefore closes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pyhf.utils import digest

TARGET = Path(__file__).parents[1] / "client/src/fitserve/data/example"
SEED = 2049
LUMINOSITY = 139.0
"""In 1/fb, known to 1.7 %."""

CHANNELS = ("SR_compressed", "SR_boosted", "CR_top", "CR_multijet")

# Expected background events in each bin.
BACKGROUND: dict[str, dict[str, list[float]]] = {
    "SR_compressed": {"ttbar": [34.0], "wjets": [21.0], "other": [9.0]},
    "SR_boosted": {"ttbar": [9.5, 2.1], "wjets": [11.0, 4.2], "multijet": [6.0, 1.5]},
    "CR_top": {"ttbar": [870.0], "wjets": [95.0], "other": [22.0]},
    "CR_multijet": {"ttbar": [14.0, 6.0], "multijet": [240.0, 75.0]},
}
HIGHEST_CLOSE = 700
"""Highest m(X) in GeV with a point at a mass difference of 50 GeV."""

# Relative uncertainty of each bin from the finite number of simulated events.
SIMULATION = {"SR_boosted": [0.06, 0.11]}


def main(target: Path = TARGET) -> None:
    """Write BkgOnly.json and patchset.json into ``target``."""
    workspace = make_workspace()
    target.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("BkgOnly.json", workspace),
        ("patchset.json", make_patchset(digest(workspace))),
    ):
        text = json.dumps(content, indent=1, sort_keys=True)
        (target / name).write_text(f"{text}\n", encoding="utf-8", newline="\n")


def make_workspace() -> dict[str, Any]:
    """Return the background-only workspace."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    channels, observations = [], []
    for channel in CHANNELS:
        samples = BACKGROUND[channel]
        channels.append(
            {
                "name": channel,
                "samples": [
                    {"name": name, "data": data, "modifiers": background_modifiers(channel, name)}
                    for name, data in samples.items()
                ],
            }
        )
        expected = np.sum(list(samples.values()), axis=0)
        observations.append({"name": channel, "data": rng.poisson(expected).tolist()})
    lumi = {
        "name": "lumi",
        "auxdata": [1.0],
        "sigmas": [0.017],
        "bounds": [[0.915, 1.085]],
        "inits": [1.0],
    }
    parameters = [
        lumi,
        {"name": "mu_SIG", "bounds": [[0.0, 10.0]], "inits": [1.0]},
        {"name": "mu_ttbar", "bounds": [[0.0, 5.0]], "inits": [1.0]},
    ]
    return {
        "channels": channels,
        "observations": observations,
        "measurements": [
            {"name": "NormalMeasurement", "config": {"poi": "mu_SIG", "parameters": parameters}}
        ],
        "version": "1.0.0",
    }


def background_modifiers(channel: str, sample: str) -> list[dict[str, Any]]:
    """Return the modifiers of a background sample in a channel."""
    data = BACKGROUND[channel][sample]
    if sample == "multijet":
        # No simulation describes it: its size in each bin is taken from CR_multijet.
        return [modifier("multijet_shape", "shapefactor", None)]
    if sample == "other":
        modifiers = [modifier("lumi", "lumi", None)]
        if channel.startswith("SR"):
            uncertainty = [rounded(0.3 * value) for value in data]
            modifiers.append(modifier("other_estimate", "shapesys", uncertainty))
        return modifiers
    modifiers = [jet_energy_scale(data)]
    if sample == "ttbar":
        # Normalised in CR_top.
        modifiers.append(modifier("mu_ttbar", "normfactor", None))
    else:
        modifiers.append(modifier("lumi", "lumi", None))
        modifiers.append(modifier("wjets_theory", "normsys", {"lo": 0.88, "hi": 1.13}))
    return modifiers + simulation(channel, data)


def jet_energy_scale(data: list[float]) -> dict[str, Any]:
    """Return the effect of the jet energy scale: larger where the spectrum is steeper."""
    slope = [0.05 + 0.03 * index for index in range(len(data))]
    return modifier(
        "jet_energy_scale",
        "histosys",
        {
            "lo_data": [rounded(y * (1 - s)) for y, s in zip(data, slope, strict=True)],
            "hi_data": [rounded(y * (1 + 1.1 * s)) for y, s in zip(data, slope, strict=True)],
        },
    )


def simulation(channel: str, data: list[float]) -> list[dict[str, Any]]:
    """Return the uncertainty from the finite number of simulated events."""
    if channel not in SIMULATION:
        return []
    errors = [rounded(y * r) for y, r in zip(data, SIMULATION[channel], strict=True)]
    return [modifier(f"simulation_{channel}", "staterror", errors)]


def make_patchset(workspace_digest: str) -> dict[str, Any]:
    """Return the patchset for the workspace with this digest."""
    return {
        "metadata": {
            "name": "example",
            "description": "simulated search for pair-produced X, made for fitserve",
            "digests": {"sha256": workspace_digest},
            "labels": ["mX", "mchi"],
            # The schema asks for a record of HEPData; there is none with this number.
            "references": {"hepdata": "ins0000000"},
        },
        "patches": [make_patch(m_x, m_chi) for m_x, m_chi in grid()],
        "version": "1.0.0",
    }


def grid() -> list[tuple[int, int]]:
    """Return the masses in GeV: steps of 100, and a point closer to the diagonal.

    That point is left out above `HIGHEST_CLOSE`, where no signal would be expected.
    """
    return [
        (m_x, m_chi)
        for m_x in range(200, 1001, 100)
        for m_chi in (*range(0, m_x, 100), m_x - 50)
        if m_chi <= m_x - 100 or m_x <= HIGHEST_CLOSE
    ]


def make_patch(m_x: int, m_chi: int) -> dict[str, Any]:
    """Return the patch that adds the signal of one mass hypothesis."""
    operations = []
    for index, channel in enumerate(CHANNELS):
        data = signal(channel, m_x, m_chi)
        if data is None:
            continue
        sample = {
            "name": "signal",
            "data": data,
            "modifiers": [
                modifier("mu_SIG", "normfactor", None),
                modifier("lumi", "lumi", None),
                jet_energy_scale(data),
                *simulation(channel, data),
            ],
        }
        position = len(BACKGROUND[channel])
        operations.append(
            {"op": "add", "path": f"/channels/{index}/samples/{position}", "value": sample}
        )
    return {
        "metadata": {"name": f"X_{m_x}_{m_chi}", "values": [m_x, m_chi]},
        "patch": operations,
    }


def signal(channel: str, m_x: int, m_chi: int) -> list[float] | None:
    """Return the expected signal events in each bin, None where there are none.

    Cross-section in fb, falling by e each 130 GeV; acceptance in each bin as a function of the
    mass difference, which sets the visible energy.
    """
    produced = LUMINOSITY * 320.0 * np.exp(-(m_x - 200) / 130.0)
    gap = m_x - m_chi
    soft = 0.012 * np.exp(-0.5 * ((gap - 220.0) / 120.0) ** 2) / (1 + np.exp(-(gap - 100) / 25.0))
    hard = np.array([0.010, 0.020]) / (1 + np.exp(-(gap - np.array([290.0, 380.0])) / 70.0))
    if channel == "SR_compressed":
        return [rounded(float(produced * soft) + 0.02)]
    if channel == "SR_boosted":
        return [rounded(float(value) + 0.02) for value in produced * hard]
    return None


def modifier(name: str, type_: str, data: Any) -> dict[str, Any]:
    """Return a modifier as the workspace has it."""
    return {"name": name, "type": type_, "data": data}


def rounded(value: float) -> float:
    """Round so that no platform's mathematics library shows."""
    return round(value, 4)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
