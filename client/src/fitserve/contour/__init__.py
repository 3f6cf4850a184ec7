"""Exclusion contours: from the CLs of a mass grid to curves, and to pictures of them."""

from fitserve.contour.draw import draw_contour
from fitserve.contour.grid import MassGrid, mass_grid
from fitserve.contour.lines import CURVES, Contours, contour_lines
from fitserve.contour.options import ContourOptions
from fitserve.contour.saving import FORMATS, figure_bytes, save_figure
from fitserve.contour.surface import significance, threshold

__all__ = [
    "CURVES",
    "FORMATS",
    "ContourOptions",
    "Contours",
    "MassGrid",
    "contour_lines",
    "draw_contour",
    "figure_bytes",
    "mass_grid",
    "save_figure",
    "significance",
    "threshold",
]
