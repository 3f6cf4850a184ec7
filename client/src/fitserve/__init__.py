"""fitserve: fitting as a service for High Energy Physics, the client.

`run` takes a pallet (background-only workspace and signal patchset) and an endpoint and
returns the CLs of every signal hypothesis; `open_run` opens a run made earlier, `resume`
finishes one, and `make_request` says what else to compute.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fitserve_contract import __version__

if TYPE_CHECKING:
    from fitserve.api import Run, make_request, open_run, resume, run
    from fitserve.pallet.signals import OwnSignals

__all__ = ["OwnSignals", "Run", "__version__", "make_request", "open_run", "resume", "run"]


def __getattr__(name: str) -> Any:
    # The command line must start at once, and not pay for what only `run` needs.
    if name in __all__:
        home = "pallet.signals" if name == "OwnSignals" else "api"
        return getattr(import_module(f"fitserve.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
