"""Placeholders and keys of other region data sets, which would train as plain text, or not at all, without a word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pvit_ext.prompt import NOT_READ, foreign_tag

_BOXES = '"regions": [[x0, y0, x1, y1], ...] in pixels, one for each <region>'
_SHAPES = '"regions": [{"polygon": [[x, y], ...]}, ...], one for each <region>'
_MASKS = '"regions": [{"mask": "file.png"}, ...] or run lengths, one for each <region>'
_KEYS = {
    **dict.fromkeys(("region", "regions", "rois", "roi", "annotation", "annotations", "objects", "shapes"), _BOXES),
    **dict.fromkeys(("bbox", "bboxes", "box", "boxes", "gt_box", "gt_boxes", "region_boxes", "region_bboxes"), _BOXES),
    **dict.fromkeys(("polygon", "polygons", "point", "points", "scribble", "scribbles"), _SHAPES),
    **dict.fromkeys(("mask", "masks", "segmentation", "segmentations", "rle", "rles", "mask_rle", "mask_rles"), _MASKS),
}
_BOX_WORDS = dict.fromkeys(
    "bbox bboxes box boxes boundingbox boundingboxes gtbbox gtbboxes rect rects region regions roi rois xyxy".split(),
    _BOXES,
)
_OTHER_KEY_WORDS = {
    **dict.fromkeys(
        ("ann", "anns", "annotation", "annotations", "object", "objects", "instances", "detections"), _BOXES
    ),
    **dict.fromkeys(("polygon", "polygons", "scribble", "scribbles", "points"), _SHAPES),
    **dict.fromkeys(("mask", "masks", "segmentation", "segmentations", "rle", "rles"), _MASKS),
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
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
        if (found := foreign_tag(text, answer=number % 2 == 1)) is not None:
            return (
                f"conversations[{number}]: {found[:40]!r} {NOT_READ}; "
                'write <region>, as it stands here, once for each of "regions", in their order'
            )
    return None


def unread_key(value: dict[str, Any]) -> str | None:
    """What is wrong with the first key that holds regions in other data sets; None if there is none.

    Args:
        value: a record without ``regions``.
    """
    for key, item in value.items():
        if key in _READ or item in (None, [], {}, ""):
            continue
        if instead := _KEYS.get(key.lower()) or _by_word(key, item) or (_BOXES if _are_boxes(item) else None):
            return f"the key {key!r} is not read; write {instead}"
    return None


_READ = {"id", "image", "conversations", "regions"}


def _by_word(key: str, item: Any) -> str | None:
    """What to write for a key with a word as in ``gt_bboxes`` and ``boundingBoxes``, whose value may be regions."""
    if not isinstance(item, (list, dict)):
        return None
    nested = isinstance(item, dict) or all(isinstance(one, (list, dict)) for one in item)
    flat = not nested and len(item) == 4 and all(map(_is_number, item))
    words = {word.lower() for word in _WORD.findall(key)} if nested or flat else set()
    known = _BOX_WORDS if flat else _BOX_WORDS | _OTHER_KEY_WORDS
    return next((known[word] for word in sorted(words) if word in known), None)


def _are_boxes(item: Any) -> bool:
    """Whether a value is a list of left, top, right, bottom, whatever its key."""
    return isinstance(item, list) and all(
        isinstance(one, list)
        and len(one) == 4
        and all(map(_is_number, one))
        and 0 <= one[0] < one[2]
        and 0 <= one[1] < one[3]
        for one in item
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def meant_key(value: dict[str, Any], missing: str) -> str:
    """What to add to an error about a missing key: under which name the record seems to have it, or nothing."""
    found = [key for key in value if _RECORD_KEYS.get(key.lower()) == missing or key.lower() == missing != key]
    return f'; it has {found[0]!r}, the key is "{missing}"' if found else ""
