"""Taking results elsewhere: JSON, CSV, Parquet, HEPData."""

from fitserve.export.exporting import FORMATS, Format, export_run, to_json
from fitserve.export.flat import COLUMNS, mass_columns, table_rows, to_csv, to_parquet
from fitserve.export.schema import results_schema

__all__ = [
    "COLUMNS",
    "FORMATS",
    "Format",
    "export_run",
    "mass_columns",
    "results_schema",
    "table_rows",
    "to_csv",
    "to_json",
    "to_parquet",
]
