"""Export of a run in one of several formats."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from fitserve.errors import RequestError
from fitserve.export.flat import to_csv, to_parquet
from fitserve.output import write_output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitserve.contract import HypothesisResult
    from fitserve.store.records import Manifest

__all__ = ["FORMATS", "Format", "export_run", "to_json"]

Format = Literal["json", "csv", "parquet", "hepdata"]
FORMATS: tuple[Format, ...] = ("json", "csv", "parquet", "hepdata")


def to_json(results: Mapping[str, HypothesisResult]) -> bytes:
    """Return finished results as ``results.json`` has them, by name."""
    return msgspec.json.format(msgspec.json.encode(dict(results)), indent=1) + b"\n"


def export_run(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    format_: Format,
    path: Path,
) -> None:
    """Write a run in another format.

    Parameters
    ----------
    manifest, results
        A run: what was asked for and what is finished, by name.
    format_
        ``json`` (finished results as in results.json), ``csv`` or ``parquet`` (one row for
        each hypothesis and signal strength, see docs/results.md) or ``hepdata`` (a
        submission).
    path
        The file to write; for ``hepdata`` a directory, or an archive if it ends with
        ``.tar.gz``. ``-`` is the standard output for json and csv.

    Raises
    ------
    StoreError
        The output cannot be written.
    MissingExtraError
        The format needs an optional part of fitserve.
    RequestError
        The format cannot go to the standard output.
    """
    if format_ == "hepdata":
        from fitserve.export.hepdata import write_submission

        _refuse_stdout(path, format_)
        write_submission(manifest, results, path)
        return
    if format_ == "parquet":
        _refuse_stdout(path, format_)
        content = to_parquet(manifest, results)
    else:
        content = to_json(results) if format_ == "json" else to_csv(manifest, results)
    if path == Path("-"):
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_output(path, content)


def _refuse_stdout(path: Path, format_: str) -> None:
    if path == Path("-"):
        raise RequestError(
            f"{format_} cannot be written to the standard output", hint="name a file with -o"
        )
