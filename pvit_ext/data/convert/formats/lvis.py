"""LVIS v1 and v0.5, and PACO-LVIS, which adds parts and attributes: COCO's layout with other tables.

Images lie where the last two parts of ``coco_url`` say; a file of ``val`` may name ``train2017``. Names are cleaned
for people: ``bow_(decorative_ribbons)`` becomes ``bow``; the source's own name is kept as category.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import Annotation, Size
from pvit_ext.data.convert.base import Evidence, ReadOptions, Setting
from pvit_ext.data.convert.fields import clean, kept
from pvit_ext.data.convert.formats.coco import Coco, Span, Unit
from pvit_ext.data.convert.formats.coco_tables import entries_by_id
from pvit_ext.data.convert.notes import Notes, Reason
from pvit_ext.data.convert.peek import Peek

_SENSE = re.compile(r"_?\([^)]*\)")


class Lvis(Coco):
    """See the module."""

    name = "lvis"
    about = "LVIS v1 or v0.5: lvis_v1_{train,val}.json"
    closed = False  # of an image's thousand classes few were searched for
    settings: ClassVar[Mapping[str, Setting]] = {"captions": Coco.settings["captions"]}

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """COCO's layout in which images say which categories they lack."""
        if "attr_type_to_attr_idxs" in peek.sections or "neg_category_ids" not in peek.first("images"):
            return None
        return Evidence(0.95, "images with neg_category_ids")

    def names(self, image: Mapping[str, Any]) -> list[str]:
        """Folder and file of ``coco_url``, then ``file_name``."""
        url = clean(image.get("coco_url"))
        return [*(["/".join(url.split("/")[-2:])] if url else []), *super().names(image)]

    def label(self, category: Mapping[str, Any]) -> str:
        """The name without its sense, blanks for underlines; of a part, ``handle of a cup``."""
        thing, colon, part = clean(category.get("name")).partition(":")
        label = _plain(thing)
        article = "an" if label[:1] in tuple("aeiou") else "a"
        return f"{_plain(part)} of {article} {label}" if colon else label


class Paco(Lvis):
    """PACO-LVIS: objects, their parts, and attributes of both."""

    name = "paco"
    about = "PACO-LVIS: paco_lvis_v1_{train,val,test}.json"

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.attributes: dict[int, str] = {}

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """LVIS's layout with attributes of parts."""
        return Evidence(0.98, "the key attr_type_to_attr_idxs") if "attr_type_to_attr_idxs" in peek.sections else None

    def units(self) -> Iterator[Unit | tuple[None, list[Span]]]:
        """As COCO's, once the attributes are known."""
        entries = entries_by_id(self.buffer, self.sections.get("attributes"), "attribute")
        self.attributes = {number: _plain(clean(item.get("name"))) for number, item in entries.items()}
        yield from super().units()

    def region(self, item: Mapping[str, Any], size: Size | None, notes: Notes) -> Annotation | Reason | None:
        """An object or a part, with its attributes by name."""
        ids = kept(item.get("attribute_ids") or [], "attribute_ids", list)
        names = [self.attributes[one] for one in ids if isinstance(one, int) and one in self.attributes]
        found = super().region({**item, "attributes": dict.fromkeys(names, True)}, size, notes)
        if isinstance(found, Annotation) and item.get("obj_ann_id", item.get("id")) != item.get("id"):
            notes.count("parts of objects")
        return found


def _plain(name: str) -> str:
    return clean(_SENSE.sub("", name).replace("_", " ")) or clean(name.replace("_", " "))
