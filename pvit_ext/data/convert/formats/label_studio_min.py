"""Label Studio's JSON-MIN: a row for each annotation, with the fields of its task and the values of each control."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pvit_ext.data.convert.formats.label_studio_task import KINDS, image_key
from pvit_ext.data.convert.notes import Notes

NOT_READ = "answers and other fields that are not read"
"""What they are counted as."""
_NUMBERS = ("points", "x", "y", "width", "height", "radiusX", "radiusY", "rle")
_SIDES = ("original_width", "original_height")
_OF_ROW = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"})
_ANSWERS = frozenset({"text", "choices", "rating", "number"})


def is_by(person: Any, wanted: str) -> bool:
    """Whether an annotation is of the annotator that is asked for.

    Args:
        person: number, name, or an object with ``id`` and ``email``.
        wanted: number or address; empty for anyone.
    """
    known = [person.get(key) for key in ("id", "email")] if isinstance(person, Mapping) else [person]
    return not wanted or wanted in map(str, known)


def rows_left_out(rows: Iterable[tuple[int, Mapping[str, Any]]], wanted: str) -> Iterator[int]:
    """The numbers of the rows that are not taken: of a task's annotations the newest is.

    A task is known by its number and its image: files of several projects may be joined.

    Args:
        rows: with their numbers.
        wanted: see :func:`is_by`.
    """
    newest: dict[str, tuple[str, int]] = {}
    for number, row in rows:
        if row.get("was_cancelled") or not is_by(row.get("annotator"), wanted):
            yield number
        elif row.get("id") is not None:
            found = str(row.get("created_at") or ""), number
            task = f"{row['id']} {row.get(image_key(row, ()) or '')}"
            other = newest.setdefault(task, found)
            if other != found:
                newest[task] = max(found, other)
                yield min(found, other)[1]


def flat_results(item: Mapping[str, Any], fields: Collection[str], notes: Notes) -> list[Any]:
    """The results of a row, as the full export has them.

    One shape of two controls, such as a box and its label, is one result; two of one control are two.

    Args:
        item: the row.
        fields: that are known: the image's.
        notes: counts what is no shape.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    results: list[dict[str, Any]] = []
    for name, value in item.items():
        if name in _OF_ROW or name in fields or value in (None, "", []):
            continue
        for one in value if isinstance(value, list) else [value]:
            kind = _kind(one) if isinstance(one, dict) else None
            if kind is None or _ANSWERS & set(one):
                notes.count(NOT_READ)
            if kind is None:
                continue
            same = found.setdefault(repr([*map(one.get, _NUMBERS), one.get("rotation") or 0]), [])
            result = next((result for result in same if result["controls"].get(name, one) == one), None)
            if result is None:
                result = {"type": kind, "value": {}, "id": str(len(results)), "controls": {}}
                same.append(result)
                results.append(result)
            elif name in result["controls"]:
                notes.count("shapes said twice, kept once")
            result["controls"][name] = one
            result["value"] |= one
            result |= {side: one[side] for side in _SIDES if side in one}
    return results


def _kind(value: Mapping[str, Any]) -> str | None:
    """The kind of a shape: by the key of its labels, else by its numbers; None for what is none."""
    if named := next((key for key in value if key in KINDS), None):
        return named
    if "points" in value:
        return "polygonlabels"
    if {"x", "y", "radiusX", "radiusY"} <= set(value):
        return "ellipselabels"
    return "rectanglelabels" if {"x", "y", "width", "height"} <= set(value) else None
