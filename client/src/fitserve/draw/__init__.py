"""Pictures of runs: contours, limits, scans, fits, rankings and toys, and the curves in them."""
