"""fitserve: fitting as a service for High Energy Physics, the client.

`run` takes a pallet (background-only workspace and signal patchset) and an endpoint and
returns the CLs of every signal hypothesis; `open_run` opens a run made earlier.
"""

from fitserve._version import __version__

__all__ = ["__version__"]
