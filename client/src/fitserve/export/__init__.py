"""Taking results elsewhere: JSON, CSV, Parquet, HEPData."""

from fitserve.export.exporting import FORMATS, Format, export_run, to_json
from fitserve.export.flat import to_csv, to_parquet
from fitserve.export.rows import (
    COLUMNS,
    FIT_COLUMNS,
    LIMIT_COLUMNS,
    RANKING_COLUMNS,
    TOY_COLUMNS,
    columns_of,
    mass_columns,
    table_rows,
)
from fitserve.export.schema import results_schema

__all__ = [
    "COLUMNS",
    "FIT_COLUMNS",
    "FORMATS",
    "LIMIT_COLUMNS",
    "RANKING_COLUMNS",
    "TOY_COLUMNS",
    "Format",
    "columns_of",
    "export_run",
    "mass_columns",
    "results_schema",
    "table_rows",
    "to_csv",
    "to_json",
    "to_parquet",
]
