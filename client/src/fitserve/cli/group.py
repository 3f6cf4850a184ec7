"""The command group: errors become messages and exit codes, never tracebacks."""

from __future__ import annotations

import os
import traceback
from typing import Any

import click

from fitserve.errors import FitserveError, InterruptedRunError

__all__ = ["FitserveGroup"]


class FitserveGroup(click.Group):
    """A click group that tells errors as `fitserve.errors` says.

    The environment variable ``FITSERVE_DEBUG`` lets exceptions through, for developers.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        if os.environ.get("FITSERVE_DEBUG"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except FitserveError as error:
            _tell(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            _tell(InterruptedRunError("interrupted"))
            ctx.exit(InterruptedRunError.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - the last resort
            _tell(_defect(error))
            ctx.exit(FitserveError.exit_code)


def _tell(error: FitserveError) -> None:
    from fitserve.console import tell_error

    tell_error(error)


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
