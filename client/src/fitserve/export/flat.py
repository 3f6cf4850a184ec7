"""Results as a table, in CSV and Parquet."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

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


def to_csv(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> bytes:
    """Return the table as CSV with a header row; an empty field is a missing number."""
    buffer = io.StringIO()
    rows = list(table_rows(manifest, results))
    names = ["name", *mass_columns(manifest), *list(columns_of(manifest.request))[1:]]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


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
