"""Boxes as text in an answer: three conventions, which a record names."""

from __future__ import annotations

from enum import Enum

from pvit_ext.data.convert.annotation import Box, Size


class BoxText(Enum):
    """How a box is written; the value is what a record's ``box_text`` says."""

    FRACTIONS = "[x0, y0, x1, y1] in fractions of the image's width and height, three decimals"
    THOUSANDTHS = "[x0, y0, x1, y1] in whole thousandths of the image's width and height"
    PIXELS = "[x0, y0, x1, y1] in whole pixels of the upright image"

    def write(self, box: Box, size: Size) -> str:
        """A box as text.

        Args:
            box: in pixels of the upright image.
            size: of the image.
        """
        fractions = [value / size[index % 2] for index, value in enumerate(box)]
        if self is BoxText.FRACTIONS:
            return f"[{', '.join(f'{value:.3f}' for value in fractions)}]"
        if self is BoxText.THOUSANDTHS:
            return f"[{', '.join(f'{value * 1000:.0f}' for value in fractions)}]"
        return f"[{', '.join(f'{value:.0f}' for value in box)}]"


BOX_TEXTS = {convention.name.lower(): convention for convention in BoxText}
"""Conventions by the name that ``--box-text`` takes."""
