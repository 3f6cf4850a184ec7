"""Taking results elsewhere (JSON, CSV, Parquet, HEPData), and reading CLs back."""

from fitserve.export.exporting import FORMATS, Format, export_run, to_json
from fitserve.export.flat import COLUMNS, mass_columns, table_rows, to_csv, to_parquet
from fitserve.export.output import write_output
from fitserve.export.reading import CLsEntry, read_cls
from fitserve.export.schema import results_schema

__all__ = [
    "COLUMNS",
    "FORMATS",
    "CLsEntry",
    "Format",
    "export_run",
    "mass_columns",
    "read_cls",
    "results_schema",
    "table_rows",
    "to_csv",
    "to_json",
    "to_parquet",
    "write_output",
]
