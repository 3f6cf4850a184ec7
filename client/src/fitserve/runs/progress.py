"""The progress of a run, on the terminal or in a notebook."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from fitserve.console import plain, plain_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.progress import Task

    from fitserve.endpoints.base import BackendStatus
    from fitserve.runs.records import StoredResult

__all__ = ["LiveProgress", "Silent"]


class Silent:
    """Watches nothing."""

    def status(self, status: BackendStatus) -> None:
        """Ignore it."""

    def finished(self, records: Sequence[StoredResult]) -> None:
        """Ignore them."""

    def trouble(self, text: str) -> None:
        """Ignore it."""

    def verifying(self, text: str) -> None:
        """Ignore it."""


class _TimeLeft(ProgressColumn):
    """Remaining time from the rate since the first worker began."""

    def render(self, task: Task) -> Text:
        began = task.fields.get("began")
        done = task.completed - task.fields.get("before", 0)
        if began is None or done <= 0 or task.total is None or task.finished:
            return Text("")
        rate = done / max(time.monotonic() - began, 1e-3)
        left = (task.total - task.completed) / rate
        return Text(f"{rate:.2g}/s, {_duration(left)} left", style="cyan")


class LiveProgress:
    """A progress bar on standard error (or in the notebook); use as a context manager.

    Without a terminal it prints a line now and then instead.
    """

    _EVERY_SECONDS = 30.0

    def __init__(self, total: int, done: int, console: Console | None = None) -> None:
        self._console = console or plain_console()
        self._total = total
        self._done = self._before = done
        self._suspect = self._failed = 0
        self._printed = time.monotonic()
        self._state = ""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _TimeLeft(),
            console=self._console,
            disable=not (self._console.is_terminal or self._console.is_jupyter),
        )
        self._task = self._progress.add_task(
            "starting", total=total, completed=done, before=done, began=None
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def status(self, status: BackendStatus) -> None:
        """Show whether the endpoint is starting, waits for workers, or fits."""
        if status.state == "running" and self._began() is None:
            self._progress.update(self._task, began=time.monotonic())
        text = f"fitting on {status.detail}" if status.state == "running" else status.detail
        if text != self._state:
            self._state = text
            self._line(text)
        self._progress.update(self._task, description=self._description())

    def finished(self, records: Sequence[StoredResult]) -> None:
        """Count finished hypotheses."""
        self._done += len(records)
        self._suspect += sum(record.result.status == "suspect" for record in records)
        self._failed += sum(record.result.status == "failed" for record in records)
        self._progress.update(self._task, completed=self._done, description=self._description())
        now = time.monotonic()
        if now - self._printed > self._EVERY_SECONDS or self._done == self._total:
            self._printed = now
            self._line(f"{self._done} of {self._total} hypotheses are done")

    def trouble(self, text: str) -> None:
        """Show what went wrong above the bar."""
        self._progress.console.print(plain(f"! {text}"), style="yellow", markup=False)

    def verifying(self, text: str) -> None:
        """Show it above the bar."""
        self._progress.console.print(text, highlight=False, soft_wrap=True)

    def _began(self) -> float | None:
        began: float | None = self._progress.tasks[0].fields["began"]
        return began

    def _description(self) -> str:
        doubts = [
            f"{count} {word}"
            for count, word in ((self._suspect, "suspect"), (self._failed, "failed"))
            if count
        ]
        return plain(f"{self._state} ({', '.join(doubts)})" if doubts else self._state)

    def _line(self, text: str) -> None:
        if self._progress.disable:
            self._console.print(plain(text), markup=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}min"
    return f"{minutes}min {rest:02d}s" if minutes else f"{rest}s"
