"""The run directory: what was asked, what was found, and nothing lost in between."""

from fitserve.store.atomic import write_atomic
from fitserve.store.records import Event, Inputs, Manifest, PalletRecord, StoredResult
from fitserve.store.registry import known_runs, register
from fitserve.store.run_store import RunStore, SavedRun, read_run

__all__ = [
    "Event",
    "Inputs",
    "Manifest",
    "PalletRecord",
    "RunStore",
    "SavedRun",
    "StoredResult",
    "known_runs",
    "read_run",
    "register",
    "write_atomic",
]
