"""An engine that is set up in a thread, and leaves nothing behind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from fitserve.endpoints.parsl.enlist import end_groups
from fitserve.endpoints.parsl.guardian import Guardian, remove

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Tended"]

# Bounds how long the user waits after a Ctrl-C.
_START_SECONDS = 1.5


class _Stoppable(Protocol):
    def stop(self) -> bool:
        """End it; returns whether that is done in time."""
        ...


_Engine = TypeVar("_Engine", bound=_Stoppable)


class Tended(Generic[_Engine]):
    """Holds an engine, and the guardian that sees to it when the client is killed.

    Attributes
    ----------
    engine
        None as long as it is not set up.
    failure
        Why it could not be set up.
    guardian
        With the directory of the run's own.

    Raises
    ------
    BackendError
        There is no room for temporary files.
    """

    def __init__(self) -> None:
        self.engine: _Engine | None = None
        self.failure: BaseException | None = None
        self.guardian = Guardian()
        self._directories: list[Path] = []
        self._starting: threading.Thread | None = None
        self._ending = False

    def own(self, directory: Path) -> None:
        """Have a directory, which need not be there yet, removed with everything else."""
        self._directories.append(directory)
        self.guardian.watch("directory", directory)

    def set_up(self, make: Callable[[], _Engine]) -> None:
        """Begin to make the engine; `wait` waits for it."""
        self.failure = None

        def work() -> None:
            try:
                self.engine = engine = make()
            except Exception as error:  # noqa: BLE001 - told by who waits, in its thread
                self.failure = error
                return
            if self._ending:
                engine.stop()

        self._starting = threading.Thread(target=work, name="fitserve-start", daemon=True)
        self._starting.start()

    def wait(self) -> _Engine | None:
        """Wait until the engine is set up, or has failed to be."""
        if self._starting is not None:
            self._starting.join()
        return self.engine

    def give_up(self) -> None:
        """End the engine, so that another can be set up."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.stop()
        self.guardian.groups.mkdir(exist_ok=True)

    def end(self) -> None:
        """End the engine and remove the directories; the guardian does what takes longer."""
        if self._ending:
            return
        self._ending = True
        in_order = False
        try:
            in_order = self._end_engine()
        finally:
            if in_order:
                for directory in self._directories:
                    remove(directory)
                self.guardian.dismiss()
            else:
                self.guardian.end()

    def _end_engine(self) -> bool:
        starting = self._starting
        if starting is not None and starting.is_alive():
            # Without its interchange it will not be set up.
            end_groups(self.guardian.groups)
            starting.join(_START_SECONDS)
            if starting.is_alive():
                return False
        return self.engine is None or self.engine.stop()
