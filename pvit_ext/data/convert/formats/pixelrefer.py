"""PixelRefer's and VideoRefer's data: a mask for each ``<region>`` of the texts, run lengths or polygons.

``vg_val_5000.json``, of captions with masks, is read too. Videos are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation
from pvit_ext.data.convert.base import Evidence
from pvit_ext.data.convert.chats import ChatItems, conversation, images_named, turns_of
from pvit_ext.data.convert.fields import clean, declared_size, kept, take
from pvit_ext.data.convert.formats.osprey import segmentation
from pvit_ext.data.convert.marks import Mark, Said
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.prompt import REGION_PLACEHOLDER

_TAG = re.compile(REGION_PLACEHOLDER)


class PixelRefer(ChatItems):
    """See the module."""

    name = "pixelrefer"
    about = "PixelRefer's JSON: conversations with <region> and masks, or captions with mask (vg_val_5000.json)"

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Conversations with masks, or captions with mask and boxes."""
        keys = set(peek.item)
        if {"caption", "mask", "boxes"} <= keys:
            return Evidence(0.9, "items with caption, mask and boxes")
        if {"conversations", "masks"} <= keys and "box_x1y1x2y2" not in keys:
            return Evidence(0.9, "items with conversations and masks")
        return None

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of an item with its conversation, or its captioned region."""
        if "video" in item:
            notes.drop(Reason.NO_IMAGE, location, f"{clean(item['video'])} is a video")
            return
        names = images_named(item)
        if len(names) != 1:
            raise BadItem(f"image is one, got {len(names)}")
        declared = declared_size(item)
        texts = [] if "caption" in item else turns_of(item, notes)
        if (found := self.image_folder.look_up(names, declared, location, notes, max(len(texts) // 2, 1))) is None:
            return
        masks = kept(item.get("mask" if "caption" in item else "masks") or [], "masks", list)
        captions = (clean(take(item, "caption", str)),) if "caption" in item else ()
        regions = [segmentation(one, found[1], notes, captions=captions) for one in masks]
        if captions:
            objects = [one for one in regions if isinstance(one, Annotation)]
            for one in regions:
                if isinstance(one, Reason):
                    notes.drop(one, location, captions[0])
            yield AnnotatedImage(found[0], found[1], "", tuple(objects))
        elif talk := conversation(_turns(texts, len(regions)), regions, location, notes, str(item.get("id", ""))):
            yield AnnotatedImage(found[0], found[1], "", conversations=(talk,))


def _turns(texts: list[str], regions: int) -> list[Said]:
    """Turns whose tags take the masks in order."""
    key, turns = 0, []
    for text in texts:
        tags = list(_TAG.finditer(text))
        turns.append(Said(text, tuple(Mark(tag.start(), tag.end(), (key + at,)) for at, tag in enumerate(tags))))
        key += len(tags)
    if key != regions:
        raise BadItem(f"{key} {REGION_PLACEHOLDER} in the texts, {regions} masks")
    return turns
