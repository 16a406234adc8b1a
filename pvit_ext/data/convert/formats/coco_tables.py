"""COCO's tables: images, categories and captions by their ids, of which each has one meaning in a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.fields import clean, short, take
from pvit_ext.data.convert.json_buffer import JsonBuffer, Section

_IMAGE_ID = re.compile(rb'"image_id"[ \t\r\n]*:[ \t\r\n]*(-?\d+|"[^"\\]*")[ \t\r\n]*[,}]')
_STEP = 4096


def entries_by_id(buffer: JsonBuffer, section: Section | None, what: str) -> dict[int, Mapping[str, Any]]:
    """Categories or attributes; of two with one id and one name, the first.

    Args:
        buffer: the file.
        section: the list, None where the file has none.
        what: names an entry in the error.

    Raises:
        SourceError: for an id of two names.
        BadItem: for an entry without an id.
    """
    found: dict[int, Mapping[str, Any]] = {}
    for span in zip(section.starts, section.ends, strict=True) if section else ():
        item = buffer.load(*span)
        number = take(item, "id", int)
        if found.setdefault(number, item) is not item:
            check_same(buffer.path, f"{what} id {number}", found[number], item)
    return found


def rows_by_id(buffer: JsonBuffer, images: Section) -> tuple[dict[int | str, int], set[int]]:
    """The row of each image, and the rows of entries that say an earlier one again.

    Raises:
        SourceError: for an id of two images.
        BadItem: for an image without an id.
    """
    known: dict[int | str, int] = {}
    again: set[int] = set()
    for row, (start, end) in enumerate(zip(images.starts, images.ends, strict=True)):
        item = buffer.load(start, end)
        key = take(item, "id", int, str)
        if (first := known.setdefault(key, row)) != row:
            other = buffer.load(images.starts[first], images.ends[first])
            check_same(buffer.path, f"image id {short(key)}", other, item)
            again.add(row)
    return known, again


def check_same(path: Path, what: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Refuse two entries of one id that are not of one thing: other names, files, sizes or captions.

    Args:
        path: of the file.
        what: names the id in the error.
        first, second: the entries.

    Raises:
        SourceError: naming what differs.
    """
    by_name = all(item.get("file_name") for item in (first, second))
    for key in ("name", "file_name" if by_name else "coco_url", "width", "height", "caption"):
        values = [item.get(key) for item in (first, second)]
        if key == "coco_url":  # one may have its file's name instead
            values = [str(item.get("file_name") or item.get(key) or "").split("/")[-1] for item in (first, second)]
        if None not in values and values[0] != values[1]:
            raise SourceError(
                f"{path}: {what} is given to two entries, with {key} {short(values[0])} and {short(values[1])}; "
                "renumber the ids of files before they are joined"
            )


def image_ids(buffer: JsonBuffer, annotations: Section) -> Iterator[int | str | None]:
    """The image_id of each annotation; it is checked when the annotation is read."""
    for first in range(0, len(annotations.starts), _STEP):
        starts, ends = annotations.starts[first : first + _STEP], annotations.ends[first : first + _STEP]
        block = buffer.read(starts[0], ends[-1])
        for start, end in zip(starts, ends, strict=True):
            found = _IMAGE_ID.search(block, start - starts[0], end - starts[0])
            yield _plain_id(found[1]) if found else None


def captions_by_image(path: Path) -> tuple[dict[int | str, list[str]], int]:
    """The captions of a captions_*.json by image id, and how many others are captions of a region.

    Raises:
        SourceError: for a file of another kind.
    """
    buffer = JsonBuffer(path)
    if (spans := buffer.sections().get("annotations")) is None:
        raise SourceError(f"captions={path} holds no annotations; give a captions_*.json")
    found: dict[int | str, list[str]] = {}
    of_regions = 0
    for start, end in zip(spans.starts, spans.ends, strict=True):
        item = buffer.load(start, end)
        text = clean(take(item, "caption", str))
        if is_of_image(item):
            found.setdefault(take(item, "image_id", int, str), []).append(text)
        else:
            of_regions += 1
    return found, of_regions


def is_of_image(item: Mapping[str, Any]) -> bool:
    """Whether an annotation is a caption of its whole image: it has no region."""
    return "caption" in item and "bbox" not in item and not item.get("segmentation")


def _plain_id(raw: bytes) -> int | str:
    return raw[1:-1].decode("utf-8", "replace") if raw.startswith(b'"') else int(raw)
