"""The part of a box that lies in its image, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence

from pvit_ext.data.convert.annotation import Box, Size
from pvit_ext.data.convert.notes import CLIPPED, BadItem, Notes, Reason
from pvit_ext.regions.extent import MIN_SIDE
from pvit_ext.regions.region import FRACTIONS, MAX_PIXEL, are_fractions

DECIMALS = 3
"""Decimals of a pixel that are kept: finer than any annotation, and coarser than float noise."""


def clip_box(
    box: Box, size: Size | None, notes: Notes, of_fractions: bool = False, what: str = CLIPPED
) -> Box | Reason:
    """The box as a record holds it: rounded, clipped to the image; or why there is none.

    Args:
        box: corners in pixels.
        size: of the image, None if unknown: then only its upper left edges are known.
        notes: counts boxes that are clipped.
        of_fractions: the source has fractions or percent, of which the pixels were made.
        what: the name of that count.

    Raises:
        BadItem: for fractions where the source should have pixels.
    """
    x0, y0, x1, y1 = (round(value, DECIMALS) for value in box)
    if x1 - x0 < MIN_SIDE or y1 - y0 < MIN_SIDE:
        return Reason.DEGENERATE
    if not of_fractions:
        refuse_fractions([x0, y0, x1, y1])
    width, height = size or (MAX_PIXEL, MAX_PIXEL)
    clipped = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if clipped[2] - clipped[0] < MIN_SIDE or clipped[3] - clipped[1] < MIN_SIDE:
        return Reason.OUTSIDE
    if max(clipped) <= FRACTIONS[1]:  # training would take it for fractions
        return Reason.DEGENERATE
    if clipped != (x0, y0, x1, y1):
        notes.count(what)
    return clipped


def refuse_fractions(values: Sequence[float]) -> None:
    """Refuse coordinates that lie in the top-left pixel, where a source should have pixels.

    Raises:
        BadItem: saying that they seem to be fractions.
    """
    if are_fractions(values):
        raise BadItem(
            f"{list(values)[:4]} lies in the top-left pixel, these seem to be fractions of the image's sides; expected "
            "pixels: multiply them by its width and height"
        )
