"""Ferret's GRIT: conversations in which ``<bbox_locationK>`` names a box; K counts from 0 in each turn.

``box_x1y1x2y2`` has a list of boxes (pixels) for each turn, ``masks`` the same with COCO's run lengths. A question's
tags become regions, the mask where there is one. An answer's boxes are a result: its words are kept without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import Evidence
from pvit_ext.data.convert.chats import ChatItems, turns_of, without_boxes
from pvit_ext.data.convert.fields import declared_size, kept, short, take
from pvit_ext.data.convert.image_folder import tails
from pvit_ext.data.convert.marks import Mark, Said
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shaped import paired, shaped
from pvit_ext.data.convert.shapes import boxed, masked, numbers

_TAG = re.compile(r"<bbox_location(\d+)>")


class Ferret(ChatItems):
    """See the module."""

    name = "ferret"
    about = "Ferret's GRIT: a JSON list with conversations, <bbox_location0> and box_x1y1x2y2"

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Items with box_x1y1x2y2."""
        return Evidence(0.97, "items with box_x1y1x2y2") if "box_x1y1x2y2" in peek.item else None

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of an item with its conversation."""
        texts = turns_of(item, notes)
        declared = declared_size(item, "image_w", "image_h")
        path = take(item, "image", str)
        names = [path, *tails(path)]
        if (found := self.image_folder.look_up(names, declared, location, notes, len(texts) // 2)) is None:
            return
        regions, firsts = _regions(item, len(texts), found[1], notes)
        turns = [_said(text, number, firsts) for number, text in enumerate(texts)]
        said = without_boxes(turns, regions, location, notes, str(item.get("id", "")))
        conversations = (said.conversation,) if said.conversation else ()
        yield AnnotatedImage(found[0], found[1], "", said.objects, conversations=conversations)


def _regions(
    item: Mapping[str, Any], turns: int, size: Size | None, notes: Notes
) -> tuple[list[Annotation | Reason], list[int]]:
    """All boxes, and which is the first of each turn; the last entry is how many there are."""
    boxes = kept(item.get("box_x1y1x2y2") or [[]] * turns, "box_x1y1x2y2", list)
    masks = kept(item.get("masks") or [[]] * turns, "masks", list)
    if len(boxes) != turns or len(masks) != turns:
        raise BadItem(
            f"box_x1y1x2y2 and masks have a list for each of {turns} turns, got {len(boxes)} and {len(masks)}"
        )
    regions: list[Annotation | Reason] = []
    firsts = [0]
    for number, of_turn in enumerate(boxes):
        names = f"box_x1y1x2y2[{number}]", f"masks[{number}]"
        regions += [_region(box, mask, size, notes) for box, mask in paired(of_turn, masks[number], names, notes)]
        firsts.append(len(regions))
    return regions, firsts


def _region(values: Any, shape: Any, size: Size | None, notes: Notes) -> Annotation | Reason:
    x0, y0, x1, y1 = numbers(values, 4, "a box of box_x1y1x2y2")
    box = boxed((x0, y0, x1, y1), size, notes)
    if not shape or isinstance(box, Reason):
        return box
    return shaped(box, masked(kept(shape, "a mask", dict), size), notes)


def _said(text: str, number: int, firsts: list[int]) -> Said:
    marks = []
    for tag in _TAG.finditer(text):
        key = firsts[number] + int(tag[1])
        if key >= firsts[number + 1]:
            count = firsts[number + 1] - firsts[number]
            raise BadItem(f"turn {number} names {tag[0]}, box_x1y1x2y2[{number}] has {count}: {short(text)}")
        marks.append(Mark(tag.start(), tag.end(), (key,)))
    return Said(text, tuple(marks))
