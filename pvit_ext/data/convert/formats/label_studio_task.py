"""Which image a task of Label Studio is about, and where it may lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pvit_ext.data.convert.image_folder import SUFFIXES
from pvit_ext.data.convert.notes import Notes, Reason

SHAPES = ("rectangle", "polygon", "ellipse", "keypoint", "brush")
KINDS = frozenset({*SHAPES, *(f"{shape}labels" for shape in SHAPES)})
"""Kinds of results that are shapes."""


def shapes_of(results: Sequence[Any]) -> list[Mapping[str, Any]]:
    """The results that are shapes."""
    return [one for one in results if isinstance(one, Mapping) and str(one.get("type")) in KINDS]


def image_key(data: Mapping[str, Any], results: Sequence[Any]) -> str | None:
    """The field of a task that holds its image: the one that its first shape names, or the likeliest."""
    named = [str(one.get("to_name")) for one in shapes_of(results)]
    usual = [key for key in ("image", "img", "$undefined$") if data.get(key)]
    texts = [str(key) for key, value in data.items() if isinstance(value, str) and "/" in value]
    keys = [*(key for key in named if _is_image(data.get(key))), *usual[:1], *texts]
    return next((key for key in keys if isinstance(data.get(key), str)), None)


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and PurePosixPath(_path(value)).suffix.lower() in SUFFIXES


def of_image(results: Sequence[Any], data: Mapping[str, Any], key: str, location: str, notes: Notes) -> Sequence[Any]:
    """The results but those of another image of the task, or another page, which are noted.

    Args:
        results: all.
        data: the task's fields.
        key: of the image that is read.
        location: of the task.
        notes: takes the others.
    """
    images = {value for value in data.values() if _is_image(value)}
    shapes = shapes_of(results)
    said = {str(one.get("to_name")) for one in shapes}
    known = len(images) < 2 or len(said) < 2
    others = {
        str(one.get("id"))
        for one in shapes
        if one.get("item_index") or not (known or data.get(str(one.get("to_name"))) == data[key])
    }
    if not others:
        return results
    count = sum(str(one.get("id")) in others for one in shapes)
    unknown = "" if known or said & data.keys() else f", or of it: its to_name is no field ({', '.join(sorted(said))})"
    notes.drop(Reason.INCOMPLETE, location, f"of another image of its task than {key}{unknown}", count)
    return [one for one in results if not (isinstance(one, Mapping) and str(one.get("id")) in others)]


def names_of(given: str, item: Mapping[str, Any]) -> list[str]:
    """Where an image may lie: as it was uploaded, then under its name without the prefix of the upload."""
    path = _path(given)
    file = PurePosixPath(path).name
    upload = PurePosixPath(str(item.get("file_upload") or "")).name
    names = [path, file, upload, *(name[9:] for name in (file, upload) if _has_prefix(name))]
    return list(dict.fromkeys(name for name in names if name))


def _path(given: str) -> str:
    """The path in an address, which may be that of a file of a local storage."""
    try:
        parts = urlsplit(given)
    except ValueError:  # no address
        return given.lstrip("/")
    return parse_qs(parts.query).get("d", [unquote(parts.path)])[0].lstrip("/")


def _has_prefix(name: str) -> bool:
    return name[8:9] == "-" and all(letter in "0123456789abcdef" for letter in name[:8])
