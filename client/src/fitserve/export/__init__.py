"""Taking results elsewhere: JSON, CSV, Parquet and HEPData."""
