"""What may be chosen about a contour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ContourOptions", "Interpolation"]

Interpolation = Literal["smooth", "linear"]


@dataclass(frozen=True, kw_only=True)
class ContourOptions:
    """Choices for a contour; the defaults suit a run whose hypotheses differ in two masses.

    Attributes
    ----------
    plane
        Labels of the two mass values to draw against each other; None takes the ones that
        vary, or the first two on which all others that vary depend linearly.
    at
        Values, by label, at which the other masses are held.
    mu
        Signal strength; None takes that of the run which is nearest to 1.
    level
        Confidence level of exclusion; None takes that of a run for limits, else 0.95.
    interpolation
        ``smooth`` (radial basis functions, limited to what the neighbouring points span) or
        ``linear`` (flat triangles), both of the significance.
    drop_suspect
        Treat suspect results as holes instead of using their numbers.
    title, x, y
        Title and axis titles (mathtext) instead of the pallet's own.
    references
        Files or runs to overlay, by label.
    """

    plane: tuple[str, ...] | None = None
    at: Mapping[str, float | str] = field(default_factory=dict)
    mu: float | None = None
    level: float | None = None
    interpolation: Interpolation = "smooth"
    drop_suspect: bool = False
    title: str | None = None
    x: str | None = None
    y: str | None = None
    references: Mapping[str, Path] = field(default_factory=dict)
