"""Grasp Any Region's training data and GAR-Bench: JSON, or a folder that ``datasets`` wrote.

Masks are compressed run lengths, one, several, or null for the image as a whole. A choice is answered by its letter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.arrow_rows import ArrowRows, arrow_columns
from pvit_ext.data.convert.base import DataFormat, Evidence, ReadOptions, Setting
from pvit_ext.data.convert.chats import ChatItems
from pvit_ext.data.convert.embedded import check_folder
from pvit_ext.data.convert.formats.gar_item import gar_images
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.peek import Peek


class _Unpacked(DataFormat):
    """What both forms have in common: where images go that the source holds, and what an item is."""

    settings: ClassVar[Mapping[str, Setting]] = {
        "unpack": Setting("", "folder in the image folder for images that the source holds; else they are left out")
    }

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.folder = check_folder(self.chosen["unpack"])

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of an item, or of a row."""
        yield from gar_images(item, self.image_folder, self.folder, location, notes)


class Gar(_Unpacked, ChatItems):
    """See the module."""

    name = "gar"
    about = "Grasp Any Region's JSON, and GAR-Bench's: mask_rle or mask_rles, <Prompt0>"

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Items with mask_rle or mask_rles."""
        found = next((key for key in ("mask_rles", "mask_rle") if key in peek.item), None)
        return Evidence(0.95, f"items with {found}") if found else None


class GarArrow(_Unpacked, ArrowRows):
    """The same in a folder of Arrow files."""

    name = "gar_arrow"
    about = "Grasp Any Region's training data: a folder that datasets' save_to_disk wrote"

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Arrow files with mask_rle and conversations."""
        return Evidence(0.95, "Arrow files with mask_rle") if "mask_rle" in arrow_columns(peek) else None
