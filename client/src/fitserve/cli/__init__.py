"""The command line. Modules here import nothing heavy outside their commands."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from fitserve import __version__
from fitserve.cli.endpoints import endpoints
from fitserve.cli.outputs import contour, diff, export, plot, report
from fitserve.cli.pallets import analyses, pallets
from fitserve.cli.run import cancel, resume, run, runs, show
from fitserve.cli.signals import signals
from fitserve.errors import FitserveError, InterruptedRunError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FitserveGroup", "cli", "main"]

# What a shell reports for a command that SIGPIPE ended.
_CLOSED_PIPE = 141


_usual_warning = warnings.formatwarning


class FitserveGroup(click.Group):
    """A click group that shows errors as `fitserve.errors` describes.

    Where nobody reads the output any more, as with ``| head``, a command ends quietly. The
    environment variable ``FITSERVE_DEBUG`` lets exceptions through, for developers.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line, up to the last byte of its output."""
        _have_streams()
        with _written():
            try:
                return super().main(*args, **extra)
            finally:
                for stream in filter(None, (sys.stdout, sys.stderr)):
                    stream.flush()

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the command line; help may be all that it asks for."""
        with _written():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _written():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("FITSERVE_DEBUG"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except FitserveError as error:
            _tell(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as error:
            _tell(_interrupted(error))
            ctx.exit(InterruptedRunError.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # the last resort
            if _is_of_output(error):
                raise
            _tell(_defect(error))
            ctx.exit(FitserveError.exit_code)


def _have_streams() -> None:
    """Have the standard streams lead nowhere that are closed: a file would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - in this order


@contextmanager
def _written() -> Iterator[None]:
    """End as usual where the output has no reader any more, or no room."""
    try:
        yield
    except OSError as error:
        if not _is_of_output(error):
            raise
        from fitserve.console import closed_pipes

        # So that the rest of a buffer does not fail again when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in closed_pipes() or [1]:
            os.dup2(nowhere, number)
        if error.errno == errno.EPIPE:
            raise SystemExit(_CLOSED_PIPE) from error
        _tell(StoreError("the output cannot be written", evidence=str(error), hint="df -h ."))
        raise SystemExit(StoreError.exit_code) from error


def _is_of_output(error: Exception) -> bool:
    """Return whether an error comes from the standard streams, as far as it shows."""
    from fitserve.console import closed_pipes

    # Other pipes may break as well: those of an endpoint.
    return isinstance(error, OSError) and (
        error.errno == errno.ENOSPC or (error.errno == errno.EPIPE and bool(closed_pipes()))
    )


def _tell(error: FitserveError) -> None:
    from fitserve.console import tell_error

    usual = signal.getsignal(signal.SIGINT)
    # Whoever presses Ctrl-C again is told all the same.
    _on_interrupt(lambda *_: None)
    try:
        tell_error(error)
    finally:
        _on_interrupt(usual)


def _on_interrupt(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


def _interrupted(error: BaseException | None) -> InterruptedRunError:
    """Return what was to be told of a run when another Ctrl-C came."""
    while error is not None:
        if isinstance(error, InterruptedRunError):
            return error
        error = error.__context__
    return InterruptedRunError("interrupted")


def _defect(error: Exception) -> FitserveError:
    import tempfile

    with tempfile.NamedTemporaryFile(
        "w", prefix="fitserve-defect-", suffix=".txt", delete=False
    ) as stream:
        stream.write("".join(traceback.format_exception(error)))
    return FitserveError(
        "this is a defect of fitserve, not of your input",
        evidence=f"{type(error).__name__}: {error}",
        hint=f"please report it with the file {stream.name}",
    )


def _plain_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Return the text of a warning, which may cite a pallet: Matplotlib names missing glyphs."""
    from fitserve.console import plain

    return plain(_usual_warning(message, category, filename, lineno, line))


@click.group(cls=FitserveGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fitserve")
def cli() -> None:
    """Fit the signal hypotheses of a pyhf pallet on an endpoint.

    A pallet is a background-only workspace with a patchset of signals. An endpoint is where
    the fits run: 'local' is this machine.
    """
    warnings.formatwarning = _plain_warning


for command in (
    *(run, resume, cancel, show, runs, contour, plot, report, export, diff),
    *(pallets, signals, analyses, endpoints),
):
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    try:
        cli()
    finally:
        # Everything is told and written: from here on a Ctrl-C ends it without a word.
        _on_interrupt(signal.SIG_DFL)
