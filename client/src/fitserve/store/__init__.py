"""The run directory: what was asked, what was found, and nothing lost in between."""

from fitserve.store.atomic import write_atomic
from fitserve.store.logs import keep_logs
from fitserve.store.pending import PendingTask, pending_tasks
from fitserve.store.records import Event, Inputs, Manifest, PalletRecord, StoredResult
from fitserve.store.registry import known_runs, register
from fitserve.store.run_store import RunStore, SavedRun, ask_to_cancel, read_manifest, read_run
from fitserve.store.toys import missing_toys, ranges

__all__ = [
    "Event",
    "Inputs",
    "Manifest",
    "PalletRecord",
    "PendingTask",
    "RunStore",
    "SavedRun",
    "StoredResult",
    "ask_to_cancel",
    "keep_logs",
    "known_runs",
    "missing_toys",
    "pending_tasks",
    "ranges",
    "read_manifest",
    "read_run",
    "register",
    "write_atomic",
]
