"""Placeholders and keys of other region data sets, which would train as plain text, or not at all, without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pvit_ext.data.convert.annotation import SOURCE_KEY
from pvit_ext.prompt import NOT_READ, foreign_tag, foreign_tag_of_text

_BOXES = '"regions": [[x0, y0, x1, y1], ...] in pixels, one for each <region>'
_SHAPES = '"regions": [{"polygon": [[x, y], ...]}, ...], one for each <region>'
_MASKS = '"regions": [{"mask": "file.png"}, ...] or run lengths, one for each <region>'
_KEYS = {
    **dict.fromkeys(("region", "regions", "rois", "roi", "annotation", "annotations", "objects", "shapes"), _BOXES),
    **dict.fromkeys(("bbox", "bboxes", "box", "boxes", "gt_box", "gt_boxes", "region_boxes", "region_bboxes"), _BOXES),
    **dict.fromkeys(("polygon", "polygons", "point", "points", "scribble", "scribbles"), _SHAPES),
    **dict.fromkeys(("mask", "masks", "segmentation", "segmentations", "rle", "rles", "mask_rle", "mask_rles"), _MASKS),
}
IMAGE_KEYS = (
    "image", "images", "img", "imgs", "image_path", "image_paths", "img_path", "img_paths", "image_file", "image_files",
    "img_file", "image_name", "image_names", "img_name", "file_name", "filename", "image_id",
)  # fmt: skip
"""Under which data sets keep an image or its name, the likeliest first."""
_IMAGE_WORDS = frozenset(("image", "images", "img", "imgs", "picture", "photo"))
_FILE_KEYS = frozenset(("file", "files", "file_name", "file_names", "filename", "file_path", "filepath"))
_URL_WORDS = frozenset(("url", "urls", "uri", "uris"))
_IMAGE_NAME = re.compile(r".\.(?:jpe?g|png|webp|bmp|gif|tiff?)$|^data:image/", re.IGNORECASE)
_URL = re.compile(r"\w+://")
_BOX_WORDS = dict.fromkeys(
    "bbox bboxes box boxes boundingbox boundingboxes gtbbox gtbboxes rect rects region regions roi rois xyxy".split(),
    _BOXES,
)
_COORDINATES = frozenset(("coord", "coords", "coordinates"))
_FLAT_WORDS = _BOX_WORDS | dict.fromkeys((*_COORDINATES, "xywh", "ltrb"), _BOXES)
"""Words for four numbers; coordinates of another kind are a pair, or named."""
_OF_ANOTHER_KIND = frozenset(
    "size sizes score scores gps count counts confidence confidences probs probabilities".split()
)
"""With such a word in a key, or in that around it, numbers are no region."""
_CORNERS = frozenset(
    "x y w h width height x0 y0 x1 y1 x2 y2 xmin ymin xmax ymax x_min y_min x_max y_max left top right bottom".split()
)
_SHAPE_WORDS = {
    **dict.fromkeys(("polygon", "polygons", "scribble", "scribbles", "points"), _SHAPES),
    **dict.fromkeys(("mask", "masks", "segmentation", "segmentations", "rle", "rles"), _MASKS),
}
_INSIDE = (_BOX_WORDS | _SHAPE_WORDS).keys() - {"region", "regions"}
_OTHER_KEY_WORDS = {
    **dict.fromkeys(
        ("ann", "anns", "annotation", "annotations", "object", "objects", "instances", "detections"), _BOXES
    ),
    **_SHAPE_WORDS,
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_RECORD_KEYS = {
    **dict.fromkeys(frozenset(IMAGE_KEYS) - _FILE_KEYS - {"image_id"}, "image"),
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


def unread_placeholder_of_text(turns: Sequence[str]) -> str | None:
    """What is wrong with the first question of a record without an image that asks about a region; None if none does.

    Args:
        turns: question and answer in turn. Tags around something, and answers, are code.
    """
    for number, text in enumerate(turns[::2]):
        if (found := foreign_tag_of_text(text)) is not None:
            return (
                f"conversations[{2 * number}]: {found!r} {NOT_READ}, and the record has no image; "
                'give "image" and "regions" and write <region>, or write it in capitals where it is ordinary text'
            )
    return None


def unread_key(value: dict[str, Any]) -> str | None:
    """What is wrong with the first key that holds regions in other data sets; None if there is none.

    Args:
        value: a record without ``regions``.
    """
    for key, item in value.items():
        if key in _READ or item in (None, [], {}, "") or _is_of_another_kind(key):
            continue
        known = _KEYS.get(key.lower()) if _may_hold(key, item) else None
        if instead := known or _by_word(key, item) or (_BOXES if _are_boxes(item) else None):
            return f"the key {key!r} is not read; write {instead}"
        for inner, one in _inside(item) if key != SOURCE_KEY else ():
            if not one or _is_of_another_kind(inner):
                continue
            if instead := _by_word_inside(inner, one) or (_BOXES if _are_boxes(one) else None):
                return f"the key {inner!r} in {key!r} is not read; write {instead}"
    return None


_READ = {"id", "image", "conversations", "regions"}


def _inside(item: Any) -> Iterator[tuple[str, Any]]:
    """The keys and values of an object, or of the first in a list, such as ``meta``."""
    first = item[0] if isinstance(item, list) and item else item
    yield from first.items() if isinstance(first, dict) else ()


def _words(key: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(key)}


def _is_of_another_kind(key: str) -> bool:
    return not _words(key).isdisjoint(_OF_ANOTHER_KIND)


def _may_hold(key: str, item: Any) -> bool:
    """Whether what a key named like ``region`` has may be regions; ``"region": "Europe"`` is none."""
    if isinstance(item, str):
        return "rle" in key.lower() or bool(_IMAGE_NAME.search(item)) or len(_DIGITS.findall(item)) > 1
    return isinstance(item, (list, dict))


_DIGITS = re.compile(r"\d+")


def _by_word_inside(key: str, item: Any) -> str | None:
    """:func:`_by_word` for a key of an object such as ``meta``, in which other words may mean anything."""
    if _is_flat(item):
        return _by_word(key, item)
    if isinstance(item, dict):
        first = next(iter(item.values()))
        found = (
            "counts" in item or len(_CORNERS & item.keys()) > 1 or _is_box(first) or bool(first and _are_boxes(first))
        )
    else:
        found = _begins_with_a_number(item)
    return _by_word(key, item) if found and _words(key) & _INSIDE else None


def _begins_with_a_number(item: Any) -> bool:
    while isinstance(item, (list, dict)) and item:
        item = item[0] if isinstance(item, list) else next(iter(item.values()))
    return _is_number(item)


def _by_word(key: str, item: Any) -> str | None:
    """What to write for a key with a word as in ``gt_bboxes`` and ``boundingBoxes``, whose value may be regions."""
    if not isinstance(item, (list, dict)):
        return None
    nested = isinstance(item, dict) or all(isinstance(one, (list, dict)) for one in item)
    words = _words(key)
    if _is_flat(item):  # corners, or left, top, width, height where the word says a box
        is_box = _is_box(item) or (not words & _COORDINATES and min(item) >= 0 and min(item[2:]) > 0)
        known = _FLAT_WORDS if is_box else {}
    else:
        known = _BOX_WORDS | _OTHER_KEY_WORDS if nested else {}
    return next((known[word] for word in sorted(words) if word in known), None)


def _are_boxes(item: Any) -> bool:
    """Whether a value is a list of left, top, right, bottom, whatever its key."""
    return isinstance(item, list) and all(map(_is_box, item))


def _is_box(item: Any) -> bool:
    return _is_flat(item) and 0 <= item[0] < item[2] and 0 <= item[1] < item[3]


def _is_flat(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 4 and all(map(_is_number, item))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def meant_key(value: dict[str, Any], missing: str) -> str:
    """What to add to an error about a missing key: under which name the record seems to have it, or nothing."""
    found = [key for key, item in value.items() if item not in (None, [], {}, "") and _means(key, item, missing)]
    if not found:
        return ""
    if missing == "image":
        return f'its image stands under {found[0]!r}; the key is "image"'
    return f'; it has {found[0]!r}, the key is "{missing}"'


def _means(key: str, item: Any, missing: str) -> bool:
    """Whether a key means another one: by its name, and one for an image by what it holds too."""
    is_known = _RECORD_KEYS.get(key.lower()) == missing or key.lower() == missing != key
    if missing != "image":
        return is_known
    words = _words(key)
    if not (is_known or words & _IMAGE_WORDS or key.lower() in _FILE_KEYS):
        return False
    first = item[0] if isinstance(item, list) else item
    if isinstance(first, str):
        is_url = bool(is_known or (words & _IMAGE_WORDS and words & _URL_WORDS)) and _URL.match(first) is not None
        return is_url or _IMAGE_NAME.search(first) is not None
    return is_known and isinstance(first, dict) and bool(first)
