"""Pictures of limits, scans, fits, rankings and toys, in the style of the contour."""

from fitserve.pictures.correlations import draw_correlations
from fitserve.pictures.limits import draw_limits
from fitserve.pictures.pulls import draw_pulls
from fitserve.pictures.ranking import draw_ranking
from fitserve.pictures.scan import draw_scan
from fitserve.pictures.toys import draw_toys
from fitserve.pictures.yields import draw_yields

__all__ = [
    "draw_correlations",
    "draw_limits",
    "draw_pulls",
    "draw_ranking",
    "draw_scan",
    "draw_toys",
    "draw_yields",
]
