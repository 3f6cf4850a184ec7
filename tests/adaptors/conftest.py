"""A workspace as reinterpreters use them: a few signal regions with one uncertainty each."""

from __future__ import annotations

from typing import Any

import pytest

EVENTS = (24.3, 31.0, 7.2, 12.5, 3.1)
OBSERVED = (22.0, 35.0, 6.0, 12.0, 4.0)


@pytest.fixture(scope="session")
def workspace() -> dict[str, Any]:
    channels = [
        {
            "name": f"SR{at}",
            "samples": [
                {
                    "name": "Bkg",
                    "data": [events],
                    "modifiers": [
                        {"name": f"total{at}", "type": "normsys", "data": {"hi": 1.2, "lo": 0.8}}
                    ],
                }
            ],
        }
        for at, events in enumerate(EVENTS)
    ]
    lumi = {
        "name": "lumi",
        "auxdata": [1.0],
        "bounds": [[0.5, 1.5]],
        "inits": [1.0],
        "sigmas": [0.017],
    }
    return {
        "channels": channels,
        "observations": [{"name": f"SR{at}", "data": [seen]} for at, seen in enumerate(OBSERVED)],
        "measurements": [{"name": "m", "config": {"poi": "mu_SIG", "parameters": [lumi]}}],
        "version": "1.0.0",
    }
