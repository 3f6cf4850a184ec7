"""Export of results: tables, JSON, HEPData, data frames, and comparisons."""
