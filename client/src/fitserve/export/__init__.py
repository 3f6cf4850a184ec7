"""Export of results: tables, JSON, HEPData, data frames, and comparisons."""

from __future__ import annotations

import csv
import inspect
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fitserve.errors import MissingExtraError, RequestError
from fitserve.files import write_output
from fitserve.kinds import kind
from fitserve.kinds.base import CLS_COLUMNS
from fitserve.runs.records import encoded_results
from fitserve.runs.summary import data_rows, mass_columns
from fitserve_contract import HypothesisResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from fitserve.runs.records import Manifest

    Results = Mapping[str, HypothesisResult]

__all__ = [
    "FORMATS",
    "Format",
    "export_run",
    "results_schema",
    "to_csv",
    "to_frame",
    "to_json",
    "to_parquet",
]

# Former names of columns, kept until version 1.0.
_OLD_NAMES = {"CLs_exp": "CLs_exp_0", "limit_exp": "limit_exp_0"}

_TEXT = {"name", "status", "reason", "engine", "key", "parameter", "limit_reasons", "neighbours"}
_FLAGS = {"fixed", "at_bound"}
_FORMULA = ("=", "+", "-", "@", "\t")
_TABLE = "one row for each hypothesis and signal strength"


def to_frame(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> pd.DataFrame:
    """Return finished results with a row for each hypothesis and signal strength.

    Raises
    ------
    MissingExtraError
        pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("a data frame", "notebook") from error
    run_kind, masses = kind(manifest.request), mass_columns(manifest)
    rows = [row for row in data_rows(manifest, results) if row["name"] in results]
    if not run_kind.has_cls:
        # One row for each hypothesis, not for each of its parameters.
        rows = list({row["name"]: row for row in rows}.values())
    of_kind = run_kind.besides if run_kind.has_cls else ()
    names = ["name", *masses, *list(CLS_COLUMNS)[1:], *of_kind]
    filled = [{name: value for name, value in row.items() if value is not None} for row in rows]
    frame = pd.DataFrame.from_records(filled, columns=names).set_index("name")
    for old, name in (*zip(manifest.pallet.labels, masses, strict=True), *_OLD_NAMES.items()):
        if name in frame and old not in frame:
            frame[old] = frame[name]
    return frame


def to_csv(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> bytes:
    """Return the table as CSV with a header row; an empty field is a missing number.

    Text that a spreadsheet would take for a formula, as a hypothesis' name may be, has an
    apostrophe before it.
    """
    buffer = io.StringIO()
    rows = list(data_rows(manifest, results))
    names = ["name", *mass_columns(manifest), *list(kind(manifest.request).columns)[1:]]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(_no_formula, names))
    writer.writerows([_no_formula(row.get(name)) for name in names] for row in rows)
    return buffer.getvalue().encode()


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # The csv module does not quote a carriage return, which ends a line for some readers.
    text = value.replace("\r", " ")
    return f"'{text}" if text.startswith(_FORMULA) else text


def to_parquet(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> bytes:
    """Return the table as Parquet; the manifest is in its metadata under ``fitserve``.

    Raises
    ------
    MissingExtraError
        pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("export to Parquet", "parquet") from error

    rows = list(data_rows(manifest, results))
    masses = mass_columns(manifest)
    meanings = kind(manifest.request).columns
    fields = []
    for name in ["name", *masses, *list(meanings)[1:]]:
        words = name in masses and any(isinstance(row[name], str) for row in rows)
        type_ = pa.string() if name in _TEXT or words else pa.float64()
        if name in _FLAGS:
            type_ = pa.bool_()
        if words:
            for row in rows:
                row[name] = None if row[name] is None else str(row[name])
        metadata = {"description": meanings.get(name, "mass value, in the patchset's unit")}
        fields.append(pa.field(name, type_, metadata=metadata))
    schema = pa.schema(fields, metadata={"fitserve": msgspec.json.encode(manifest)})
    table = pa.Table.from_pylist(rows, schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def to_json(results: Mapping[str, HypothesisResult]) -> bytes:
    """Return finished results as ``results.json`` has them, by name."""
    return encoded_results(results)


def _as_file(
    encode: Callable[[Manifest, Results], bytes],
) -> Callable[[Manifest, Results, Path], None]:
    """Return a function that writes an encoded run to a file, or for ``-`` to standard output."""

    def write(manifest: Manifest, results: Results, path: Path) -> None:
        content = encode(manifest, results)
        if path == Path("-"):
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        else:
            write_output(path, content)

    return write


def _write_submission(manifest: Manifest, results: Results, path: Path) -> None:
    from fitserve.export.hepdata import write_submission

    write_submission(manifest, results, path)


class Format(NamedTuple):
    """A format for the results of a run.

    Attributes
    ----------
    content
        What is in it, in a few words.
    write
        Writes a run: its manifest and results, to a path.
    text
        Whether it may go to the standard output.
    """

    content: str
    write: Callable[[Manifest, Results, Path], None]
    text: bool = False


FORMATS = {
    "json": Format("as results.json", _as_file(lambda _, results: to_json(results)), text=True),
    "csv": Format(_TABLE, _as_file(to_csv), text=True),
    "parquet": Format(_TABLE, _as_file(to_parquet)),
    "hepdata": Format("a submission with CLs, contours and the picture", _write_submission),
}
"""All formats by name."""


def export_run(
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    format_: str,
    path: Path,
) -> None:
    """Write a run in another format.

    Parameters
    ----------
    manifest, results
        A run: what was asked for and what is finished, by name.
    format_
        One of `FORMATS`; docs/results.md has the columns of tables.
    path
        The file to write; for ``hepdata`` a directory, or an archive if it ends with
        ``.tar.gz``. ``-`` is the standard output, for text.

    Raises
    ------
    StoreError
        The output cannot be written.
    MissingExtraError
        The format needs an optional part of fitserve.
    RequestError
        The format cannot go to the standard output.
    """
    chosen = FORMATS[format_]
    if path == Path("-") and not chosen.text:
        raise RequestError(
            f"{format_} cannot be written to the standard output", hint="name a file with -o"
        )
    chosen.write(manifest, results, path)


def results_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of ``results.json``.

    Examples
    --------
    >>> from fitserve.export import results_schema
    >>> schema = results_schema()
    >>> schema["additionalProperties"]
    {'$ref': '#/$defs/HypothesisResult'}
    >>> "CLs_obs" in schema["$defs"]["HypothesisResult"]["required"]
    True
    """
    schema = msgspec.json.schema(dict[str, HypothesisResult])
    for definition in schema["$defs"].values():
        # msgspec leaves docstrings indented before version 0.23.
        definition["description"] = inspect.cleandoc(definition["description"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fitserve results.json",
        "description": "Results by hypothesis name, in the order of the patchset.",
        **schema,
    }
