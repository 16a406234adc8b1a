"""What a file that is no list of records seems to be, so that one sentence can say it."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from pvit_ext.data.json_records import JsonFileError, open_utf8

_HEAD = 4096
_MOST_BYTES = 1 << 29
"""Larger files are not read a second time just to say what they are."""
_MAGIC = {
    b"PK\x03\x04": "a zip archive; unpack it", b"PAR1": "a Parquet file", b"\x1f\x8b": "a gzip file; unpack it",
    b"\x89PNG": "an image", b"\xff\xd8\xff": "an image", b"SQLite": "a database", b"ARROW1": "an Arrow file",
}  # fmt: skip
_FORMATS = (
    ({"images", "annotations"}, "COCO's annotations"),
    ({"image_id", "bbox"}, "COCO's annotations or results"),
    ({"shapes", "imagePath"}, "a file of LabelMe"),
    ({"data", "annotations"}, "an export of Label Studio"),
    ({"image_id", "regions"}, "Visual Genome's regions"),
    ({"image_id", "objects"}, "Visual Genome's objects"),
    ({"train", "names"}, "YOLO's data.yaml"),
)


def known_format(value: Any) -> str | None:
    """The annotation format to which an object's keys belong, and what reads it; None for none that is known."""
    keys = set(value) if isinstance(value, dict) else set()
    found = next((name for wanted, name in _FORMATS if wanted <= keys), None)
    return f"{found}; `pvit-ext data convert` makes records of it" if found else None


def seems_to_be(path: str | PathLike[str], first: Any) -> str:
    """What the file is, in words.

    Args:
        path: of a file in which nothing looks like a record.
        first: the value of its first record, or an error.
    """
    with open(path, "rb") as stream:
        head = stream.read(_HEAD)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if isinstance(first, dict):
        return known_format(first) or f"a list of objects with the keys {_keys(first)}"
    if not isinstance(first, Exception):
        return f"a list of {type(first).__name__}"
    return _of_object(_json(path)) or _of_text(head)


def _json(path: str | PathLike[str]) -> Any:
    if Path(path).stat().st_size > _MOST_BYTES:
        return None
    try:
        with open_utf8(path) as stream:
            return json.loads(stream.read().decode("utf-8-sig"))
    except (JsonFileError, ValueError, RecursionError):
        return None


def _of_object(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    if "conversations" in value:
        return "one record over several lines; put it into [ ]"
    if found := known_format(value):
        return found
    for key, item in value.items():
        if isinstance(item, list) and item and isinstance(item[0], dict) and "conversations" in item[0]:
            return f"an object with the records under {key!r}; write that list alone"
        if isinstance(item, dict) and "conversations" in item:
            return "a map from names to records; write its values as a list"
    return f"one JSON object with the keys {_keys(value)}"


def _of_text(head: bytes) -> str:
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    first = text.split("\n", 1)[0].strip()
    if text.startswith("<"):
        return "XML, as of Pascal VOC or CVAT"
    if first and all(part.replace(".", "", 1).lstrip("-").isdigit() for part in first.split()):
        return "a label file of YOLO"
    if text.startswith(("{", "[")):
        return "broken JSON"
    if first.count("\t") >= 1 or first.count(",") >= 1:
        return f"a table ({'TSV' if first.count(chr(9)) else 'CSV'})"
    return "YAML" if first.startswith("---") or first.endswith(":") else "text that is no JSON"


def _keys(value: dict[str, Any]) -> str:
    text = ", ".join(str(key)[:20] for key in list(value)[:6])
    return text + (", ..." if len(value) > 6 else "")
