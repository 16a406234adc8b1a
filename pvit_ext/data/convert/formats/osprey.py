"""Osprey-724K: conversations and descriptions of masks, which texts call ``<region1>``, ``<region2>``, from 1.

``segmentation`` is polygons or COCO's run lengths, in one file both. ``bbox`` is not read: its convention is nowhere
stated. The image is the part of ``file_name`` behind the last ``_``, or all of it. Answers of the short forms and
the part level are a word or two: questions then ask for that, as Osprey's own reader does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import Evidence, Setting
from pvit_ext.data.convert.chats import ChatItems, conversation, turns_of
from pvit_ext.data.convert.fields import clean, kept, short, take
from pvit_ext.data.convert.marks import Mark, Said
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import masked, numbers, outlined

_TAG = re.compile(r"<region(\d+)>")
_SHORT = "Answer with a word or a phrase."
_DESCRIPTION = re.compile(r"\s*<region(\d+)>\s*:\s*(.*)", re.DOTALL)


class Osprey(ChatItems):
    """See the module."""

    name = "osprey"
    about = "Osprey-724K: osprey_*.json, with annotation, and conversations or description"
    settings: ClassVar[Mapping[str, Setting]] = {
        "short": Setting("auto", "ask for a word or phrase; auto: by the file's name", ("auto", "yes", "no")),
    }

    @property
    def is_short(self) -> bool:
        """Whether answers are a word or two."""
        named = any(part in self.source.name for part in ("short_form", "part_level"))
        return self.chosen["short"] == "yes" or (self.chosen["short"] == "auto" and named)

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Items with file_name, annotation, and conversations or description."""
        keys = set(peek.item)
        if {"file_name", "annotation"} <= keys and keys & {"conversations", "description"}:
            return Evidence(0.97, "items with annotation, and conversations or description")
        return None

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of an item with its conversation, or its described regions."""
        texts = turns_of(item, notes) if "conversations" in item else []
        if self.is_short:
            texts = [text if number % 2 else f"{text.rstrip()}\n{_SHORT}" for number, text in enumerate(texts)]
        told = kept(item.get("description") or [], "description", list)
        if not texts and not told:
            notes.drop(Reason.NO_LABELS, location, "no turns and no description")
            return
        path = take(item, "file_name", str)
        declared = take(item, "width", int), take(item, "height", int)
        names = [path, path.rsplit("_", 1)[-1]]
        if (found := self.image_folder.look_up(names, declared, location, notes, len(told) or len(texts) // 2)) is None:
            return
        regions = [_region(one, found[1], notes) for one in take(item, "annotation", list)]
        turns = [said(text, _TAG, len(regions), 1) for text in texts]
        talk = conversation(turns, regions, location, notes) if turns else None
        objects = tuple(_described(told, regions, location, notes))
        if talk or objects:
            yield AnnotatedImage(found[0], found[1], "", objects, conversations=(talk,) if talk else ())


def said(text: str, tag: re.Pattern[str], regions: int, first: int) -> Said:
    """A text whose tags hold the number of a region.

    Args:
        text: with tags.
        tag: its first group is the number.
        regions: how many there are.
        first: the number of the first.

    Raises:
        BadItem: for a number beyond them.
    """
    marks = []
    for found in tag.finditer(text):
        key = int(found[1]) - first
        if not 0 <= key < regions:
            raise BadItem(f"{found[0]} in {short(text)}, but there are {regions} regions, counted from {first}")
        marks.append(Mark(found.start(), found.end(), (key,)))
    return Said(text, tuple(marks))


def segmentation(value: Any, size: Size | None, notes: Notes, **fields: Any) -> Annotation | Reason:
    """A region of COCO's ``segmentation``: run lengths, plain or compressed, or a list of polygons.

    Raises:
        BadItem: for anything else.
    """
    if isinstance(value, dict):
        return masked(value, size, **fields)
    parts = [numbers(part, None, "a polygon") for part in kept(value, "a segmentation", list, dict)]
    return outlined(parts, size, notes, **fields) if parts else Reason.DEGENERATE


def _region(item: Any, size: Size | None, notes: Notes) -> Annotation | Reason:
    return segmentation(take(item, "segmentation", list, dict), size, notes)


def _described(
    texts: Sequence[Any], regions: Sequence[Annotation | Reason], location: str, notes: Notes
) -> Iterator[Annotation]:
    for number, text in enumerate(texts):
        found = _DESCRIPTION.fullmatch(kept(text, f"description[{number}]", str))
        if found is None or not 0 < int(found[1]) <= len(regions):
            raise BadItem(f"description[{number}] is '<regionN>: ...', N of 1..{len(regions)}, got {short(text)}")
        region = regions[int(found[1]) - 1]
        if isinstance(region, Reason):
            notes.drop(region, location, f"region {found[1]}")
            continue
        others = _TAG.sub(lambda tag: f"region {tag[1]}", found[2])
        if others != found[2]:
            notes.drop(Reason.INCOMPLETE, location, f"its description names another region: {short(text)}")
            continue
        yield replace(region, captions=(clean(found[2]),))
