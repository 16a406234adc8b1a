"""GLaMM's grounded captions (GCG): three layouts for three files.

``GranDf_HA_GCG_train.json`` has phrases with characters of the caption and run lengths, ``RefCOCOg_GCG_train.json``
sentences with COCO's segmentation, ``flickr_mergedGT_GCG_train.json`` is MDETR's layout with a ``sam_mask``. GranD
itself is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Grounded, Size
from pvit_ext.data.convert.base import Evidence
from pvit_ext.data.convert.chats import ChatItems
from pvit_ext.data.convert.fields import clean, kept, short, take
from pvit_ext.data.convert.formats.osprey import segmentation
from pvit_ext.data.convert.formats.refcoco import Mdetr
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.spans import phrase_end

Phrase = tuple[int, int, tuple[int, ...]]


class Glamm(ChatItems):
    """See the module."""

    name = "glamm"
    about = "GLaMM's GranDf_HA_GCG_*.json and RefCOCOg_GCG_*.json"

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Captions with groundings, or with refs."""
        keys = set(peek.item)
        if {"file_name", "caption", "groundings"} <= keys or {"img_file_name", "caption", "refs"} <= keys:
            return Evidence(0.97, "items with caption, and groundings or refs")
        return None

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of an item with its caption."""
        caption = take(item, "caption", str)
        path = take(item, "file_name" if "groundings" in item else "img_file_name", str)
        named = _groundings(item, caption) if "groundings" in item else _refs(item, caption)
        count = sum(len(masks) for _, _, masks in named)
        if (found := self.image_folder.look_up([path, path.rsplit("_", 1)[-1]], None, location, notes, count)) is None:
            return
        objects: list[Annotation] = []
        phrases: list[Phrase] = []
        for words, span, masks in named:
            alone = words if len(masks) == 1 else ""
            added = [_add(mask, alone, objects, found[1], location, notes) for mask in masks]
            indices = tuple(index for index in added if index is not None)
            if indices and span is not None:
                phrases.append((*span, indices))
            elif span is None:
                notes.count("phrases that their caption does not hold")
        grounded = (Grounded(caption, tuple(sorted(phrases))),) if phrases else ()
        yield AnnotatedImage(found[0], found[1], "", tuple(objects), (clean(caption),), grounded=grounded)


Named = list[tuple[str, "tuple[int, int] | None", Sequence[Any]]]
"""Words, their characters in the caption, and the masks of each phrase."""


def _groundings(item: Mapping[str, Any], caption: str) -> Named:
    named: Named = []
    for words, value in take(item, "groundings", dict).items():
        span = take(kept(value, f"groundings[{words!r}]", dict), "token_positives", list)
        pair = span[0] if span and isinstance(span[0], list) else span
        numbered = len(pair) == 2 and all(isinstance(one, int) for one in pair)
        if not numbered or not 0 <= pair[0] < pair[1] <= len(caption):
            raise BadItem(f"token_positives of {words!r} is [start, end] in its caption, got {short(span)}")
        named.append((words, (pair[0], pair[1]), take(value, "rle_masks", list)))
    return named


def _refs(item: Mapping[str, Any], caption: str) -> Named:
    named: Named = []
    for ref in take(item, "refs", list):
        words = take(ref, "sentence", str).strip()
        end = phrase_end(caption, words)
        span = None if end is None else (end - len(words), end)
        named.append((words, span, [take(ref, "segmentation", list, dict)]))
    return named


def _add(
    mask: Any, words: str, objects: list[Annotation], size: Size | None, location: str, notes: Notes
) -> int | None:
    """The index of a new object; None with a note where its mask is of no use."""
    captions = (clean(words),) if words else ()
    found = segmentation(mask, size, notes, captions=captions)
    if isinstance(found, Reason):
        notes.drop(found, location, short(words))
        return None
    objects.append(found)
    return len(objects) - 1


class GlammFlickr(Mdetr):
    """MDETR's layout with a mask for each phrase."""

    name = "glamm_flickr"
    about = "GLaMM's flickr_mergedGT_GCG_*.json: MDETR's layout with sam_mask"

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Annotations with sam_mask and tokens_positive."""
        found = {"sam_mask", "tokens_positive"} <= set(peek.first("annotations"))
        return Evidence(0.97, "annotations with sam_mask and tokens_positive") if found else None

    def region(self, item: Mapping[str, Any], size: Size | None, notes: Notes) -> Annotation | Reason | None:
        """An object with its mask."""
        return super().region({**item, "segmentation": item.get("sam_mask")}, size, notes)
