"""The run directory: what was asked, what was found, and nothing lost in between."""
