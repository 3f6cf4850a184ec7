"""A run directory: made, registered, written to as results arrive, read at any time.

================  ==================================================================
file              content
================  ==================================================================
manifest.json     what was asked (`fitserve.runs.records.Manifest`)
inputs.json.zst   the workspace and the hypotheses asked for: a run needs no pallet
results.jsonl     one line for each finished hypothesis, appended as they arrive
events.jsonl      what happened to tasks, with times: for people and for `show`
toys.jsonl        of a run for toys: what tasks answered, one line for a hypothesis and
                  range of toys, with the test statistic of each toy
results.json      written at the end: all hypotheses by name, see docs/results.md
lock              held by the process that writes: one at a time
cancel            there while that process is asked to stop
================  ==================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import filelock
import msgspec
import platformdirs

from fitserve.errors import ContractError, StoreError
from fitserve.files import (
    Journal,
    open_regular,
    read_journal,
    read_regular,
    unwritable,
    write_atomic,
)
from fitserve.kinds.toys import merged, missing_toys, ranges
from fitserve.runs.records import (
    MANIFEST_VERSION,
    Event,
    Inputs,
    Manifest,
    StoredResult,
    encoded_results,
)
from fitserve_contract import (
    QUICK,
    HypothesisResult,
    ToysRequest,
    compress,
    decompress,
    excess,
    memory_there,
)
from fitserve_contract.codec import no_collection

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "RunLock",
    "RunStore",
    "SavedRun",
    "ask_to_cancel",
    "known_runs",
    "read_manifest",
    "read_run",
    "register",
]

_INPUT_LIMIT = 2 * 1024**3
_CANCEL = "cancel"
_EVENTS = "events.jsonl"
_RESULTS = "results.jsonl"
_TOYS = "toys.jsonl"


class SavedRun:
    """A run as it is on disk at this moment; reading needs no lock.

    Attributes
    ----------
    path
        The run directory.
    manifest
        What was asked.
    records
        Finished hypotheses by name, in the order of the manifest, with where and when.
    """

    def __init__(self, path: Path, manifest: Manifest, records: dict[str, StoredResult]) -> None:
        self.path = path
        self.manifest = manifest
        self.records = {name: records[name] for name in manifest.hypotheses if name in records}

    @cached_property
    def results(self) -> dict[str, HypothesisResult]:
        """Finished hypotheses by name, in the order of the manifest."""
        return {name: record.result for name, record in self.records.items()}

    def toy_parts(self) -> dict[str, list[StoredResult]]:
        """Return, by name, the parts of the toys of hypotheses that are not finished.

        Raises
        ------
        StoreError
            They cannot be read.
        """
        parts: dict[str, list[StoredResult]] = {}
        for record in read_journal(self.path / _TOYS, StoredResult):
            if record.result.name not in self.records:
                parts.setdefault(record.result.name, []).append(record)
        return parts

    def partial(self) -> dict[str, HypothesisResult]:
        """Return what there is of hypotheses whose toys are not all done, by name.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        request = self.manifest.request
        if not isinstance(request, ToysRequest):
            return {}
        parts = self.toy_parts()
        return {
            name: merged(request, [record.result for record in parts[name]])
            for name in self.manifest.hypotheses
            if name in parts
        }

    @cached_property
    def unfinished(self) -> list[str]:
        """Names of the hypotheses without a result."""
        return [name for name in self.manifest.hypotheses if name not in self.records]

    def events(self) -> list[Event]:
        """Return what happened to tasks, in order."""
        return read_journal(self.path / _EVENTS, Event)

    def inputs(self) -> Inputs:
        """Return the workspace and hypotheses of the run.

        Raises
        ------
        StoreError
            The file is missing or damaged.
        """
        path = self.path / "inputs.json.zst"
        try:
            with no_collection():
                return _decoded_inputs(path)
        except (OSError, RecursionError, ValueError, msgspec.MsgspecError, ContractError) as error:
            raise StoreError(
                f"the inputs of run {self.path} cannot be read",
                evidence=str(error),
                hint="run the pallet again, to the same --output",
            ) from error


def read_run(path: str | Path) -> SavedRun:
    """Read a run directory.

    Raises
    ------
    StoreError
        It is not a run directory, was made by a newer fitserve, or is damaged.
    """
    path = Path(path)
    return SavedRun(path, read_manifest(path), _read_records(path))


def _read_records(path: Path) -> dict[str, StoredResult]:
    records = read_journal(path / _RESULTS, StoredResult)
    return {record.result.name: record for record in records}


class RunLock:
    """The lock of a run directory; the operating system frees it when its holder dies.

    Raises
    ------
    StoreError
        Another process holds it, or the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._holder = directory / "lock.holder"
        lock = directory / "lock"
        self._lock = filelock.FileLock(lock, timeout=0)
        try:
            # Whoever made the directory may have put a link there, to a file of ours.
            os.close(open_regular(lock, os.O_RDWR | os.O_CREAT))
            self._lock.acquire()
            self._tell()
        except filelock.Timeout as error:
            raise StoreError(
                f"the run directory {directory} is in use",
                evidence=f"by {self._held_by()}",
                hint="wait for it, stop it, or choose another --output",
            ) from error
        except OSError as error:
            raise unwritable(directory, error) from error

    def release(self) -> None:
        """Release the directory."""
        with contextlib.suppress(OSError):
            self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _tell(self) -> None:
        self._holder.unlink(missing_ok=True)
        held = open_regular(self._holder, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(held, "w") as stream:
            stream.write(f"process {os.getpid()} on {socket.gethostname()}")

    def _held_by(self) -> str:
        try:
            return read_regular(self._holder).decode()
        except (OSError, ValueError):
            return "another process"


class RunStore:
    """The writing end of a run directory; use as a context manager.

    Nobody else writes while it is open, so that results are read from disk once.
    """

    def __init__(self, path: Path, lock: RunLock, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock
        self._results: Journal[StoredResult] = Journal(path / _RESULTS)
        self._records = _read_records(path)
        self._events: Journal[Event] = Journal(path / _EVENTS)
        self._toys: Journal[StoredResult] | None = None
        self._parts: dict[str, list[StoredResult]] = {}
        if isinstance(manifest.request, ToysRequest):
            self._toys = Journal(path / _TOYS)
            self._parts = self.saved.toy_parts()

    @classmethod
    def create(cls, path: Path, manifest: Manifest, inputs: Inputs) -> RunStore:
        """Make a run directory.

        Raises
        ------
        StoreError
            It is in use, holds something else, or cannot be written.
        """
        _make_directory(path)
        lock = RunLock(path)
        try:
            write_atomic(path / "inputs.json.zst", compress(inputs.encoded(), QUICK))
            write_atomic(path / "manifest.json", _pretty(manifest))
            return cls(path, lock, manifest)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path) -> RunStore:
        """Open a run directory to go on with it.

        Raises
        ------
        StoreError
            It is not a run directory, is in use, or cannot be written.
        """
        manifest = read_manifest(path)
        lock = RunLock(path)
        try:
            return cls(path, lock, manifest)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and release the directory."""
        self._results.close()
        self._events.close()
        if self._toys is not None:
            self._toys.close()
        self._lock.release()

    @property
    def saved(self) -> SavedRun:
        """The run as it is on disk now."""
        return SavedRun(self.path, self.manifest, self._records)

    def events(self) -> list[Event]:
        """Return what happened to tasks until now, in order."""
        return read_journal(self.path / _EVENTS, Event)

    def append(self, records: Iterable[StoredResult]) -> None:
        """Write finished hypotheses; they are on disk when this returns."""
        finished = list(records)
        self._results.append(finished)
        self._records.update((record.result.name, record) for record in finished)

    def append_toys(self, records: Sequence[StoredResult]) -> list[StoredResult]:
        """Write parts of toys, and the results of hypotheses of which these are the last parts.

        Returns
        -------
        list
            The records of the hypotheses that these finish. A part without test statistics is the
            last of its hypothesis.
        """
        request = self.manifest.request
        if self._toys is None or not isinstance(request, ToysRequest):
            raise TypeError("the run is not one for toys")
        parts = [record for record in records if record.result.toy_values is not None]
        self._toys.append(parts)
        finished = [record for record in records if record.result.toy_values is None]
        for record in parts:
            name = record.result.name
            own = self._parts.setdefault(name, [])
            own.append(record)
            if not missing_toys(request.toys, ranges(part.result for part in own)):
                finished.append(_merged_record(request, self._parts.pop(name)))
        self.append(finished)
        return finished

    def note(self, event: str, **details: Any) -> None:
        """Write what happened."""
        self.note_all(event, [details])

    def note_all(self, event: str, several: Iterable[dict[str, Any]]) -> None:
        """Write what happened several times over, at once: all of it is kept, or nothing."""
        now = time.time()
        self._events.append([Event(time=now, event=event, details=one) for one in several])

    def nonce(self) -> str:
        """Return what distinguishes a wanted refit from sending the same task again."""
        times = [event.time for event in self.events() if event.event == "set aside"]
        return f"{times[-1]:.6f}" if times else ""

    def want_verified(
        self,
        names: Iterable[str],
        *,
        doubted: bool = False,
        sample: Sequence[str] | None = None,
    ) -> None:
        """Add to the hypotheses that pyhf verifies, because they are doubted or not.

        ``sample`` replaces the earlier sample.

        Raises
        ------
        StoreError
            The manifest cannot be written.
        """
        chosen = set(names)
        wanted = {*self.manifest.verify, *chosen}
        verify = [name for name in self.manifest.hypotheses if name in wanted]
        odd = {*self.manifest.doubted, *(chosen if doubted else ())}
        manifest = msgspec.structs.replace(
            self.manifest,
            verify=verify,
            doubted=[name for name in self.manifest.hypotheses if name in odd],
            sample=self.manifest.sample if sample is None else list(sample),
        )
        if manifest != self.manifest:
            self.manifest = manifest
            write_atomic(self.path / "manifest.json", _pretty(self.manifest))

    def cancelled(self) -> bool:
        """Return whether somebody asks the process that works on the run to stop."""
        return (self.path / _CANCEL).exists()

    def clear_cancel(self) -> None:
        """Forget that somebody asked to stop."""
        (self.path / _CANCEL).unlink(missing_ok=True)

    def set_aside(self, names: set[str] | None = None) -> None:
        """Forget results, of these names or of all; the old file is kept under a new name."""
        kept = [
            record
            for name, record in self._records.items()
            if names is not None and name not in names
        ]
        path = self.path / _RESULTS
        self._results.close()
        _move_aside(path, "results")
        self._results = Journal(path)
        self._records = {}
        self.append(kept)
        if names is None and self._toys is not None:
            self._toys.close()
            toys = self.path / _TOYS
            _move_aside(toys, "toys")
            self._toys = Journal(toys)
        self._parts = self.saved.toy_parts()
        self.note("set aside", hypotheses=None if names is None else sorted(names))

    def write_results(self) -> Path:
        """Write results.json and return its path.

        Hypotheses that have no result yet are in it too, as failed and with the reason.
        """
        saved = self.saved
        results = {**saved.partial(), **saved.results}
        document = {
            name: results.get(name) or _missing(self.manifest, name)
            for name in self.manifest.hypotheses
        }
        path = self.path / "results.json"
        write_atomic(path, encoded_results(document))
        return path


def _merged_record(request: ToysRequest, records: Sequence[StoredResult]) -> StoredResult:
    """Return the record of a hypothesis from those of its parts."""
    last = max(records, key=lambda record: record.arrived)
    return msgspec.structs.replace(
        last,
        result=merged(request, [record.result for record in records]),
        submitted=min(record.submitted for record in records),
        started=min(record.started for record in records),
        task_seconds=sum(record.task_seconds for record in records),
        kept=all(record.kept for record in records),
    )


def ask_to_cancel(path: Path) -> bool:
    """Ask the process that works on a run to stop; returns whether there is one.

    Raises
    ------
    StoreError
        It is not a run directory, or cannot be written.
    """
    read_manifest(path)
    request = path / _CANCEL
    try:
        request.touch()
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        lock = RunLock(path)
    except StoreError:
        return True
    lock.release()
    request.unlink(missing_ok=True)
    return False


def _missing(manifest: Manifest, name: str) -> HypothesisResult:
    return HypothesisResult(
        name=name,
        key="",
        mass_hypotheses=manifest.values.get(name, ()),
        status="failed",
        reason="not finished: fitserve resume goes on with it",
        CLs_obs=None,
        CLs_exp=[None] * 5,
        fit_time=0.0,
        setup_time=0.0,
        engine="none",
        points=[],
    )


def _move_aside(path: Path, what: str) -> None:
    """Rename a journal that is not empty."""
    try:
        if path.stat().st_size:
            path.replace(path.with_name(f"{what}-until-{time.time_ns()}.jsonl"))
    except OSError as error:
        raise unwritable(path, error) from error


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        strangers = [entry.name for entry in path.iterdir() if not _ours(entry.name)]
    except OSError as error:
        raise unwritable(path, error) from error
    if strangers:
        raise StoreError(
            f"{path} is not empty and is not a run directory",
            evidence=f"it holds {', '.join(sorted(strangers)[:3])}",
            hint="choose another --output",
        )


def _ours(name: str) -> bool:
    # A crash may have left the lock and temporary files of a directory that is being made.
    return name.startswith((".", "lock", "inputs.json", "results", "events", "toys", _CANCEL))


def _decoded_inputs(path: Path) -> Inputs:
    raw = decompress(read_regular(path), min(_INPUT_LIMIT, memory_there() // 2))
    if too_much := excess(raw):
        raise ContractError("they are too large to be decoded", evidence=too_much)
    return Inputs.decoded(raw)


def read_manifest(path: Path) -> Manifest:
    """Read what a run was asked to do, without its results.

    Raises
    ------
    StoreError
        As `read_run`.
    """
    try:
        raw = read_regular(path / "manifest.json")
        if too_much := excess(raw):
            raise StoreError(f"the manifest of run {path} is too large", evidence=too_much)
    except OSError as error:
        raise StoreError(
            f"{path} is not a run directory",
            evidence=str(error),
            hint="fitserve runs list",
        ) from error
    try:
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("manifest_version")
        if version != MANIFEST_VERSION:
            raise StoreError(
                f"the run directory {path} is of another version of fitserve",
                evidence=f"manifest version {version}, this fitserve reads {MANIFEST_VERSION}",
                hint="use the version of fitserve named in its manifest.json",
            )
        return msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as error:
        raise StoreError(
            f"the manifest of run {path} is damaged",
            evidence=str(error),
            hint="run the pallet again, to another --output",
        ) from error


def _pretty(content: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def register(run: Path) -> None:
    """Register a run directory; a home that cannot be written is no reason to stop."""
    path = str(run.resolve())
    directory = _directory()
    with contextlib.suppress(OSError, StoreError):
        directory.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(path.encode()).hexdigest()[:24]
        write_atomic(directory / name, path.encode())


def known_runs() -> list[Path]:
    """Return the run directories that still exist, the most recently started first.

    One that belongs to somebody else now is left out.
    """
    dated = []
    with contextlib.suppress(OSError):
        for entry in _directory().iterdir():
            if entry.name.startswith("."):
                continue
            run = Path(entry.read_text())
            own = run.is_dir() and run.stat().st_uid == os.getuid()
            if own and (run / "manifest.json").is_file():
                dated.append((entry.stat().st_mtime, run))
    return [run for _, run in sorted(dated, reverse=True)]


def _directory() -> Path:
    return platformdirs.user_state_path("fitserve") / "runs"
