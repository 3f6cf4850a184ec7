"""Results as a table, in CSV and Parquet."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.errors import MissingExtraError
from fitserve.export.rows import columns_of, mass_columns, table_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitserve.contract import HypothesisResult
    from fitserve.store.records import Manifest

__all__ = ["to_csv", "to_parquet"]

_TEXT = {"name", "status", "reason", "engine", "key", "parameter", "limit_reasons", "neighbours"}
_FLAGS = {"fixed", "at_bound"}
_FORMULA = ("=", "+", "-", "@", "\t")


def to_csv(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> bytes:
    """Return the table as CSV with a header row; an empty field is a missing number.

    Text that a spreadsheet would take for a formula, as names of anybody's may be, has an
    apostrophe before it.
    """
    buffer = io.StringIO()
    rows = list(table_rows(manifest, results))
    names = ["name", *mass_columns(manifest), *list(columns_of(manifest.request))[1:]]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(_no_formula, names))
    writer.writerows([_no_formula(row.get(name)) for name in names] for row in rows)
    return buffer.getvalue().encode()


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # The csv module does not quote this one, which ends a line for some readers.
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

    rows = list(table_rows(manifest, results))
    masses = mass_columns(manifest)
    meanings = columns_of(manifest.request)
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
