"""Qwen-VL's and Qwen2-VL's instruction data: ``<ref>words</ref><box>(x0,y0),(x1,y1)</box>`` in the texts.

Numbers are thousandths of each side, 0 to 999. Qwen2-VL writes ``<|object_ref_start|>``, ``<|box_start|>`` and their
ends. The image stands in the text, ``Picture 1: <img>path</img>``, or under ``image`` or ``images``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import Evidence
from pvit_ext.data.convert.chats import ChatItems, images_named, is_single, turns_of, without_boxes
from pvit_ext.data.convert.fields import short
from pvit_ext.data.convert.marks import Mark, Said
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed_in

FULL = 1000
_IMAGE = re.compile(r"(?:Picture \d+:[ \t]*)?<img>(.*?)</img>[ \t]*", re.DOTALL)
_REF = r"(?:<ref>(?P<ref>.*?)</ref>|<\|object_ref_start\|>(?P<ref2>.*?)<\|object_ref_end\|>)"
_BOX = r"(?:<box>[^<]*</box>|<\|box_start\|>[^<]*<\|box_end\|>)"
_TAGS = re.compile(rf"{_REF}\s*(?P<boxes>{_BOX}(?:[,\s]*{_BOX})*)?|(?P<bare>{_BOX}(?:[,\s]*{_BOX})*)", re.DOTALL)
_ONE = re.compile(r"(?:<box>|<\|box_start\|>)(.*?)(?:</box>|<\|box_end\|>)", re.DOTALL)
_NUMBERS = re.compile(r"\s*\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)\s*,\s*\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)\s*")
_STRAY = re.compile(r"</?(?:ref|box|img|quad)>|<\|(?:object_ref|box|quad)_(?:start|end)\|>")


class QwenVl(ChatItems):
    """See the module."""

    name = "qwen_vl"
    about = "Qwen-VL's and Qwen2-VL's conversations with <box>(x0,y0),(x1,y1)</box> in thousandths"

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """A conversation with ``<img>`` or ``<box>``."""
        turns = peek.item.get("conversations") or peek.item.get("messages")
        text = str(turns) if isinstance(turns, list) else ""
        found = next((tag for tag in ("<box>(", "<|box_start|>", "<img>") if tag in text), None)
        return Evidence(0.97, f"conversations with {found}") if found else None

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of an item with its conversation."""
        texts = turns_of(item, notes, "messages" if "messages" in item else "conversations")
        texts, paths = _images(texts, item)
        if not is_single(paths, len(texts) // 2, location, notes):
            return
        if (found := self.image_folder.look_up(paths, None, location, notes)) is None:
            return
        boxes = _Boxes(found[1], notes)
        turns = [boxes.said(text) for text in texts]
        said = without_boxes(turns, boxes.found, location, notes, str(item.get("id", "")))
        conversations = (said.conversation,) if said.conversation else ()
        yield AnnotatedImage(found[0], found[1], "", said.objects, grounded=said.grounded, conversations=conversations)


def _images(texts: list[str], item: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The texts with ``<image>`` for their images, and the images, each once."""
    paths = images_named(item)
    inside = [path.strip() for text in texts for path in _IMAGE.findall(text)]
    if inside:
        paths = list(dict.fromkeys((*paths, *inside)))
        texts = [_IMAGE.sub("", text).lstrip("\n") for text in texts]  # <image> is put before the first turn
    return texts, paths


@dataclass
class _Boxes:
    """The boxes of an item, in the order of its texts."""

    size: Size | None
    notes: Notes
    found: list[Annotation | Reason] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)

    def said(self, text: str) -> Said:
        """A turn; a box that occurs again has the key it had."""
        marks = []
        for tag in _TAGS.finditer(text):
            words = (tag["ref"] or tag["ref2"] or "").strip()
            keys = tuple(self._key(inner) for inner in _ONE.findall(tag["boxes"] or tag["bare"] or ""))
            marks.append(Mark(tag.start(), tag.end(), keys, words))
        outside = _TAGS.sub("", text)
        if stray := _STRAY.search(outside):
            raise BadItem(f"{stray[0]} without its partner in {short(text)}")
        return Said(text, tuple(marks))

    def _key(self, inner: str) -> int:
        numbers = _NUMBERS.fullmatch(inner)
        if numbers is None or max(values := [int(one) for one in numbers.groups()]) > FULL:
            raise BadItem(f"a box is (x0,y0),(x1,y1), whole numbers of 0..{FULL - 1}, got {short(inner)}")
        key = repr(values)
        if key not in self.known:
            self.known[key] = len(self.found)
            self.found.append(boxed_in(FULL, values, self.size, self.notes))
        return self.known[key]
