"""GPT4RoI's region captions of Visual Genome, GRiT's ``train.json`` and ``test_caption.json``: COCO's layout.

Each annotation has a ``caption``; the one category, ``object``, is no name. GPT4RoI drops captions of fewer than three
words and boxes of less than a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import Annotation, Size
from pvit_ext.data.convert.base import Evidence, ReadOptions, Setting, SourceError
from pvit_ext.data.convert.fields import clean, take
from pvit_ext.data.convert.formats.coco import NO_NAME, Coco
from pvit_ext.data.convert.notes import Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import numbers


class Gpt4Roi(Coco):
    """See the module."""

    name = "gpt4roi"
    about = "GPT4RoI's and GRiT's region captions of Visual Genome: COCO's layout, a caption an annotation"
    closed = False  # regions are described in words
    settings: ClassVar[Mapping[str, Setting]] = {
        "min_words": Setting("3", "captions of fewer words are left out, as GPT4RoI does; 1 keeps all"),
    }

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        if not self.chosen["min_words"].isdigit():
            raise SourceError(f"{self.name}: min_words is a whole number, got {self.chosen['min_words']!r}")
        self.min_words = int(self.chosen["min_words"])

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """COCO's layout with a caption and a box in each annotation."""
        if {"images", "annotations"} <= set(peek.sections) and {"caption", "bbox"} <= set(peek.first("annotations")):
            sure = peek.first("categories").get("name") == NO_NAME
            return Evidence(0.9 if sure else 0.4, "annotations with caption and bbox")
        return None

    def label(self, category: Mapping[str, Any]) -> str:
        """No label: the one category is no name."""
        return ""

    def region(self, item: Mapping[str, Any], size: Size | None, notes: Notes) -> Annotation | Reason | None:
        """A captioned box; None for a short caption, which is counted."""
        sides = numbers(take(item, "bbox", list), 4, "bbox")[2:]
        if min(sides) < 1:
            return Reason.DEGENERATE
        if len(clean(take(item, "caption", str)).split()) < self.min_words:
            notes.count(f"captions of fewer than {self.min_words} words left out")
            return None
        return super().region(item, size, notes)
