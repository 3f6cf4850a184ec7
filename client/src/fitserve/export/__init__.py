"""Results taken elsewhere: tables, JSON, HEPData, data frames, and comparisons."""
