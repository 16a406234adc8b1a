"""Placeholders and keys of other region data sets, which would train as plain text, or not at all, without a word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_OURS = r"(?!</?[Rr]egion>)"  # pvit_ext.prompt reads these, or says what is wrong with them
_TAG = r"(?i:(?:<|&lt;)[/|]?\s?(?:im(?:age|g)[ _-]?)?(?:{words})(?:[\d\s_:#-][\w\s:#-]{{0,40}})?[/|]?(?:>|&gt;))"
_REGION_WORDS = r"regions?|bbox(?:es)?|boxes|rois?|spi"
_OTHER_WORDS = (
    r"box|mask|masks|ref|point|points|polygon|scribble|quad|objects?|objs?|loc|pos|vp|visual[ _-]?prompt|prompt"
)
_IN_ANSWERS = re.compile(_OURS + _TAG.format(words=_REGION_WORDS))
_IN_QUESTIONS = re.compile(_OURS + _TAG.format(words=f"{_REGION_WORDS}|{_OTHER_WORDS}"))

_BOXES = '"regions": [[x0, y0, x1, y1], ...] in pixels, one for each <region>'
_SHAPES = '"regions": [{"polygon": [[x, y], ...]}, ...], one for each <region>'
_MASKS = '"regions": [{"mask": "file.png"}, ...] or run lengths, one for each <region>'
_KEYS = {
    **dict.fromkeys(("region", "regions", "rois", "roi", "annotation", "annotations", "objects", "shapes"), _BOXES),
    **dict.fromkeys(("bbox", "bboxes", "box", "boxes", "gt_box", "gt_boxes", "region_boxes", "region_bboxes"), _BOXES),
    **dict.fromkeys(("polygon", "polygons", "point", "points", "scribble", "scribbles"), _SHAPES),
    **dict.fromkeys(("mask", "masks", "segmentation", "segmentations", "rle", "rles", "mask_rle", "mask_rles"), _MASKS),
}
_RECORD_KEYS = {
    **dict.fromkeys(("images", "img", "image_path", "image_file", "image_name", "file_name", "img_path"), "image"),
    **dict.fromkeys(("conversation", "messages", "dialog", "turns", "qa", "text"), "conversations"),
}


def unread_placeholder(turns: Sequence[str]) -> str | None:
    """What is wrong with the first tag that means a region elsewhere; None if there is none.

    Args:
        turns: question and answer in turn, of a record with an image. ``<box>``, ``<ref>`` and ``<mask>`` are ordinary
            text in an answer, as in one that shows code.
    """
    for number, text in enumerate(turns):
        if ("<" in text or "&lt;" in text) and (found := (_IN_ANSWERS if number % 2 else _IN_QUESTIONS).search(text)):
            return (
                f"conversations[{number}]: {found[0][:40]!r} is text that no encoder reads; "
                'write <region>, as it stands here, once for each of "regions", in their order'
            )
    return None


def unread_key(value: dict[str, Any]) -> str | None:
    """What is wrong with the first key that holds regions in other data sets; None if there is none.

    Args:
        value: a record without ``regions``.
    """
    for key, item in value.items():
        instead = _KEYS.get(key.lower())
        if instead and item not in (None, [], {}, "") and key != "regions":
            return f"the key {key!r} is not read; write {instead}"
    return None


def meant_key(value: dict[str, Any], missing: str) -> str:
    """What to add to an error about a missing key: under which name the record seems to have it, or nothing."""
    found = [key for key in value if _RECORD_KEYS.get(key.lower()) == missing or key.lower() == missing != key]
    return f'; it has {found[0]!r}, the key is "{missing}"' if found else ""
